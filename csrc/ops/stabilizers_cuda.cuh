// Symmetry operations on the device: a warp per molecule (ops/stabilizers_warp.cuh), and as many warps as scratch
// memory allows. Torch-free: raw pointers and gpu.h, so that the same kernels run under the SIMT shim.
//
// Count, then fill: the first pass finds operations and keeps only how many; the second finds them again and writes
// them where they belong, except of molecules that have the identity alone, whose operations need no search.
#pragma once

#include "ops/stabilizers_warp.cuh"

namespace symkern::stabilizers_cuda {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr size_t kScratch = size_t{256} << 20;  // for all warps together, unless one alone needs more
constexpr unsigned long long kNoProblem = ~0ull;

// Per molecule; counts are of operations and of entries of permutations.
template <class T>
struct Fixed {
  int64_t *counts, *entries, *problem_value;
  int64_t *orbits, *order, *group, *rank;
  T *centroid, *axis, *margin;
  bool *closed, *ambiguous;
  unsigned long long* status;  // lowest molecule with a problem * 8 + the problem
};

template <class T>
struct Ragged {
  const int64_t *op_ptr, *entry_ptr;  // (B + 1,)
  T *operations, *residuals;
  int64_t *permutations, *perm_ptr;
};

struct Summary {
  unsigned long long status;
  int64_t operations, entries;
};

// ---- output ---------------------------------------------------------------------------------------------------------

template <class T, int BUG>
SYMKERN_DEVICE void write_fixed(const Search<T, BUG>& s, const Fixed<T>& out, int64_t b) {
  const bool fine = s.problem == SymmetryProblem::none;
  const int64_t operations = !fine ? 0 : s.linear ? s.linear_operations() : s.num_chosen;
  if (gpu::lane() == 0) {
    out.counts[b] = operations;
    out.entries[b] = operations * s.n;
    out.problem_value[b] = s.problem_value;
    out.order[b] = s.rank > 1 ? operations : 0;
    out.group[b] = s.group;
    out.rank[b] = s.rank;
    for (int c = 0; c < 3; ++c) {
      out.centroid[3 * b + c] = static_cast<T>(s.centroid[c]);
      out.axis[3 * b + c] = static_cast<T>(s.axis[c]);
    }
    out.margin[b] = static_cast<T>(s.margin);
    out.closed[b] = s.closed;
    out.ambiguous[b] = s.ambiguous;
    if (!fine) atomicMin(out.status, static_cast<unsigned long long>(b) * 8 + static_cast<unsigned>(s.problem));
  }
  for (int i = gpu::lane(); fine && i < s.n; i += 32) {
    out.orbits[s.first + i] = s.first + (s.linear && i < s.match[i] ? i : s.match[i]);
  }
}

template <class T>
SYMKERN_DEVICE void write_identity(const Ragged<T>& out, int64_t b, int64_t first, int64_t n) {
  const int64_t at = out.op_ptr[b], entry = out.entry_ptr[b];
  for (int c = gpu::lane(); c < 9; c += 32) out.operations[9 * at + c] = static_cast<T>(c % 4 == 0);
  if (gpu::lane() == 0) {
    out.residuals[at] = 0;
    out.perm_ptr[at + 1] = entry + n;
  }
  for (int64_t i = gpu::lane(); i < n; i += 32) out.permutations[entry + i] = first + i;
}

template <class T, int BUG>
SYMKERN_DEVICE void write_operations(const Search<T, BUG>& s, const Ragged<T>& out, int64_t b) {
  const int64_t at = out.op_ptr[b], entry = out.entry_ptr[b], n = s.n;
  for (int64_t k = gpu::lane(); k < s.num_chosen; k += 32) {
    const int64_t from = s.chosen[k];
    for (int c = 0; c < 9; ++c) out.operations[9 * (at + k) + c] = static_cast<T>(s.matrices[9 * from + c]);
    out.residuals[at + k] = static_cast<T>(s.residuals[from]);
    out.perm_ptr[at + k + 1] = entry + (k + 1) * n;
  }
  for (int k = 0; k < s.num_chosen; ++k) {
    const int32_t* p = s.permutations + s.chosen[k] * n;
    for (int64_t i = gpu::lane(); i < n; i += 32) out.permutations[entry + k * n + i] = s.first + p[i];
  }
}

// Operation k of a linear molecule: the host's order, without storing any.
template <class T, int BUG>
SYMKERN_DEVICE void write_linear(const Search<T, BUG>& s, const Ragged<T>& out, int64_t b) {
  const int64_t at = out.op_ptr[b], entry = out.entry_ptr[b], n = s.n, samples = s.in.samples;
  const int64_t each = samples > 0 ? 2 * samples : 1, all = s.linear_operations();
  for (int64_t q = gpu::lane(); q < all; q += 32) {
    const bool inverted = q >= each;
    const int64_t k = inverted ? q - each : q;
    double r[9], worst = 0;
    for (int c = 0; c < 9; ++c) r[c] = c % 4 == 0 ? (inverted ? -1 : 1) : 0;
    if (samples > 0 && k > 0) linear_operation(s.axis, k, samples, inverted, r);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = inverted ? s.match[i] : i;
      const double d = residual_sq(r, s.y + 3 * i, s.y + 3 * j);
      if (d > worst) worst = d;
      out.permutations[entry + q * n + i] = s.first + j;
    }
    for (int c = 0; c < 9; ++c) out.operations[9 * (at + q) + c] = static_cast<T>(r[c]);
    out.residuals[at + q] = static_cast<T>(inverted && samples == 0 ? s.residual : sqrt(worst));
    out.perm_ptr[at + q + 1] = entry + (q + 1) * n;
  }
}

