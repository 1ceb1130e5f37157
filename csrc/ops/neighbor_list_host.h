// Neighbor lists on the host, torch-free: the torch op and `symkern.host` both call this.
//
// Two algorithms, chosen per structure: bit masks of all pairs for molecules, a cell list with explicit images for
// everything periodic or large. Both search in fp32 and settle what is within rounding of the cutoff in fp64, and both
// return edges in lexicographic order (receiver, sender, shift): the result depends on the input alone, not on the
// algorithm, the number of threads, the instruction set or the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "core/lattice.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "ops/neighbor_grid.h"
#include "ops/neighbor_list_simd.h"
#include "ops/neighbor_problem.h"

namespace symkern {

template <class T>
struct NeighborInput {
  const T* positions;  // (N, 3) Å
  int64_t num_atoms;
  const int64_t* ptr;  // (B + 1), checked by the caller
  int64_t num_structures;
  const T* cell;  // (3, 3) or (B, 3, 3), nullptr for none
  bool cell_per_structure;
  const bool* pbc;  // (3) or (B, 3), nullptr: pbc_mask holds for all
  bool pbc_per_structure;
  int pbc_mask;   // one bit per lattice vector
  double cutoff;  // Å
  bool full, self_loops;

  int pbc_of(int64_t b) const {
    if (cell == nullptr) return 0;
    if (pbc == nullptr) return pbc_mask;
    const bool* p = pbc + (pbc_per_structure ? 3 * b : 0);
    return (p[0] ? 1 : 0) | (p[1] ? 2 : 0) | (p[2] ? 4 : 0);
  }
  Lattice lattice_of(int64_t b) const {
    const T* rows = cell == nullptr ? nullptr : cell + (cell_per_structure ? 9 * b : 0);
    const Lattice lattice = make_lattice(rows ? load_mat3(rows) : Mat3{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}}, pbc_of(b));
    if (!lattice.valid) throw_problem(lattice.too_skewed ? Problem::cell_skewed : Problem::cell_singular, b);
    return lattice;
  }
  Keep keep() const {
    return full ? (self_loops ? Keep::all : Keep::not_self) : (self_loops ? Keep::self_and_above : Keep::above_self);
  }
};

struct EdgeOutput {
  int64_t *senders, *receivers;
  int32_t* shifts;  // (E, 3), nullptr when there is no cell
};

template <class T>
class NeighborListHost {
 public:
  NeighborListHost(const NeighborInput<T>& input, const Parallel& parallel) : in_(input), parallel_(parallel) {}

  // row_ptr: (N + 1), filled here. allocate(E) -> EdgeOutput with room for E edges.
  template <class Allocate>
  void run(int64_t* row_ptr, const Allocate& allocate) {
    row_ptr_ = row_ptr;
    row_ptr_[0] = 0;
    plan();
    for_structures([&](int64_t b, const Chunk* chunk) { is_grid(b) ? find_grid(b, chunk) : find_bits(b, *chunk); });
    for (int64_t i = 0; i < in_.num_atoms; ++i) row_ptr_[i + 1] += row_ptr_[i];
    out_ = allocate(row_ptr_[in_.num_atoms]);
    for_structures([&](int64_t b, const Chunk* chunk) { is_grid(b) ? write_grid(b, chunk) : write_bits(b, *chunk); });
  }

 private:
  // Up to here testing all pairs of a molecule costs less than sorting it into a grid.
  static constexpr int64_t kBitsLimit = 1536;
  // From here on threads share one structure instead of taking one each.
  static constexpr int64_t kSharedLimit = 4096;

  int64_t size(int64_t b) const { return in_.ptr[b + 1] - in_.ptr[b]; }
  const T* positions(int64_t b) const { return in_.positions + 3 * in_.ptr[b]; }
  bool is_grid(int64_t b) const { return in_.pbc_of(b) != 0 || size(b) > kBitsLimit; }

  void plan() {
    int64_t words = 0;
    bool any_grid = false;
    bits_begin_.resize(in_.num_structures);
    for (int64_t b = 0; b < in_.num_structures; ++b) {
      bits_begin_[b] = words;
      if (is_grid(b)) {
        any_grid = true;
      } else {
        words += size(b) * ((size(b) + 63) / 64);
      }
    }
    bits_ = arena_.allocate<uint64_t>(words);
    if (any_grid) {
      grids_.resize(in_.num_structures);
      rows_ = arena_.allocate<const uint32_t*>(in_.num_atoms);
    }
  }

