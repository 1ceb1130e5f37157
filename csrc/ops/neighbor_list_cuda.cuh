// Neighbor lists on the device. Formula and predicate are those of the host (core/vec3.h, core/lattice.h); only the
// schedule differs. Torch-free: raw pointers and gpu.h, so that the same kernels run under the SIMT shim.
//
// Two schedules, both "count, scan, fill" with one warp per receiver:
//   molecules (no cell, small)  lanes over the atoms of the structure, in order: rows come out sorted.
//   grid (everything else)      atoms hashed into bins of about one cutoff; lanes over the atoms of the bins around;
//   rows
//                               are then sorted by rank. Bins are virtual (hashed), so no bounding box is needed, and a
//                               bin's images follow from its coordinates, so any cell works, smaller than the cutoff
//                               too.
//
// Every atom keeps its fp32 place relative to the centre of its own bin, in units of the cutoff: precise for inputs of
// any magnitude. Pairs within rounding of the cutoff are decided in fp64 from the original positions, as on the host.
#pragma once

#include "core/gpu.h"
#include "core/lattice.h"
#include "ops/neighbor_band.h"
#include "ops/neighbor_problem.h"

namespace symkern::neighbor_cuda {

constexpr int kThreads = 128;                    // 4 receivers in a block
constexpr int64_t kMoleculeLimit = 768;          // mean structure size up to which all pairs are tested
constexpr int64_t kMaxAtoms = int64_t{1} << 28;  // bits of the sender in a row key
constexpr double kBinSlack = 1e-5;
constexpr int kShiftBits = 12, kShiftLimit = 1 << (kShiftBits - 1);

template <class T>
struct Input {
  const T* positions;  // (N, 3)
  int64_t num_atoms;
  const int64_t* batch;    // (N), or nullptr
  const int64_t* ptr;      // (B + 1), or nullptr
  int64_t num_structures;  // 0 if known from batch only
  const T* cell;           // (3, 3) or (B, 3, 3), or nullptr
  bool cell_per_structure;
  const bool* pbc;
  bool pbc_per_structure;
  int pbc_mask;
  double cutoff;
  bool full, self_loops;

  SYMKERN_HD int64_t num_lattices() const { return cell_per_structure || pbc_per_structure ? num_structures : 1; }
};

struct Owner {
  int32_t first, last, lattice;  // atoms [first, last) of the structure; which lattice it has
};

// A lattice cut into bins. Non-periodic directions have unbounded bin coordinates.
struct BinnedLattice {
  Lattice lattice;
  int32_t bins[3];         // along periodic directions
  int32_t reach[3];        // bins to look at on either side
  Vec3 step[3];            // from bin to bin, Å
  float x[3], y[3], z[3];  // the same in cutoffs
  Band band;
};

struct Slot {
  float x, y, z;  // from the centre of the bin, in cutoffs
  int32_t atom;
};

struct Bin {
  int32_t c[3];
  int32_t first;  // structure, by its first atom
};

struct Grid {
  const Owner* owners;  // by atom
  const BinnedLattice* lattices;
  const Int3* home;             // by atom: shift into the cell, in units of the given cell
  const Slot* slots;            // sorted by hash
  const Bin* bins;              // by slot
  const int32_t* bucket_begin;  // by hash
  const int32_t* bucket_end;
  uint32_t buckets;
};

SYMKERN_DEVICE void report(unsigned long long* status, Problem problem, int64_t index) {
  // smallest code, then smallest index: the same error whatever the order of threads
  atomicMin(status, (static_cast<unsigned long long>(problem) << 48) | static_cast<unsigned long long>(index));
}

// x-neighbors are neighbors in the table, so that the three bins of a row usually share cache lines
SYMKERN_HD uint32_t hash_bin(int32_t x, int32_t y, int32_t z, int32_t first, uint32_t buckets) {
  const uint32_t h = static_cast<uint32_t>(x) + 73856093u * static_cast<uint32_t>(y) +
                     19349663u * static_cast<uint32_t>(z) + 83492791u * static_cast<uint32_t>(first);
  return h % buckets;
}

SYMKERN_HD bool keeps(bool full, bool self_loops, int64_t i, int64_t j, Int3 s) {
  const bool home = s.x == 0 && s.y == 0 && s.z == 0;
  if (i == j && home) return self_loops;
  if (full || j > i) return true;
  return i == j && (s.x > 0 || (s.x == 0 && (s.y > 0 || (s.y == 0 && s.z > 0))));
}

// ---- structures -----------------------------------------------------------------------------------------------------

template <class T>
SYMKERN_KERNEL check_ptr(Input<T> in, unsigned long long* status) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; b <= in.num_structures; b += stride) {
    if (b == 0 && in.ptr[0] != 0) report(status, Problem::ptr_start, 0);
    if (b > 0 && in.ptr[b] < in.ptr[b - 1]) report(status, Problem::ptr_decreases, b);
    if (b == in.num_structures && in.ptr[b] != in.num_atoms) report(status, Problem::ptr_end, b);
  }
}

