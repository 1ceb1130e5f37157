// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. Everything but the table
// at the end has internal linkage, and no standard template is instantiated: a shared inline symbol compiled for
// AVX-512 could be the copy the linker keeps for all (scripts/audit.py looks).
#include "ops/neighbor_list_simd.h"

#include "core/simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {
namespace {

struct Hits {
  uint32_t candidate;  // not certainly outside
  uint32_t inside;     // certainly inside
};

SYMKERN_INLINE Hits compare(VF d2, Band band) {
#if defined(__AVX512F__)
  const __m512 d = reinterpret_cast<__m512>(d2);
  return {_mm512_cmp_ps_mask(d, _mm512_set1_ps(band.outside), _CMP_NGT_UQ),
          _mm512_cmp_ps_mask(d, _mm512_set1_ps(band.inside), _CMP_LT_OQ)};
#else
  return {to_mask(~(d2 > splat_f(band.outside))), to_mask(d2 < splat_f(band.inside))};
#endif
}

SYMKERN_INLINE VF distance_sq(VF dx, VF dy, VF dz) { return dx * dx + dy * dy + dz * dz; }

template <class T>
SYMKERN_INLINE float to_local(const T* __restrict__ r, int64_t n, T scale, float* __restrict__ x, float* __restrict__ y,
                              float* __restrict__ z) {
  const T x0 = r[0], y0 = r[1], z0 = r[2];
  for (int64_t i = 0; i < n; ++i) {
    x[i] = static_cast<float>((r[3 * i] - x0) * scale);
    y[i] = static_cast<float>((r[3 * i + 1] - y0) * scale);
    z[i] = static_cast<float>((r[3 * i + 2] - z0) * scale);
  }
  for (int64_t i = n; i < n + 16; ++i) x[i] = y[i] = z[i] = 0;
  // magnitudes compare as integers, infinity and NaN above all
  VU largest{};
  for (int64_t i = 0; i < n; i += W) {
    for (int c = 0; c < 3; ++c) {
      const float* p = c == 0 ? x : c == 1 ? y : z;
      const VU magnitude = reinterpret_cast<VU>(load_f(p + i)) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  uint32_t most = 0;
  for (int l = 0; l < W; ++l) most = largest[l] > most ? largest[l] : most;
  return __builtin_bit_cast(float, most);
}

float to_local_float(const float* positions, int64_t n, double cutoff, float* x, float* y, float* z) {
  return to_local<float>(positions, n, static_cast<float>(1 / cutoff), x, y, z);
}

float to_local_double(const double* positions, int64_t n, double cutoff, float* x, float* y, float* z) {
  return to_local<double>(positions, n, 1 / cutoff, x, y, z);
}

// One word of a row: candidates among the atoms j .. j + last, and whether any is undecided.
SYMKERN_INLINE uint64_t row_word(const float* x, const float* y, const float* z, int64_t last, VF xi, VF yi, VF zi,
                                 Band band, uint64_t& between) {
  uint64_t candidates = 0, inside = 0;
  for (int64_t l = 0; l < last; l += W) {
    const Hits hits = compare(distance_sq(load_f(x + l) - xi, load_f(y + l) - yi, load_f(z + l) - zi), band);
    candidates |= static_cast<uint64_t>(hits.candidate & ((1ull << W) - 1)) << l;
    inside |= static_cast<uint64_t>(hits.inside) << l;
  }
  candidates &= ~uint64_t{0} >> (64 - last);
  between |= candidates & ~inside;
  return candidates;
}

// Which bits of word w the row of atom i may have.
SYMKERN_INLINE uint64_t kept_bits(Keep keep, int64_t i, int64_t w) {
  const uint64_t self = uint64_t{1} << (i % 64);
  if (w != i / 64) return w > i / 64 || keep == Keep::all || keep == Keep::not_self ? ~uint64_t{0} : 0;
  switch (keep) {
    case Keep::not_self:
      return ~self;
    case Keep::above_self:
      return ~(self | (self - 1));
    case Keep::self_and_above:
      return ~(self - 1);
    case Keep::all:
      break;
  }
  return ~uint64_t{0};
}

void pair_bits(const float* x, const float* y, const float* z, int64_t n, Band band, Keep keep, uint64_t* bits,
               int64_t* counts, uint8_t* undecided) {
  const int64_t words = (n + 63) / 64;
  for (int64_t i = 0; i < n; ++i) {
    const VF xi = splat_f(x[i]), yi = splat_f(y[i]), zi = splat_f(z[i]);
    uint64_t between = 0;
    int64_t count = 0;
    for (int64_t w = 0; w < words; ++w) {
      const int64_t j = w * 64, last = n - j < 64 ? n - j : 64;
      const uint64_t word = row_word(x + j, y + j, z + j, last, xi, yi, zi, band, between) & kept_bits(keep, i, w);
      bits[i * words + w] = word;
      count += __builtin_popcountll(word);
    }
    counts[i] = count;
    undecided[i] = between != 0;
  }
}

#if defined(__AVX512F__)
// 8 of `count` values at `to`. A full store is cheaper than a masked one, and what it writes too much is overwritten by
// the next row; but behind `end` lies another thread's part.
SYMKERN_INLINE void store_row(int64_t* to, const int64_t* end, __m512i values, int count) {
  if (end - to >= 8) {
    _mm512_storeu_si512(to, values);
  } else {
    _mm512_mask_storeu_epi64(to, static_cast<__mmask8>((1u << count) - 1u), values);
  }
}
#endif

void decode_bits(const uint64_t* bits, int64_t n, int64_t first, int64_t* senders, int64_t* receivers,
                 [[maybe_unused]] const int64_t* senders_end, [[maybe_unused]] const int64_t* receivers_end) {
  const int64_t words = (n + 63) / 64;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t w = 0; w < words; ++w) {
      uint64_t word = bits[i * words + w];
#if defined(__AVX512F__)
      const __m512i receiver = _mm512_set1_epi64(first + i), base = _mm512_set1_epi64(first + w * 64);
      __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
      for (; word != 0; word >>= 16) {
        const __mmask16 set = static_cast<__mmask16>(word);
        const int count = __builtin_popcount(set);
        const __m512i packed = _mm512_maskz_compress_epi32(set, lanes);
        const int low = count < 8 ? count : 8;
        store_row(senders, senders_end, _mm512_add_epi64(base, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(packed))),
                  low);
        store_row(receivers, receivers_end, receiver, low);
        if (count > 8) {
          store_row(senders + 8, senders_end,
                    _mm512_add_epi64(base, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(packed, 1))), count - 8);
          store_row(receivers + 8, receivers_end, receiver, count - 8);
        }
        senders += count, receivers += count;
        lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(16));
      }
#else
      for (; word != 0; word &= word - 1) {
        *senders++ = first + w * 64 + __builtin_ctzll(word);
        *receivers++ = first + i;
      }
#endif
    }
  }
}

