// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512; everything but the table
// at the end has internal linkage or is always inlined (scripts/audit.py looks at the symbols).
//
// Lanes are queries, targets are broadcast. Distances in the lanes are those of direct differences in the precision of
// the points, rounded and contracted as the level does it: a filter. Each lane keeps its best and a lower bound of all
// it did not choose; where the two are within rounding, the definition in ops/chamfer.h decides, with ties to the
// lowest index. So the index is the same for every level and schedule.
#include "core/simd.h"

#include <utility>

#include "ops/chamfer.h"
#include "ops/chamfer_simd.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {
namespace {

template <class S>
struct Wide {
  static constexpr int width = W * 4 / sizeof(S);
  typedef S Vector __attribute__((vector_size(W * 4)));
  typedef S Memory __attribute__((vector_size(W * 4), aligned(sizeof(S)), may_alias));
  using Integers = decltype(Vector{} < Vector{});

  SYMKERN_INLINE Vector splat(S x) { return x - Vector{}; }
  SYMKERN_INLINE Vector load(const S* p) { return *reinterpret_cast<const Memory*>(p); }
  SYMKERN_INLINE void store(S* p, Vector v) { *reinterpret_cast<Memory*>(p) = v; }

  using Lanes = std::make_integer_sequence<int, width>;

  // Lane l: number 3 l + k of the 3 * width at p.
  template <int k, int... l>
  SYMKERN_INLINE Vector every_third(const S* p, std::integer_sequence<int, l...>) {
    const Vector a = load(p), b = load(p + width), c = load(p + 2 * width);
    const Vector ab = __builtin_shufflevector(a, b, (3 * l + k < 2 * width ? 3 * l + k : 0)...);
    return __builtin_shufflevector(ab, c, (3 * l + k < 2 * width ? l : 3 * l + k - width)...);
  }

  SYMKERN_INLINE void store_int32(int32_t* p, Integers v) {
    typedef int32_t Narrow __attribute__((vector_size(4 * width)));
    typedef int32_t NarrowMemory __attribute__((vector_size(4 * width), aligned(4), may_alias));
    *reinterpret_cast<NarrowMemory*>(p) = __builtin_convertvector(v, Narrow);
  }

#if defined(__AVX512F__)
#define SYMKERN_CHOOSE(op, cast)                                                             \
  if constexpr (sizeof(S) == 4)                                                              \
    return cast(_mm512_##op##_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b))); \
  if constexpr (sizeof(S) == 8)                                                              \
  return cast(_mm512_##op##_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b)))
#elif defined(__AVX2__)
#define SYMKERN_CHOOSE(op, cast)                                                             \
  if constexpr (sizeof(S) == 4)                                                              \
    return cast(_mm256_##op##_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b))); \
  if constexpr (sizeof(S) == 8)                                                              \
  return cast(_mm256_##op##_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b)))
#elif defined(__SSE2__)
#define SYMKERN_CHOOSE(op, cast)                                                                                      \
  if constexpr (sizeof(S) == 4) return cast(_mm_##op##_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b))); \
  if constexpr (sizeof(S) == 8) return cast(_mm_##op##_pd(reinterpret_cast<__m128d>(a), reinterpret_cast<__m128d>(b)))
#endif

#if defined(__SSE2__)
  SYMKERN_INLINE Vector smaller(Vector a, Vector b) { SYMKERN_CHOOSE(min, reinterpret_cast<Vector>); }
  SYMKERN_INLINE Vector larger(Vector a, Vector b) { SYMKERN_CHOOSE(max, reinterpret_cast<Vector>); }
#else
  SYMKERN_INLINE Vector smaller(Vector a, Vector b) { return a < b ? a : b; }
  SYMKERN_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }
#endif

  // Bit l: a < b in lane l.
  SYMKERN_INLINE uint32_t below(Vector a, Vector b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 4) {
      return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_LT_OQ);
    } else {
      return _mm512_cmp_pd_mask(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), _CMP_LT_OQ);
    }
#elif defined(__AVX2__)
    const Integers less = a < b;
    if constexpr (sizeof(S) == 4) {
      return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(less)));
    } else {
      return static_cast<uint32_t>(_mm256_movemask_pd(reinterpret_cast<__m256d>(less)));
    }
#elif defined(__SSE2__)
    const Integers less = a < b;
    if constexpr (sizeof(S) == 4) {
      return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(less)));
    } else {
      return static_cast<uint32_t>(_mm_movemask_pd(reinterpret_cast<__m128d>(less)));
    }
#else
    uint32_t mask = 0;
    for (int l = 0; l < width; ++l) mask |= static_cast<uint32_t>(a[l] < b[l]) << l;
    return mask;
#endif
  }

  SYMKERN_INLINE S largest(Vector v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 4) return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
    if constexpr (sizeof(S) == 8) return _mm512_reduce_max_pd(reinterpret_cast<__m512d>(v));