// First index in [0, n) whose value is not less than (or, with `above`, is greater than) x.
SYMKERN_HD int64_t bound(const int64_t* values, int64_t n, int64_t x, bool above) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (values[middle] < x || (above && values[middle] == x)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <class T>
SYMKERN_KERNEL find_owners(Input<T> in, Owner* owners, unsigned long long* status) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < in.num_atoms; i += stride) {
    int64_t first = 0, last = in.num_atoms, structure = 0;
    if (in.batch != nullptr) {
      structure = in.batch[i];
      if (structure < 0) report(status, Problem::batch_negative, i);
      if (i > 0 && structure < in.batch[i - 1]) report(status, Problem::batch_unsorted, i);
      if (in.num_structures > 0 && structure >= in.num_structures) report(status, Problem::batch_structure, i);
      first = bound(in.batch, in.num_atoms, structure, false);
      last = bound(in.batch, in.num_atoms, structure, true);
    } else if (in.ptr != nullptr) {
      structure = bound(in.ptr, in.num_structures + 1, i, true) - 1;
      structure = structure >= in.num_structures ? in.num_structures - 1 : structure;
      structure = structure < 0 ? 0 : structure;
      first = in.ptr[structure];
      last = in.ptr[structure + 1];
    }
    // what follows stays in bounds even where the input was wrong
    first = first < 0 || first > i ? i : first;
    last = last > in.num_atoms ? in.num_atoms : last <= i ? i + 1 : last;
    int64_t lattice = in.num_lattices() > 1 ? structure : 0;
    if (lattice < 0 || lattice >= in.num_lattices()) lattice = 0;
    owners[i] = {static_cast<int32_t>(first), static_cast<int32_t>(last), static_cast<int32_t>(lattice)};
    const Vec3 r = load_vec3(in.positions + 3 * i);
    if (!(r.x - r.x == 0 && r.y - r.y == 0 && r.z - r.z == 0)) report(status, Problem::not_finite, i);
  }
}

// ---- molecules: all pairs, rows in order
// ------------------------------------------------------------------------------

template <class T>
SYMKERN_DEVICE bool molecule_pair(const Input<T>& in, Vec3 ri, int64_t j) {
  const Mat3 none{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
  return pair_distance_sq(ri, load_vec3(in.positions + 3 * j), {0, 0, 0}, none) < in.cutoff * in.cutoff;
}

// fp32 positions: their differences are exact to 2^-24, so a filter in fp32 leaves next to nothing for fp64.
SYMKERN_DEVICE bool molecule_pair(const Input<float>& in, Vec3 ri, int64_t j) {
  const float scale = static_cast<float>(1 / in.cutoff);
  const float x = (in.positions[3 * j] - static_cast<float>(ri.x)) * scale;
  const float y = (in.positions[3 * j + 1] - static_cast<float>(ri.y)) * scale;
  const float z = (in.positions[3 * j + 2] - static_cast<float>(ri.z)) * scale;
  const float d2 = x * x + y * y + z * z;
  if (d2 < 1 - 0x1p-18f) return true;
  if (d2 > 1 + 0x1p-18f) return false;
  return molecule_pair<float>(in, ri, j);
}

// counts != nullptr: count. Otherwise fill rows.
template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads) scan_molecules(Input<T> in, const Owner* owners, int64_t* counts,
                                                       const int64_t* row_ptr, int64_t* senders, int64_t* receivers) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const unsigned before = (1u << gpu::lane()) - 1u;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + gpu::warp(); i < in.num_atoms; i += warps) {
    const Owner owner = owners[i];
    const Vec3 ri = load_vec3(in.positions + 3 * i);
    int64_t edge = counts != nullptr ? 0 : row_ptr[i];
    const int64_t end = counts != nullptr ? 0 : row_ptr[i + 1];  // rows are empty after a problem
    for (int64_t base = in.full ? owner.first : i / 32 * 32; base < owner.last; base += 32) {
      const int64_t j = base + gpu::lane();
      const bool hit = j >= owner.first && j < owner.last && keeps(in.full, in.self_loops, i, j, {0, 0, 0}) &&
                       molecule_pair(in, ri, j);
      const unsigned lanes = __ballot_sync(gpu::full_mask, hit);
      const int64_t at = edge + __popc(lanes & before);
      if (hit && at < end) senders[at] = j, receivers[at] = i;
      edge += __popc(lanes);
    }
    if (counts != nullptr && gpu::lane() == 0) counts[i] = edge;
  }
}

