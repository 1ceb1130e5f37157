// The inner loops of the host neighbor list, one set per instruction-set level (neighbor_list_simd.cpp is compiled once
// for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "ops/neighbor_band.h"

namespace symkern {

// Slots are atoms or their periodic images in grid order. key = local atom index << image_bits | rank of its image,
// so that numeric order of keys is (sender, shift) order.
struct Slots {
  const float *x, *y, *z;
  const uint32_t* key;
};

struct Run {
  int32_t begin, end;  // consecutive slots
};

enum class Keep : int { all, not_self, above_self, self_and_above };

// Four integers, so that a shift is one 16-byte load and store.
struct Int4 {
  int32_t x, y, z, unused;
};

struct NeighborKernels {
  // Positions (n, 3) of a molecule relative to its first atom, in units of the cutoff, as three arrays with 16 readable
  // floats past n. Returns the largest magnitude; NaN or infinity if a coordinate is not finite or too large for fp32.
  float (*to_local_float)(const float* positions, int64_t n, double cutoff, float* x, float* y, float* z);
  float (*to_local_double)(const double* positions, int64_t n, double cutoff, float* x, float* y, float* z);
  // Bit j of row i: |r_j - r_i|^2 is not above band.outside, and `keep` wants the pair. words = ceil(n / 64) per row.
  // counts[i] is the number of bits; rows that hold a pair within the band are marked.
  void (*pair_bits)(const float* x, const float* y, const float* z, int64_t n, Band band, Keep keep, uint64_t* bits,
                    int64_t* counts, uint8_t* undecided);
  // Set bits to index pairs, row after row. The ends are those of the memory this thread may write to.
  void (*decode_bits)(const uint64_t* bits, int64_t n, int64_t first, int64_t* senders, int64_t* receivers,
                      const int64_t* senders_end, const int64_t* receivers_end);
  // Keys of the slots in `runs` near (x, y, z), unsorted. `out` has room for the lengths of all runs + 16. Returns the
  // count; sets *undecided when a pair lies within the band.
  int64_t (*search)(const Slots& slots, const Run* runs, int64_t num_runs, float x, float y, float z, Band band,
                    Keep keep, uint32_t self_key, uint32_t* out, bool* undecided);
  // Ascending, in place; `keys` has room for the next power of two (at least 16).
  void (*sort_keys)(uint32_t* keys, int64_t count);
  // senders[k] = first + (keys[k] >> image_bits), receivers[k] = receiver
  void (*expand)(const uint32_t* keys, int64_t count, int image_bits, int64_t first, int64_t receiver, int64_t* senders,
                 int64_t* receivers);
  // shifts[k] = images[image of keys[k]] + home[atom of keys[k]] - home_of_receiver; home may be nullptr: zero.
  void (*expand_shifts)(const uint32_t* keys, int64_t count, int image_bits, const Int4* images, const Int4* home,
                        Int4 home_of_receiver, int32_t* shifts);
};

const NeighborKernels* neighbor_kernels_baseline();
const NeighborKernels* neighbor_kernels_avx2();
const NeighborKernels* neighbor_kernels_avx512();

inline const NeighborKernels& neighbor_kernels() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *neighbor_kernels_avx512();
    case Isa::avx2:
      return *neighbor_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *neighbor_kernels_baseline();
}

}  // namespace symkern