  // The structures up to `end` that one thread takes in order, and its scratch memory.
  struct Chunk {
    int64_t end;
    Arena* arena;
  };

  // Small structures in parallel, in chunks; large ones one after the other, threads inside, without a chunk.
  template <class F>
  void for_structures(const F& f) {
    const int64_t count = in_.num_structures;
    const int64_t mean = in_.num_atoms / std::max<int64_t>(1, count) + 1;
    const bool shared = parallel_.threads() > 1;
    // enough for a thread to be worth waking: some tenths of a millisecond
    const int64_t atoms = grids_.empty() ? 16384 : 1024;
    parallel_(count, std::max<int64_t>(1, atoms / mean), [&](int64_t begin, int64_t end) {
      const Chunk chunk{end, &new_arena()};
      for (int64_t b = begin; b < end; ++b) {
        if (!(shared && is_grid(b) && size(b) >= kSharedLimit)) f(b, &chunk);
      }
    });
    if (!shared) return;
    for (int64_t b = 0; b < count; ++b) {
      if (is_grid(b) && size(b) >= kSharedLimit) f(b, nullptr);
    }
  }

  // ---- molecules: one bit per pair ---------------------------------------------------------------------------

  void find_bits(int64_t b, const Chunk& chunk) {
    const int64_t n = size(b), first = in_.ptr[b], words = (n + 63) / 64;
    if (n == 0) return;
    const T* r = positions(b);
    Arena& arena = *chunk.arena;
    float* x = arena.reserve<float>(3 * (n + 16) + 2 * n);
    float* y = x + n + 16;
    float* z = y + n + 16;
    uint8_t* undecided = reinterpret_cast<uint8_t*>(z + n + 16);
    float extent;
    if constexpr (std::is_same_v<T, float>) {
      extent = kernels_.to_local_float(r, n, in_.cutoff, x, y, z);
    } else {
      extent = kernels_.to_local_double(r, n, in_.cutoff, x, y, z);
    }
    if (SYMKERN_UNLIKELY(!std::isfinite(extent))) {
      for (int64_t i = 0; i < 3 * n; ++i) {
        if (!std::isfinite(r[i])) throw_problem(Problem::not_finite, first + i / 3);
      }
      extent = std::numeric_limits<float>::infinity();  // finite, but too large for fp32: fp64 decides every pair
    }
    uint64_t* bits = bits_ + bits_begin_[b];
    int64_t* counts = row_ptr_ + first + 1;
    kernels_.pair_bits(x, y, z, n, make_band(extent), in_.keep(), bits, counts, undecided);
    for (int64_t i = 0; i < n; ++i) {
      if (SYMKERN_UNLIKELY(undecided[i])) counts[i] = settle_bits(r, i, words, bits + i * words);
    }
  }