// ---- grid
// ---------------------------------------------------------------------------------------------------------------

template <class T>
SYMKERN_KERNEL bin_lattices(Input<T> in, BinnedLattice* out, unsigned long long* status) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; b < in.num_lattices(); b += stride) {
    int pbc = in.cell == nullptr ? 0 : in.pbc_mask;
    if (in.cell != nullptr && in.pbc != nullptr) {
      const bool* p = in.pbc + (in.pbc_per_structure ? 3 * b : 0);
      pbc = (p[0] ? 1 : 0) | (p[1] ? 2 : 0) | (p[2] ? 4 : 0);
    }
    Mat3 cell{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    if (in.cell != nullptr) cell = load_mat3(in.cell + (in.cell_per_structure ? 9 * b : 0));
    BinnedLattice m;
    m.lattice = make_lattice(cell, pbc);
    if (!m.lattice.valid) {
      report(status, m.lattice.too_skewed ? Problem::cell_skewed : Problem::cell_singular, b);
      m.lattice = make_lattice(cell, 0);  // something harmless
    }
    double extent = 0;
    for (int k = 0; k < 3; ++k) {
      const double height = m.lattice.height[k];
      if (m.lattice.periodic[k]) {
        const double count = floor(height / in.cutoff);
        m.bins[k] = count < 1 ? 1 : count > 1e6 ? 1000000 : static_cast<int32_t>(count);
        m.step[k] = (1.0 / m.bins[k]) * m.lattice.basis[k];
        // atoms less than x bins apart are at most floor(x) + 1 bins apart; the slack covers rounding of their places
        const double reach = floor(in.cutoff * m.bins[k] / height + kBinSlack) + 1;
        if (reach > kShiftLimit) report(status, Problem::too_many_images, b);
        m.reach[k] = reach > kShiftLimit ? 0 : static_cast<int32_t>(reach);
      } else {
        m.bins[k] = 0;
        m.step[k] = (in.cutoff * (1 + kBinSlack)) * m.lattice.basis[k];
        m.reach[k] = 1;
      }
      m.x[k] = static_cast<float>(m.step[k].x / in.cutoff);
      m.y[k] = static_cast<float>(m.step[k].y / in.cutoff);
      m.z[k] = static_cast<float>(m.step[k].z / in.cutoff);
      extent += (m.reach[k] + 1) * sqrt(dot(m.step[k], m.step[k])) / in.cutoff;
    }
    m.band = make_band(extent);
    out[b] = m;
  }
}