template <Keep keep>
SYMKERN_INLINE uint32_t kept_lanes(VU key, VU self) {
  switch (keep) {
    case Keep::not_self:
      return to_mask(key != self);
    case Keep::above_self:
      return to_mask(key > self);
    case Keep::self_and_above:
      return to_mask(key >= self);
    case Keep::all:
      return ~0u;
  }
}

// Writes the lanes of `mask` to out, first to last, and whatever it likes after them (one vector at most).
SYMKERN_INLINE int compress(uint32_t* out, uint32_t mask, VU key) {
#if defined(__AVX512F__)
  // compress in a register, then a full store: compressing straight to memory is microcoded on some processors
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), reinterpret_cast<__m512i>(key)));
  return __builtin_popcount(mask);
#elif defined(__AVX2__)
  // pdep/pext turn the mask into the permutation that moves its lanes to the front
  const uint64_t spread = _pdep_u64(mask, 0x0101010101010101ull) * 0xff;
  const uint64_t lanes = _pext_u64(0x0706050403020100ull, spread);
  const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(lanes)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(key), order));
  return __builtin_popcount(mask);
#else
  int count = 0;
  for (int l = 0; l < W; ++l) {
    out[count] = key[l];
    count += (mask >> l) & 1;
  }
  return count;
#endif
}