#endif
    S x[width];
    store(x, v);
#pragma GCC unroll 16
    for (int half = width / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) x[l] = x[l] < x[l + half] ? x[l + half] : x[l];
    }
    return x[0];
  }
};

// ---- rounding -------------------------------------------------------------------------------------------------------

// A distance in the lanes, and a lower bound by a box, is within 6 roundings of the true one, and within a few of the
// smallest normal number where products underflow.
template <class S>
constexpr S kRounding = sizeof(S) == 4 ? S(0x1p-20) : S(0x1p-49);
template <class S>
constexpr S kUnderflow = sizeof(S) == 4 ? S(0x1p-120) : S(0x1p-1016);

// Nothing whose distance in the lanes is above this can be as near as one whose distance is d.
template <class N>
SYMKERN_FORMULA N highest_rival(N d) {
  using S = decltype(d[0] + d[0]);
  return d * (1 + 2 * kRounding<S>)+kUnderflow<S>;
}
SYMKERN_FORMULA float highest_rival_of(float d) { return d * (1 + 2 * kRounding<float>)+kUnderflow<float>; }
SYMKERN_FORMULA double highest_rival_of(double d) { return d * (1 + 2 * kRounding<double>)+kUnderflow<double>; }

// ---- lanes ----------------------------------------------------------------------------------------------------------

template <class S>
struct Packet {
  using N = Wide<S>;
  using Vector = typename N::Vector;
  using Integers = typename N::Integers;
  static constexpr S kInfinity = __builtin_inf();

  Vector x[3];
  Vector best, rival;  // rival: lower bound of everything else
  Integers at;

  // Lanes beyond the `readable` points repeat the last.
  SYMKERN_FORMULA Packet(const S* points, int64_t readable) {
    S padded[3 * N::width];
    if (readable < N::width) {
      for (int l = 0; l < N::width; ++l) {
        const S* p = points + 3 * (l < readable ? l : readable - 1);
        for (int k = 0; k < 3; ++k) padded[3 * l + k] = p[k];
      }
      points = padded;
    }
    x[0] = N::template every_third<0>(points, typename N::Lanes{});
    x[1] = N::template every_third<1>(points, typename N::Lanes{});
    x[2] = N::template every_third<2>(points, typename N::Lanes{});
    best = rival = N::splat(kInfinity);
    at = Integers{};
  }

  SYMKERN_FORMULA void offer(S px, S py, S pz, Integers number) {
    const Vector dx = N::splat(px) - x[0], dy = N::splat(py) - x[1], dz = N::splat(pz) - x[2];
    const Vector d = dx * dx + dy * dy + dz * dz;
    at = d < best ? number : at;
    rival = N::smaller(rival, N::larger(d, best));
    best = N::smaller(best, d);
  }

  // Lanes whose choice rounding could have changed.
  SYMKERN_FORMULA uint32_t undecided() const { return ~N::below(highest_rival(best), rival) & ((1u << N::width) - 1u); }
};

// ---- all pairs ------------------------------------------------------------------------------------------------------

template <class S>
int32_t decide_all(const S* x, const S* y, int64_t m, S distance) {
  const S limit = highest_rival_of(distance);
  Nearest best{0, -1};
  for (int64_t j = 0; j < m; ++j) {
    const S dx = y[3 * j] - x[0], dy = y[3 * j + 1] - x[1], dz = y[3 * j + 2] - x[2];
    if (!(dx * dx + dy * dy + dz * dz > limit)) best.offer(nearest_distance_sq(x, y + 3 * j), j);
  }
  return static_cast<int32_t>(best.index);
}

template <class S>
void all_pairs(const S* x, int64_t n, int64_t readable, const S* y, int64_t m, int32_t* index) {
  using N = Wide<S>;
  for (int64_t done = 0; done < n;) {
    // the last packet begins early enough to be full
    const int64_t i = n < N::width || done + N::width <= n ? done : n - N::width;
    const int64_t count = n < N::width ? n : N::width;
    Packet<S> packet(x + 3 * i, readable - i);
    typename N::Integers number{};
    for (int64_t j = 0; j < m; ++j, number += 1) packet.offer(y[3 * j], y[3 * j + 1], y[3 * j + 2], number);
    int32_t at[N::width];
    N::store_int32(count == N::width ? index + i : at, packet.at);
    for (int64_t l = 0; l < count && count < N::width; ++l) index[l] = at[l];
    for (uint32_t left = packet.undecided() & ((1u << count) - 1u); left != 0; left &= left - 1) {
      const int l = __builtin_ctz(left);
      index[i + l] = decide_all<S>(x + 3 * (i + l), y, m, packet.best[l]);
    }
    done = i + count;
  }
}