template <class T>
SYMKERN_KERNEL bin_atoms(Input<T> in, const Owner* owners, const BinnedLattice* lattices, uint32_t buckets, Int3* home,
                         Slot* slots, Bin* bins, uint32_t* hashes, int32_t* order, unsigned long long* status) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < in.num_atoms; i += stride) {
    const BinnedLattice& m = lattices[owners[i].lattice];
    const Vec3 r = load_vec3(in.positions + 3 * i);
    const Vec3 f = m.lattice.fractional(r);
    double parts[3] = {f.x, f.y, f.z};
    int32_t wrap[3] = {0, 0, 0};
    Bin bin;
    Vec3 local{0, 0, 0};
    for (int k = 0; k < 3; ++k) {
      double place;  // in bins
      if (m.lattice.periodic[k]) {
        const double w = -floor(parts[k]);
        if (!(fabs(w) <= 1e6)) report(status, Problem::too_far, i);
        wrap[k] = fabs(w) <= 1e6 ? static_cast<int32_t>(w) : 0;
        place = (parts[k] + w) * m.bins[k];
        int32_t c = static_cast<int32_t>(place);
        c = c < 0 ? 0 : c >= m.bins[k] ? m.bins[k] - 1 : c;  // a fraction rounded to 1 belongs to the last bin
        bin.c[k] = c;
      } else {
        place = parts[k] / (in.cutoff * (1 + kBinSlack));
        if (!(fabs(place) < 1e9)) report(status, Problem::too_far, i);
        bin.c[k] = fabs(place) < 1e9 ? static_cast<int32_t>(floor(place)) : 0;
      }
      const double beside = place - bin.c[k] - 0.5;
      local = local + (fabs(beside) <= 1 ? beside / in.cutoff : 0) * m.step[k];
    }
    bin.first = owners[i].first;
    if (!m.lattice.shift(wrap[0], wrap[1], wrap[2], home[i])) report(status, Problem::too_far, i);
    slots[i] = {static_cast<float>(local.x), static_cast<float>(local.y), static_cast<float>(local.z),
                static_cast<int32_t>(i)};
    bins[i] = bin;
    hashes[i] = hash_bin(bin.c[0], bin.c[1], bin.c[2], bin.first, buckets);
    order[i] = static_cast<int32_t>(i);
  }
}

SYMKERN_KERNEL gather_slots(int64_t n, const uint32_t* hashes, const int32_t* order, const Slot* slots_in,
                            const Bin* bins_in, Slot* slots, Bin* bins, int32_t* bucket_begin, int32_t* bucket_end) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; s < n; s += stride) {
    slots[s] = slots_in[order[s]];
    bins[s] = bins_in[order[s]];
    if (s == 0 || hashes[s] != hashes[s - 1]) bucket_begin[hashes[s]] = static_cast<int32_t>(s);
    if (s == n - 1 || hashes[s] != hashes[s + 1]) bucket_end[hashes[s]] = static_cast<int32_t>(s + 1);
  }
}

// 64 bits that order the edges of a row: sender, then shift (before wrapping: the same for all edges of the pair).
SYMKERN_HD uint64_t row_key(int64_t j, Int3 s) {
  const auto part = [](int32_t x) { return static_cast<uint64_t>(x + kShiftLimit) & ((1u << kShiftBits) - 1); };
  return (static_cast<uint64_t>(j) << (3 * kShiftBits)) | (part(s.x) << (2 * kShiftBits)) | (part(s.y) << kShiftBits) |
         part(s.z);
}

SYMKERN_HD Int3 key_shift(uint64_t key) {
  const auto part = [&](int at) {
    return static_cast<int32_t>((key >> (at * kShiftBits)) & ((1u << kShiftBits) - 1)) - kShiftLimit;
  };
  return {part(2), part(1), part(0)};
}