// FILL: write ragged results; else what has a fixed size, and the counts.
template <bool FILL, int BUG, class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads, 2)
    find(Input<T> in, char* scratch, size_t bytes, int64_t workers, Fixed<T> fixed, Ragged<T> ragged) {
  const int64_t worker = blockIdx.x * static_cast<int64_t>(kWarps) + gpu::warp();
  if (worker >= workers) return;
  for (int64_t b = worker; b < in.molecules; b += workers) {
    const int64_t first = in.ptr[b], atoms = in.ptr[b + 1] - first;
    if (FILL && ragged.op_ptr[b + 1] - ragged.op_ptr[b] == 1) {
      write_identity(ragged, b, first, atoms);
      continue;
    }
    Search<T, BUG> search(in, scratch + static_cast<size_t>(worker) * bytes, first, atoms);
    search.run();
    if (!FILL) {
      write_fixed(search, fixed, b);
    } else if (search.linear) {
      write_linear(search, ragged, b);
    } else {
      write_operations(search, ragged, b);
    }
    __syncwarp();
  }
}

SYMKERN_KERNEL summarize(int64_t molecules, const int64_t* op_ptr, const int64_t* entry_ptr,
                         const unsigned long long* status, Summary* out) {
  if (threadIdx.x == 0) {
    out->status = *status;
    out->operations = op_ptr[molecules];
    out->entries = entry_ptr[molecules];
  }
}

// memory(bytes) returns scratch that lives until the stream is done with it; allocate(operations, entries) the arrays
// of the result. `fixed` needs no counts, entries, problem_value, status: they are scratch. Waits for the device once,
// for the sizes. After a problem nothing is allocated; `fixed.problem_value` has its value.
template <int BUG = kNone, class T, class Memory, class Allocate>
Summary find_stabilizers(const Input<T>& in, int64_t max_atoms, Fixed<T>& fixed, int64_t* op_ptr, const Memory& memory,
                         const Allocate& allocate, gpu::Stream stream) {
  const int64_t molecules = in.molecules;
  const auto longs = [&](int64_t count) { return static_cast<int64_t*>(memory(static_cast<size_t>(count) * 8)); };
  fixed.counts = longs(molecules + 1);
  fixed.entries = longs(molecules + 1);
  fixed.problem_value = longs(molecules + 1);
  fixed.status = static_cast<unsigned long long*>(memory(8));
  int64_t* entry_ptr = longs(molecules + 1);
  auto* summary = static_cast<Summary*>(memory(sizeof(Summary)));
  gpu::memset_async(fixed.status, 0xff, 8, stream);
  gpu::memset_async(fixed.counts, 0, static_cast<size_t>(molecules + 1) * 8, stream);
  gpu::memset_async(fixed.entries, 0, static_cast<size_t>(molecules + 1) * 8, stream);

  const size_t bytes = scratch_bytes(max_atoms);
  int64_t workers = static_cast<int64_t>(kScratch / bytes) > 1 ? static_cast<int64_t>(kScratch / bytes) : 1;
  if (workers > molecules) workers = molecules;
  const int64_t blocks = (workers + kWarps - 1) / kWarps;
  char* scratch = static_cast<char*>(memory(bytes * static_cast<size_t>(workers > 0 ? workers : 1)));
  gpu::launch(find<false, BUG, T>, blocks, kThreads, 0, stream, in, scratch, bytes, workers, fixed, Ragged<T>{});
  size_t sum_bytes = 0;
  gpu::exclusive_sum(nullptr, sum_bytes, fixed.counts, op_ptr, molecules + 1, stream);
  void* sums = memory(sum_bytes);
  gpu::exclusive_sum(sums, sum_bytes, fixed.counts, op_ptr, molecules + 1, stream);
  gpu::exclusive_sum(sums, sum_bytes, fixed.entries, entry_ptr, molecules + 1, stream);
  gpu::launch(summarize, 1, 32, 0, stream, molecules, op_ptr, entry_ptr, fixed.status, summary);
  Summary found{};
  gpu::copy_to_host(&found, summary, sizeof(found), stream);
  if (found.status != kNoProblem) return found;

  Ragged<T> out = allocate(found.operations, found.entries);
  out.op_ptr = op_ptr;
  out.entry_ptr = entry_ptr;
  gpu::memset_async(out.perm_ptr, 0, 8, stream);
  gpu::launch(find<true, BUG, T>, blocks, kThreads, 0, stream, in, scratch, bytes, workers, fixed, out);
  return found;
}

}  // namespace symkern::stabilizers_cuda