  int64_t settle_bits(const T* r, int64_t i, int64_t words, uint64_t* row) const {
    const Mat3 none{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    const Vec3 ri = load_vec3(r + 3 * i);
    int64_t count = 0;
    for (int64_t w = 0; w < words; ++w) {
      for (uint64_t left = row[w]; left != 0; left &= left - 1) {
        const int64_t bit = __builtin_ctzll(left);
        const Vec3 rj = load_vec3(r + 3 * (w * 64 + bit));
        if (pair_distance_sq(ri, rj, {0, 0, 0}, none) < in_.cutoff * in_.cutoff) {
          ++count;
        } else {
          row[w] &= ~(uint64_t{1} << bit);
        }
      }
    }
    return count;
  }

  void write_bits(int64_t b, const Chunk& chunk) {
    const int64_t first = in_.ptr[b], begin = row_ptr_[first], end = row_ptr_[in_.ptr[b + 1]];
    const int64_t mine = row_ptr_[in_.ptr[chunk.end]];  // later structures of the chunk are written later
    kernels_.decode_bits(bits_ + bits_begin_[b], size(b), first, out_.senders + begin, out_.receivers + begin,
                         out_.senders + mine, out_.receivers + mine);
    if (out_.shifts != nullptr) std::fill(out_.shifts + 3 * begin, out_.shifts + 3 * end, 0);
  }

  // ---- everything else: cell list ------------------------------------------------------------------------------

  void find_grid(int64_t b, const Chunk* chunk) {
    const int64_t first = in_.ptr[b];
    const T* r = positions(b);
    grids_[b] = std::make_unique<NeighborGrid>(r, size(b), first, b, in_.lattice_of(b), in_.cutoff);
    const NeighborGrid& grid = *grids_[b];
    if (chunk != nullptr) {
      find_rows(grid, r, first, 0, grid.num_bins(), *chunk->arena);
    } else {
      parallel_(grid.num_bins(), std::max<int64_t>(1, grid.num_bins() / 64),
                [&](int64_t begin, int64_t end) { find_rows(grid, r, first, begin, end, new_arena()); });
    }
    grids_[b]->release_slots();
  }

  void find_rows(const NeighborGrid& grid, const T* r, int64_t first, int64_t bin_begin, int64_t bin_end,
                 Arena& arena) {
    const Slots slots = grid.slots();
    const Keep keep = in_.keep();
    std::vector<Run> runs(grid.max_runs() + 1);
    std::vector<uint32_t> found;
    for (int64_t bin = bin_begin; bin < bin_end; ++bin) {
      int64_t num_runs = -1, length = 0;
      for (int32_t s = grid.bin_begin(bin); s < grid.bin_begin(bin + 1); ++s) {
        if (!grid.is_home(slots.key[s])) continue;
        if (num_runs < 0) length = grid.find_runs(bin, runs.data(), &num_runs);
        // room for a compressed vector past the end, and for the padding of the sort
        size_t room = 64;
        while (room < static_cast<size_t>(length) + 16) room *= 2;
        if (found.size() < room) found.resize(room);
        uint32_t* keys = found.data();
        bool undecided = false;
        int64_t count =
            kernels_.search(slots, runs.data(), num_runs, slots.x[s], slots.y[s], slots.z[s],
                            grid.band(slots.x[s], slots.y[s], slots.z[s]), keep, slots.key[s], keys, &undecided);
        const int64_t i = slots.key[s] >> grid.image_bits();
        if (SYMKERN_UNLIKELY(undecided)) count = settle_keys(grid, r, i, keys, count);
        kernels_.sort_keys(keys, count);
        uint32_t* row = arena.allocate<uint32_t>(count);
        std::copy(keys, keys + count, row);
        rows_[first + i] = row;
        row_ptr_[first + i + 1] = count;
      }
    }
  }

  int64_t settle_keys(const NeighborGrid& grid, const T* r, int64_t i, uint32_t* keys, int64_t count) const {
    const Vec3 ri = load_vec3(r + 3 * i);
    int64_t kept = 0;
    for (int64_t k = 0; k < count; ++k) {
      const Vec3 rj = load_vec3(r + 3 * static_cast<int64_t>(keys[k] >> grid.image_bits()));
      const double d2 = pair_distance_sq(ri, rj, grid.pair_shift(i, keys[k]), grid.lattice().cell);
      if (d2 < in_.cutoff * in_.cutoff) keys[kept++] = keys[k];
    }
    return kept;
  }

  void write_grid(int64_t b, const Chunk* chunk) {
    const NeighborGrid& grid = *grids_[b];
    const int64_t first = in_.ptr[b];
    const auto body = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t edge = row_ptr_[first + i], count = row_ptr_[first + i + 1] - edge;
        const uint32_t* keys = rows_[first + i];
        kernels_.expand(keys, count, grid.image_bits(), first, first + i, out_.senders + edge, out_.receivers + edge);
        if (out_.shifts == nullptr) continue;
        const Int4* home = grid.home_shifts();
        kernels_.expand_shifts(keys, count, grid.image_bits(), grid.image_shifts(), home,
                               home == nullptr ? Int4{0, 0, 0, 0} : home[i], out_.shifts + 3 * edge);
      }
    };
    if (chunk != nullptr) {
      body(0, size(b));
    } else {
      parallel_(size(b), 2048, body);
    }
  }

  // Keys found by one thread live in its own arena until they are written out.
  Arena& new_arena() {
    std::lock_guard<std::mutex> lock(arenas_mutex_);
    arenas_.push_back(std::make_unique<Arena>());
    return *arenas_.back();
  }

  const NeighborInput<T>& in_;
  const Parallel& parallel_;
  const NeighborKernels& kernels_ = neighbor_kernels();
  int64_t* row_ptr_ = nullptr;
  EdgeOutput out_{};
  Arena arena_;
  uint64_t* bits_ = nullptr;
  std::vector<int64_t> bits_begin_;
  std::vector<std::unique_ptr<NeighborGrid>> grids_;
  const uint32_t** rows_ = nullptr;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::mutex arenas_mutex_;
};

}  // namespace symkern