// counts != nullptr: count. Otherwise write the keys of each row, unsorted.
template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads, 4) scan_grid(Input<T> in, Grid grid, int64_t* counts, const int64_t* row_ptr,
                                                     uint64_t* keys, unsigned long long* status) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const unsigned before = (1u << gpu::lane()) - 1u;
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + gpu::warp(); s < in.num_atoms; s += warps) {
    const Slot me = grid.slots[s];
    const Bin bin = grid.bins[s];
    const int64_t i = me.atom;
    const BinnedLattice& m = grid.lattices[grid.owners[i].lattice];
    int64_t edge = counts != nullptr ? 0 : row_ptr[i];
    const int64_t row_end = counts != nullptr ? 0 : row_ptr[i + 1];  // rows are empty after a problem
    for (int32_t oz = -m.reach[2]; oz <= m.reach[2]; ++oz) {
      for (int32_t oy = -m.reach[1]; oy <= m.reach[1]; ++oy) {
        for (int32_t ox = -m.reach[0]; ox <= m.reach[0]; ++ox) {
          const int32_t offset[3] = {ox, oy, oz};
          int32_t c[3], image[3];
          for (int k = 0; k < 3; ++k) {
            c[k] = bin.c[k] + offset[k];
            image[k] = 0;
            if (m.lattice.periodic[k]) {
              image[k] = c[k] >= 0 ? c[k] / m.bins[k] : -((m.bins[k] - 1 - c[k]) / m.bins[k]);
              c[k] -= image[k] * m.bins[k];
            }
          }
          Int3 shift;
          const bool fits = m.lattice.shift(image[0], image[1], image[2], shift);
          const uint32_t h = hash_bin(c[0], c[1], c[2], bin.first, grid.buckets);
          // from me to that bin's centre
          const float fx = static_cast<float>(ox), fy = static_cast<float>(oy), fz = static_cast<float>(oz);
          const float x0 = fx * m.x[0] + fy * m.x[1] + fz * m.x[2] - me.x;
          const float y0 = fx * m.y[0] + fy * m.y[1] + fz * m.y[2] - me.y;
          const float z0 = fx * m.z[0] + fy * m.z[1] + fz * m.z[2] - me.z;
          const int32_t end = grid.bucket_end[h];
          for (int32_t base = grid.bucket_begin[h]; base < end; base += 32) {
            const int32_t t = base + gpu::lane();
            bool hit = false;
            int64_t j = 0;
            if (t < end) {
              const Bin other = grid.bins[t];
              // other bins may share the bucket
              if (other.c[0] == c[0] && other.c[1] == c[1] && other.c[2] == c[2] && other.first == bin.first) {
                const Slot you = grid.slots[t];
                j = you.atom;
                const float x = x0 + you.x, y = y0 + you.y, z = z0 + you.z;
                const float d2 = x * x + y * y + z * z;
                hit = d2 < m.band.inside;
                if (!hit && !(d2 > m.band.outside)) {
                  const Int3 wi = grid.home[i], wj = grid.home[j];
                  const Int3 total{shift.x + wj.x - wi.x, shift.y + wj.y - wi.y, shift.z + wj.z - wi.z};
                  hit = pair_distance_sq(load_vec3(in.positions + 3 * i), load_vec3(in.positions + 3 * j), total,
                                         m.lattice.cell) < in.cutoff * in.cutoff;
                }
                hit = hit && keeps(in.full, in.self_loops, i, j, shift);
              }
            }
            const unsigned lanes = __ballot_sync(gpu::full_mask, hit);
            if (counts == nullptr) {
              const int64_t at = edge + __popc(lanes & before);
              if (hit && at < row_end) keys[at] = row_key(j, shift);
            } else if (hit && (!fits || shift.x >= kShiftLimit || shift.x < -kShiftLimit || shift.y >= kShiftLimit ||
                               shift.y < -kShiftLimit || shift.z >= kShiftLimit || shift.z < -kShiftLimit)) {
              report(status, Problem::too_many_images, grid.owners[i].lattice);
            }
            edge += __popc(lanes);
          }
        }
      }
    }
    if (counts != nullptr && gpu::lane() == 0) counts[i] = edge;
  }
}

// Puts each key of a row at its rank: keys are distinct, so ranks are the sorted order. Rows are short (tens to
// hundreds).
template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads)
    sort_rows(int64_t num_atoms, const int64_t* row_ptr, const uint64_t* keys, const Int3* home, int64_t* senders,
              int64_t* receivers, int32_t* shifts) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + gpu::warp(); i < num_atoms; i += warps) {
    const int64_t begin = row_ptr[i], end = row_ptr[i + 1];
    for (int64_t k = begin + gpu::lane(); k < end; k += 32) {
      const uint64_t key = keys[k];
      int64_t rank = begin;
      for (int64_t other = begin; other < end; ++other) rank += keys[other] < key;
      const int64_t j = static_cast<int64_t>(key >> (3 * kShiftBits));
      senders[rank] = j;
      receivers[rank] = i;
      if (shifts != nullptr) {
        const Int3 s = key_shift(key), wi = home[i], wj = home[j];
        shifts[3 * rank] = s.x + wj.x - wi.x;
        shifts[3 * rank + 1] = s.y + wj.y - wi.y;
        shifts[3 * rank + 2] = s.z + wj.z - wi.z;
      }
    }
  }
}