template <Keep keep>
int64_t search_runs(const Slots& slots, const Run* runs, int64_t num_runs, float x, float y, float z, Band band,
                    uint32_t self_key, uint32_t* out, bool* undecided) {
  const VF xi = splat_f(x), yi = splat_f(y), zi = splat_f(z);
  const VU self = splat_u(self_key);
  uint32_t between = 0;
  uint32_t* next = out;
  for (int64_t r = 0; r < num_runs; ++r) {
    const int64_t end = runs[r].end;
    for (int64_t s = runs[r].begin; s < end; s += W) {
      const VF d2 = distance_sq(load_f(slots.x + s) - xi, load_f(slots.y + s) - yi, load_f(slots.z + s) - zi);
      const VU key = load_u(slots.key + s);
      const Hits hits = compare(d2, band);
      uint32_t lanes = end - s >= W ? (1u << (W - 1)) * 2u - 1u : (1u << (end - s)) - 1u;
      lanes &= kept_lanes<keep>(key, self) & hits.candidate;
      between |= lanes & ~hits.inside;
      next += compress(next, lanes, key);
    }
  }
  *undecided = between != 0;
  return next - out;
}

int64_t search(const Slots& slots, const Run* runs, int64_t num_runs, float x, float y, float z, Band band, Keep keep,
               uint32_t self_key, uint32_t* out, bool* undecided) {
  switch (keep) {
    case Keep::not_self:
      return search_runs<Keep::not_self>(slots, runs, num_runs, x, y, z, band, self_key, out, undecided);
    case Keep::above_self:
      return search_runs<Keep::above_self>(slots, runs, num_runs, x, y, z, band, self_key, out, undecided);
    case Keep::self_and_above:
      return search_runs<Keep::self_and_above>(slots, runs, num_runs, x, y, z, band, self_key, out, undecided);
    case Keep::all:
      break;
  }
  return search_runs<Keep::all>(slots, runs, num_runs, x, y, z, band, self_key, out, undecided);
}

// ---- bitonic sort: no branches on data, so a row of 90 keys costs the same whatever its order -------------------