// ---- tree -----------------------------------------------------------------------------------------------------------

// Lower bounds of the distances between anything in the box low .. high and the nodes of a group, a vector at a time.
template <class S>
SYMKERN_FORMULA typename Wide<S>::Vector gaps(const typename PointTree<S>::Group& group, int first, const S* low,
                                              const S* high) {
  using N = Wide<S>;
  typename N::Vector sum{};
  for (int k = 0; k < 3; ++k) {
    const auto below = N::load(group.low[k] + first) - N::splat(high[k]);
    const auto above = N::splat(low[k]) - N::load(group.high[k] + first);
    const auto gap = N::larger(N::larger(below, above), typename N::Vector{});
    sum += gap * gap;
  }
  return sum;
}

template <class S>
SYMKERN_FORMULA typename Wide<S>::Vector lane_gaps(const typename PointTree<S>::Group& group, int node,
                                                   const typename Wide<S>::Vector* x) {
  using N = Wide<S>;
  typename N::Vector sum{};
  for (int k = 0; k < 3; ++k) {
    const auto below = N::splat(group.low[k][node]) - x[k], above = x[k] - N::splat(group.high[k][node]);
    const auto gap = N::larger(N::larger(below, above), typename N::Vector{});
    sum += gap * gap;
  }
  return sum;
}

struct Place {
  int level;
  int64_t node;
};

// A lower bound of the distance that decides.
template <class S>
SYMKERN_FORMULA double exact_gap(const S* x, const typename PointTree<S>::Group& group, int node) {
  double gap[3];
  for (int k = 0; k < 3; ++k) {
    const double below = double{group.low[k][node]} - double{x[k]}, above = double{x[k]} - double{group.high[k][node]};
    gap[k] = below > 0 ? below : above > 0 ? above : 0;
  }
  return distance_sq(gap[0], gap[1], gap[2]);
}

// One query, from a guess, by the distance that decides. Lanes are targets and nodes.
template <class S>
struct LoneSearch {
  using N = Wide<S>;
  using Group = typename PointTree<S>::Group;
  static constexpr int fan = PointTree<S>::kFan;

  struct Candidate {
    int level;
    int32_t first_id;
    int64_t node;
    double gap;
  };

  const PointTree<S>& tree;
  const S* x;
  Nearest best;
  int64_t place;     // of the best
  S limit, certain;  // above the one nothing can win, below the other it must be looked at

  SYMKERN_FORMULA void consider(int64_t at) {
    if (at >= tree.n) return;  // absent: infinitely far, as others may be where squares overflow
    const typename PointTree<S>::Leaf& leaf = tree.leaf[at / fan];
    const S y[3] = {leaf.r[0][at % fan], leaf.r[1][at % fan], leaf.r[2][at % fan]};
    const double d = nearest_distance_sq(x, y);
    if (!best.loses_to(d, tree.id[at])) return;
    best = {d, tree.id[at]};
    place = at;
    const S distance = static_cast<S>(best.distance_sq);
    limit = highest_rival_of(distance), certain = distance * (1 - kRounding<S>);
  }

  SYMKERN_FORMULA uint32_t within_limit(typename N::Vector d) const {
    return ~N::below(N::splat(limit), d) & ((1u << N::width) - 1u);
  }

  SYMKERN_FORMULA void look(int64_t leaf) {
    for (int first = 0; first < fan; first += N::width) {
      typename N::Vector d{};
      for (int k = 0; k < 3; ++k) {
        const auto gap = N::load(tree.leaf[leaf].r[k] + first) - N::splat(x[k]);
        d += gap * gap;
      }
      for (uint32_t near = within_limit(d); near != 0; near &= near - 1) {
        const int c = __builtin_ctz(near);
        if (!(d[c] > limit)) consider(fan * leaf + first + c);
      }
    }
  }

  __attribute__((noinline)) LoneSearch(const PointTree<S>& tree, const S* x, int64_t guess)
      : tree(tree), x(x), best{0, -1} {
    consider(guess);
    Candidate stack[PointTree<S>::kMaxLevels * fan];
    int depth = 0;
    stack[depth++] = {tree.levels, 0, 0, 0};
    while (depth > 0) {
      const Candidate here = stack[--depth];
      if (!best.loses_to(here.gap, here.first_id)) continue;
      if (here.level == 0) {
        look(here.node);
        continue;
      }
      const Group& group = tree.level[here.level - 1][here.node];
      for (int first = fan - N::width; first >= 0; first -= N::width) {
        const auto gap = gaps<S>(group, first, x, x);
        for (uint32_t near = within_limit(gap); near != 0;) {  // the stack turns the order around
          const int bit = 31 - __builtin_clz(near), c = first + bit;
          near ^= 1u << bit;
          const double bound = gap[bit] < certain ? gap[bit] * (1 - 2 * kRounding<S>) : exact_gap<S>(x, group, c);
          if (best.loses_to(bound, group.first_id[c])) {
            stack[depth++] = {here.level - 1, group.first_id[c], fan * here.node + c, bound};
          }
        }
      }
    }
  }
};