// ---- what the host learns in its one synchronisation
// -------------------------------------------------------------------

struct Summary {
  unsigned long long status;  // kNoProblem, or problem << 48 | index
  unsigned long long sticky;  // the same, left behind by calls that did not synchronise
  int64_t edges;              // found
  int64_t last_structure;     // of the last atom, where only batch is given
};
constexpr unsigned long long kNoProblem = ~0ull;

// After a problem all rows are empty, so that nothing is filled and nothing downstream reads what was not written.
SYMKERN_KERNEL finish_rows(int64_t num_atoms, int64_t* row_ptr, const unsigned long long* status) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  if (*status == kNoProblem) return;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i <= num_atoms; i += stride)
    row_ptr[i] = 0;
}

SYMKERN_KERNEL summarize(int64_t num_atoms, const int64_t* row_ptr, const int64_t* batch, int64_t capacity,
                         bool synchronise, unsigned long long* status, unsigned long long* sticky, Summary* out) {
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  const int64_t edges = row_ptr[num_atoms];
  if (capacity >= 0 && edges > capacity) report(status, Problem::overflow, edges);
  out->status = *status;
  out->sticky = synchronise ? atomicMax(sticky, kNoProblem) : kNoProblem;  // read and reset: kNoProblem is the largest
  out->edges = edges;
  out->last_structure = batch != nullptr && num_atoms > 0 ? batch[num_atoms - 1] : -1;
  // a call that will not synchronise leaves its problem for one that does
  if (!synchronise) atomicMin(sticky, *status);
}

// ---- the whole op
// ---------------------------------------------------------------------------------------------------------

struct Output {
  int64_t *senders, *receivers;
  int32_t* shifts;  // nullptr without a cell
};