SYMKERN_INLINE VU vmin(VU a, VU b) {
#if defined(__AVX512F__)
  return reinterpret_cast<VU>(_mm512_min_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<VU>(_mm256_min_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return a < b ? a : b;
#endif
}

SYMKERN_INLINE VU vmax(VU a, VU b) {
#if defined(__AVX512F__)
  return reinterpret_cast<VU>(_mm512_max_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<VU>(_mm256_max_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return a < b ? b : a;
#endif
}

// Lanes l and l ^ j exchanged.
template <int j>
SYMKERN_INLINE VU exchange(VU v) {
#if defined(__AVX512F__)
  const __m512i x = reinterpret_cast<__m512i>(v);
  if constexpr (j == 1) return reinterpret_cast<VU>(_mm512_shuffle_epi32(x, _MM_PERM_CDAB));
  if constexpr (j == 2) return reinterpret_cast<VU>(_mm512_shuffle_epi32(x, _MM_PERM_BADC));
  if constexpr (j == 4) return reinterpret_cast<VU>(_mm512_shuffle_i32x4(x, x, 0xb1));
  if constexpr (j == 8) return reinterpret_cast<VU>(_mm512_shuffle_i32x4(x, x, 0x4e));
#elif defined(__AVX2__)
  const __m256i x = reinterpret_cast<__m256i>(v);
  if constexpr (j == 1) return reinterpret_cast<VU>(_mm256_shuffle_epi32(x, 0xb1));
  if constexpr (j == 2) return reinterpret_cast<VU>(_mm256_shuffle_epi32(x, 0x4e));
  if constexpr (j == 4) return reinterpret_cast<VU>(_mm256_permute2x128_si256(x, x, 1));
#else
  if constexpr (j == 1) return VU{v[1], v[0], v[3], v[2]};
  if constexpr (j == 2) return VU{v[2], v[3], v[0], v[1]};
#endif
  return v;
}

// Lane l takes the larger of the pair where bit l of `mask` is set.
template <uint32_t mask>
SYMKERN_INLINE VU pick(VU smaller, VU larger) {
#if defined(__AVX512F__)
  return reinterpret_cast<VU>(_mm512_mask_mov_epi32(reinterpret_cast<__m512i>(smaller), static_cast<__mmask16>(mask),
                                                    reinterpret_cast<__m512i>(larger)));
#elif defined(__AVX2__)
  return reinterpret_cast<VU>(
      _mm256_blend_epi32(reinterpret_cast<__m256i>(smaller), reinterpret_cast<__m256i>(larger), mask & 0xff));
#else
  VU v;
  for (int l = 0; l < W; ++l) v[l] = (mask >> l) & 1 ? larger[l] : smaller[l];
  return v;
#endif
}

// Lanes whose index has bit `j`, inverted where it has bit `k` (descending half of a bitonic pair).
constexpr uint32_t larger_lanes(int j, int k) {
  uint32_t mask = 0;
  for (int l = 0; l < W; ++l) {
    const bool upper = (l & j) != 0, descending = (l & k) != 0;
    if (upper != descending) mask |= 1u << l;
  }
  return mask;
}

template <int j, int k>
SYMKERN_INLINE VU step_within(VU v, bool descending) {
  const VU p = exchange<j>(v);
  const VU lo = vmin(v, p), hi = vmax(v, p);
  constexpr uint32_t mask = larger_lanes(j, k);
  if constexpr (k < W) return pick<mask>(lo, hi);
  return descending ? pick<~mask>(lo, hi) : pick<mask>(lo, hi);
}

// The steps j = W/2 .. 1 of a merge whose direction is the same for the whole vector.
template <int j>
SYMKERN_INLINE VU merge_within(VU v, bool descending) {
  if constexpr (j >= 1) return merge_within<j / 2>(step_within<j, W>(v, descending), descending);
  return v;
}

template <int k, int j>
SYMKERN_INLINE VU sort_level(VU v) {
  if constexpr (j >= 1) return sort_level<k, j / 2>(step_within<j, k>(v, false));
  return v;
}

template <int k>
SYMKERN_INLINE VU sort_within(VU v, bool descending) {
  if constexpr (k < W) return sort_within<k * 2>(sort_level<k, k / 2>(v), descending);
  return merge_within<W / 2>(v, descending);
}

// One exchange of blocks j vectors apart, in merges of k vectors, `vectors` (a power of two) in all.
SYMKERN_INLINE void exchange_vectors(VU* v, int64_t vectors, int64_t k, int64_t j) {
#pragma GCC unroll 8
  for (int64_t p = 0; p < vectors / 2; ++p) {
    const int64_t a = p / j * 2 * j + p % j;
    const VU lo = vmin(v[a], v[a + j]), hi = vmax(v[a], v[a + j]);
    const bool descending = (a & k) != 0 && k < vectors;
    v[a] = descending ? hi : lo;
    v[a + j] = descending ? lo : hi;
  }
}

SYMKERN_INLINE void merge_vectors(VU* v, int64_t vectors, int64_t k) {
#pragma GCC unroll 16
  for (int64_t a = 0; a < vectors; ++a) v[a] = merge_within<W / 2>(v[a], (a & k) != 0 && k < vectors);
}

SYMKERN_INLINE void sort_vectors(VU* v, int64_t vectors) {
#pragma GCC unroll 16
  for (int64_t a = 0; a < vectors; ++a) v[a] = sort_within<2>(v[a], (a & 1) != 0 && vectors > 1);
}

// With the sizes as constants everything unrolls and the keys stay in registers.
template <int vectors, int k, int j>
SYMKERN_INLINE void merge_levels(VU* v) {
  if constexpr (k <= vectors) {
    exchange_vectors(v, vectors, k, j);
    if constexpr (j > 1) {
      merge_levels<vectors, k, j / 2>(v);
    } else {
      merge_vectors(v, vectors, k);
      merge_levels<vectors, k * 2, k>(v);
    }
  }
}

template <int vectors>
void bitonic_in_registers(uint32_t* keys) {
  VU v[vectors];
#pragma GCC unroll 16
  for (int a = 0; a < vectors; ++a) v[a] = load_u(keys + a * W);
  sort_vectors(v, vectors);
  merge_levels<vectors, 2, 1>(v);
#pragma GCC unroll 16
  for (int a = 0; a < vectors; ++a) store_u(keys + a * W, v[a]);
}

void bitonic_in_memory(VU* v, int64_t vectors) {
  sort_vectors(v, vectors);
  for (int64_t k = 2; k <= vectors; k *= 2) {
    for (int64_t j = k / 2; j >= 1; j /= 2) exchange_vectors(v, vectors, k, j);
    merge_vectors(v, vectors, k);
  }
}

void sort_keys(uint32_t* keys, int64_t count) {
  if (count < 2) return;
  int64_t vectors = 1;
  while (vectors * W < count) vectors *= 2;
  for (int64_t k = count; k < vectors * W; ++k) keys[k] = ~0u;
  switch (vectors) {
    case 1:
      return bitonic_in_registers<1>(keys);
    case 2:
      return bitonic_in_registers<2>(keys);
    case 4:
      return bitonic_in_registers<4>(keys);
    case 8:
      return bitonic_in_registers<8>(keys);
    case 16:
      return bitonic_in_registers<16>(keys);
    default:
      return bitonic_in_memory(reinterpret_cast<VU*>(keys), vectors);
  }
}

void expand(const uint32_t* __restrict__ keys, int64_t count, int image_bits, int64_t first, int64_t receiver,
            int64_t* __restrict__ senders, int64_t* __restrict__ receivers) {
  for (int64_t k = 0; k < count; ++k) senders[k] = first + static_cast<int64_t>(keys[k] >> image_bits);
  for (int64_t k = 0; k < count; ++k) receivers[k] = receiver;
}

void expand_shifts(const uint32_t* keys, int64_t count, int image_bits, const Int4* images, const Int4* home,
                   Int4 home_of_receiver, int32_t* shifts) {
  typedef int32_t V4 __attribute__((vector_size(16), aligned(4), may_alias));
  const uint32_t mask = (1u << image_bits) - 1u;
  const V4 origin = *reinterpret_cast<const V4*>(&home_of_receiver);
  const auto shift = [&](int64_t k) {
    const V4 image = *reinterpret_cast<const V4*>(images + (keys[k] & mask));
    return home == nullptr ? image : image + *reinterpret_cast<const V4*>(home + (keys[k] >> image_bits)) - origin;
  };
  // four integers at a time: the fourth is overwritten by the next edge, except after the last
  for (int64_t k = 0; k + 1 < count; ++k) *reinterpret_cast<V4*>(shifts + 3 * k) = shift(k);
  if (count > 0) {
    const V4 last = shift(count - 1);
    for (int c = 0; c < 3; ++c) shifts[3 * (count - 1) + c] = last[c];
  }
}

}  // namespace

const NeighborKernels* SYMKERN_CONCAT(neighbor_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr NeighborKernels table = {to_local_float, to_local_double, pair_bits, decode_bits,
                                            search,         sort_keys,       expand,    expand_shifts};
  return &table;
}

}  // namespace symkern