template <class S>
SYMKERN_FORMULA void search_tree(const PointTree<S>& tree, int64_t seed, Packet<S>& packet) {
  using N = Wide<S>;
  using Vector = typename N::Vector;
  using Group = typename PointTree<S>::Group;
  constexpr int fan = PointTree<S>::kFan;
  S low[3], high[3];  // box of the queries
  for (int k = 0; k < 3; ++k) low[k] = -N::largest(-packet.x[k]), high[k] = N::largest(packet.x[k]);
  constexpr S shrink = 1 - kRounding<S>;  // what is not nearer by more than this is a rival, not a reason to look
  const auto scan_leaf = [&](int64_t node) __attribute__((always_inline)) {
    const typename PointTree<S>::Leaf& leaf = tree.leaf[node];
    using Integer = decltype(packet.at[0] + 0);
    typename N::Integers number = typename N::Integers{} + static_cast<Integer>(fan * node);
    for (int c = 0; c < fan; ++c, number += 1) packet.offer(leaf.r[0][c], leaf.r[1][c], leaf.r[2][c], number);
  };
  scan_leaf(seed);
  Vector far = N::splat(Packet<S>::kInfinity);  // lower bounds of nodes that were far from all queries
  Place stack[PointTree<S>::kMaxLevels * fan];
  int depth = 0;
  stack[depth++] = {tree.levels - 1, 0};
  while (depth > 0) {
    const Place here = stack[--depth];
    const Group& group = tree.level[here.level][here.node];
    const Vector reach = N::splat(N::largest(packet.best) * shrink);
    uint32_t near = 0;
    for (int first = 0; first < fan; first += N::width) {
      const Vector gap = gaps<S>(group, first, low, high);
      far = N::smaller(far, gap < reach ? N::splat(Packet<S>::kInfinity) : gap);
      near |= N::below(gap, reach) << first;
    }
    for (; near != 0; near &= near - 1) {
      const int c = __builtin_ctz(near);
      const int64_t node = fan * here.node + c;
      if (here.level == 0 && node == seed) continue;
      const Vector gap = lane_gaps<S>(group, c, packet.x);
      if (N::below(gap, packet.best * shrink) == 0) {
        packet.rival = N::smaller(packet.rival, gap);
      } else if (here.level == 0) {
        scan_leaf(node);
      } else {
        stack[depth++] = {here.level - 1, node};
      }
    }
  }
  packet.rival = N::smaller(packet.rival, N::splat(-N::largest(-far)));
}

// Whether `count` queries are equal to the one before them, if there is one.
template <class S>
SYMKERN_FORMULA bool repeats(const S* x, int64_t before, int64_t count) {
  return before > 0 && __builtin_memcmp(x - 3, x, sizeof(S) * 3 * static_cast<size_t>(count)) == 0;
}

template <class S>
void in_tree(const PointTree<S>& tree, const S* x, int64_t n, int32_t* id) {
  using N = Wide<S>;
  int64_t place = n > 0 ? LoneSearch<S>(tree, x, 0).place : 0;  // of the last query's nearest: close to the next one
  for (int64_t i = 0; i < n; i += N::width) {
    const int64_t count = n - i < N::width ? n - i : N::width;
    if (repeats(x + 3 * i, i, count)) {
      for (int l = 0; l < count; ++l) id[i + l] = tree.id[place];
      continue;
    }
    Packet<S> packet(x + 3 * i, n - i);
    search_tree<S>(tree, place / PointTree<S>::kFan, packet);
    const uint32_t undecided = packet.undecided();
    for (int l = 0; l < count; ++l) {
      if (((undecided >> l) & 1) == 0) {
        place = packet.at[l];
      } else if (!repeats(x + 3 * (i + l), i + l, 1)) {
        place = LoneSearch<S>(tree, x + 3 * (i + l), packet.at[l]).place;
      }
      id[i + l] = tree.id[place];
    }
  }
}

}  // namespace

const NearestLevel* SYMKERN_CONCAT(symkern_chamfer_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr NearestLevel level{{all_pairs<float>, in_tree<float>}, {all_pairs<double>, in_tree<double>}};
  return &level;
}

}  // namespace symkern