// memory(bytes) returns scratch that lives until the stream is done with it; allocate(E) the outputs for E edges.
// row_ptr has N + 1 entries. capacity < 0: exactly as many edges as found, which takes the one synchronisation. Nothing
// is filled after a problem; the caller reads it from the summary if it asked to synchronise.
template <class T, class Memory, class Allocate>
Summary find_edges(const Input<T>& in, int64_t capacity, bool synchronise, const Memory& memory,
                   unsigned long long* sticky, int64_t* row_ptr, const Allocate& allocate, gpu::Stream stream) {
  const int64_t n = in.num_atoms;
  const bool molecules = in.cell == nullptr &&
                         (in.batch != nullptr || n <= kMoleculeLimit * (in.num_structures > 0 ? in.num_structures : 1));
  const auto array = [&](auto* type, int64_t count) {
    using Item = std::remove_pointer_t<decltype(type)>;
    return static_cast<Item*>(memory(static_cast<size_t>(count > 0 ? count : 1) * sizeof(Item)));
  };
  if (n >= (molecules ? int64_t{1} << 31 : kMaxAtoms)) {
    throw std::invalid_argument("positions must hold fewer than 2^28 atoms on CUDA (2^31 in small molecules), got " +
                                std::to_string(n));
  }
  const auto per_item = [](int64_t items) { return gpu::grid_for(items, kThreads); };
  const int64_t per_warp = gpu::grid_for(n * 32, kThreads);

  auto* status = array(static_cast<unsigned long long*>(nullptr), 1);
  auto* summary = array(static_cast<Summary*>(nullptr), 1);
  auto* owners = array(static_cast<Owner*>(nullptr), n);
  auto* counts = array(static_cast<int64_t*>(nullptr), n + 1);
  gpu::memset_async(status, 0xff, sizeof(*status), stream);
  gpu::memset_async(counts, 0, static_cast<size_t>(n + 1) * sizeof(int64_t), stream);
  if (in.ptr != nullptr) gpu::launch(check_ptr<T>, per_item(in.num_structures + 1), kThreads, 0, stream, in, status);
  gpu::launch(find_owners<T>, per_item(n), kThreads, 0, stream, in, owners, status);

  Grid grid{};
  Int3* home = nullptr;
  if (molecules) {
    gpu::launch(scan_molecules<T>, per_warp, kThreads, 0, stream, in, owners, counts, nullptr, nullptr, nullptr);
  } else {
    auto* lattices = array(static_cast<BinnedLattice*>(nullptr), in.num_lattices());
    gpu::launch(bin_lattices<T>, per_item(in.num_lattices()), kThreads, 0, stream, in, lattices, status);
    const uint32_t buckets = static_cast<uint32_t>(2 * n + 61);
    home = array(static_cast<Int3*>(nullptr), n);
    auto* slots = array(static_cast<Slot*>(nullptr), 2 * n);
    auto* bins = array(static_cast<Bin*>(nullptr), 2 * n);
    auto* hashes = array(static_cast<uint32_t*>(nullptr), 2 * n);
    auto* order = array(static_cast<int32_t*>(nullptr), 2 * n);
    auto* bucket = array(static_cast<int32_t*>(nullptr), 2 * int64_t{buckets});
    gpu::launch(bin_atoms<T>, per_item(n), kThreads, 0, stream, in, owners, lattices, buckets, home, slots, bins,
                hashes, order, status);
    int bits = 1;
    while ((uint64_t{1} << bits) < buckets) ++bits;
    size_t bytes = 0;
    gpu::sort_pairs(nullptr, bytes, hashes, hashes + n, order, order + n, n, 0, bits, stream);
    gpu::sort_pairs(memory(bytes), bytes, hashes, hashes + n, order, order + n, n, 0, bits, stream);
    gpu::memset_async(bucket, 0, 2 * size_t{buckets} * sizeof(int32_t), stream);
    gpu::launch(gather_slots, per_item(n), kThreads, 0, stream, n, hashes + n, order + n, slots, bins, slots + n,
                bins + n, bucket, bucket + buckets);
    grid = {owners, lattices, home, slots + n, bins + n, bucket, bucket + buckets, buckets};
    gpu::launch(scan_grid<T>, per_warp, kThreads, 0, stream, in, grid, counts, nullptr, nullptr, status);
  }
  size_t bytes = 0;
  gpu::exclusive_sum(nullptr, bytes, counts, row_ptr, n + 1, stream);
  gpu::exclusive_sum(memory(bytes), bytes, counts, row_ptr, n + 1, stream);
  gpu::launch(summarize, 1, 32, 0, stream, n, row_ptr, in.batch, capacity, synchronise, status, sticky, summary);
  gpu::launch(finish_rows, per_item(n + 1), kThreads, 0, stream, n, row_ptr, status);

  Summary found{kNoProblem, kNoProblem, capacity, -1};
  if (synchronise) {
    gpu::copy_to_host(&found, summary, sizeof(found), stream);
    if (found.status != kNoProblem) return found;
  }
  const int64_t room = capacity >= 0 ? capacity : found.edges;
  const Output out = allocate(room);
  if (capacity >= 0) {  // padding: edges from atom 0 to atom 0
    gpu::memset_async(out.senders, 0, static_cast<size_t>(room) * sizeof(int64_t), stream);
    gpu::memset_async(out.receivers, 0, static_cast<size_t>(room) * sizeof(int64_t), stream);
    if (out.shifts != nullptr)
      gpu::memset_async(out.shifts, 0, 3 * static_cast<size_t>(room) * sizeof(int32_t), stream);
  }
  if (molecules) {
    gpu::launch(scan_molecules<T>, per_warp, kThreads, 0, stream, in, owners, nullptr, row_ptr, out.senders,
                out.receivers);
  } else {
    auto* keys = array(static_cast<uint64_t*>(nullptr), room);
    gpu::launch(scan_grid<T>, per_warp, kThreads, 0, stream, in, grid, nullptr, row_ptr, keys, status);
    gpu::launch(sort_rows<T>, per_warp, kThreads, 0, stream, n, row_ptr, keys, home, out.senders, out.receivers,
                out.shifts);
  }
  return found;
}

}  // namespace symkern::neighbor_cuda
