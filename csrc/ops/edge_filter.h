// Filters F(d) of edges: a radial basis of the distance, then a linear layer (PaiNN) or a small network (SchNet), times
// the cosine cutoff. What cfconv.h and painn_message.h share.
//
// A row of a pass is a filter. On the host it serves both directions of a pair whose distances are the same number, on
// the device one edge. Derivatives in d are carried forward through the network, so that the gradient of d is a sum
// over channels, separate for each edge; gradients of parameters run backward, for A.F + B.F' with a row of A and B per
// filter. F depends on one number per row, hence F' costs as much as F.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/tile.h"
#include "ops/radial_basis.h"

namespace symkern {

template <class S>
struct FilterInput {
  int64_t atoms;
  int width, basis;    // F, a multiple of 16, and K
  const S *d, *p, *q;  // (edges), (K), (K) or null
  BasisKind kind;
  RadialShape<S> shape;  // with the cosine envelope
  const int64_t *senders, *receivers;
  // row r is the edge order[r], or r where order is null; and the edge reverse[r] as well, unless that is null
  const int64_t *order, *reverse;

  SYMKERN_FORMULA int sides() const { return reverse != nullptr ? 2 : 1; }
  SYMKERN_FORMULA int64_t edge(int side, int64_t row) const {
    return side == 1 ? reverse[row] : order != nullptr ? order[row] : row;
  }
};

// Null: not asked for. Widths as the filter has them; `basis16` is K to the next multiple of 16.
template <class S>
struct FilterSums {
  S *first_weight, *first_bias;    // (K, width): transposed; (width)
  S *second_weight, *second_bias;  // network only: (F, F), (F)
  S *p, *q;                        // (basis16)

  SYMKERN_FORMULA bool basis() const { return p != nullptr || q != nullptr; }
  SYMKERN_FORMULA bool any() const {
    return basis() || first_weight != nullptr || first_bias != nullptr || second_weight != nullptr ||
           second_bias != nullptr;
  }
  // Moves them, so that each block of a device has its own.
  SYMKERN_HD void shift(int64_t by) {
    S** const all[] = {&first_weight, &first_bias, &second_weight, &second_bias, &p, &q};
    for (S** x : all) *x = *x != nullptr ? *x + by : nullptr;
  }
};

// The basis of the rows of a tile, with as many derivatives as `order` says; of basis times cutoff if `cut`.
template <class B, bool cut>
struct FilterBasis {
  using S = typename B::Scalar;
  using L = typename B::Lanes;
  using V = typename L::Vector;

  const FilterInput<S>& in;
  int order, ld, basis16;  // of (rows, K); K to the next multiple of 16
  S *d, *t[3], *u[3];      // one number per row
  S* e[3];                 // (rows, K)

  SYMKERN_FORMULA FilterBasis(B& block, const FilterInput<S>& input, int derivatives)
      : in(input),
        order(derivatives),
        ld(B::ld(input.basis)),
        basis16((input.basis + 15) / 16 * 16),
        d(block.column()) {
    for (int k = 0; k < 3; ++k) {
      t[k] = block.column(), u[k] = block.column();
      e[k] = k <= order ? block.tile(in.basis) : nullptr;
    }
  }

  SYMKERN_FORMULA RadialRow<V> row(int r) const {
    RadialRow<V> x{L::splat(d[r]),
                   {L::splat(t[0][r]), L::splat(t[1][r]), L::splat(t[2][r])},
                   {L::splat(1), L::splat(0), L::splat(0)}};
    if constexpr (cut) x.u = {L::splat(u[0][r]), L::splat(u[1][r]), L::splat(u[2][r])};
    return x;
  }

  template <BasisKind kind>
  SYMKERN_FORMULA BasisJet<V> jet(int r, int k) const {
    const int left = in.basis - k;
    const auto load = [&](const S* x) {
      return x == nullptr ? L::splat(0) : left >= L::width ? L::load(x + k) : L::load_first(x + k, left);
    };
    return radial<kind>(in.shape, row(r), load(in.p), load(in.q));
  }

  // f(constant of the kind)
  template <class F>
  SYMKERN_FORMULA void with_kind(F f) const {
    if (in.kind == BasisKind::gaussian) return f(std::integral_constant<BasisKind, BasisKind::gaussian>());
    if (in.kind == BasisKind::bessel) return f(std::integral_constant<BasisKind, BasisKind::bessel>());
    f(std::integral_constant<BasisKind, BasisKind::expnorm>());
  }

  SYMKERN_FORMULA void evaluate(B& block, int64_t begin, int n) const {
    // whole vectors of rows: those beyond the last repeat it
    const int rows = (n + 15) / 16 * 16;
    block.each_row(rows, [&](int r) {
      const int64_t e = in.edge(0, begin + (r < n ? r : n - 1));
      const S x = in.d[e];
      const bool good = B::good(in.senders[e], in.atoms) && B::good(in.receivers[e], in.atoms) && x >= 0 && x - x == 0;
      d[r] = good ? x : S(NAN);
    });
    block.each(1, rows, [&](int, int r) {
      const RadialRow<V> x = radial_row(in.shape, in.kind, V(L::load(d + r)));
      L::store(d + r, x.d);
      L::store(t[0] + r, x.t.f), L::store(t[1] + r, x.t.d1), L::store(t[2] + r, x.t.d2);
      L::store(u[0] + r, x.u.f), L::store(u[1] + r, x.u.d1), L::store(u[2] + r, x.u.d2);
    });
    with_kind([&](auto kind) {
      if (order == 0) return fill<decltype(kind)::value, 0>(block, n);
      if (order == 1) return fill<decltype(kind)::value, 1>(block, n);
      fill<decltype(kind)::value, 2>(block, n);
    });
  }

  template <BasisKind kind, int derivatives>
  SYMKERN_FORMULA void fill(B& block, int n) const {
    block.each(n, basis16, [&](int r, int k) {
      if (k >= in.basis) return;
      const BasisJet<V> x = jet<kind>(r, k);
      const int at = r * ld + k;
      L::store(e[0] + at, x.f);
      if constexpr (derivatives > 0) L::store(e[1] + at, x.d);
      if constexpr (derivatives > 1) L::store(e[2] + at, x.dd);
    });
  }

  // Gradients of the parameters, from those of the basis and of its derivative (or null): a0 and a1 (rows, K).
  SYMKERN_FORMULA void add_parameters(B& block, int n, const S* a0, const S* a1, const FilterSums<S>& sums) const {
    with_kind([&](auto kind) {
      const auto share = [&](int r, int k, const auto& pick) {
        if (k >= in.basis) return V(L::splat(0));
        const BasisJet<V> x = jet<decltype(kind)::value>(r, k);
        V sum = L::load(a0 + r * ld + k) * pick(x, 0);
        if (a1 != nullptr) sum += L::load(a1 + r * ld + k) * pick(x, 1);
        return sum;
      };
      if (sums.p != nullptr) {
        const auto pick = [](const BasisJet<V>& x, int slope) { return slope ? x.dp : x.p; };
        block.add_columns(n, basis16, [&](int r, int k) { return share(r, k, pick); }, sums.p);
      }
      if (sums.q != nullptr) {
        const auto pick = [](const BasisJet<V>& x, int slope) { return slope ? x.dq : x.q; };
        block.add_columns(n, basis16, [&](int r, int k) { return share(r, k, pick); }, sums.q);
      }
    });
  }
};

// F = (W b + c) u, with `width` channels, in F[0] and its derivatives in F[1], F[2].
template <class B>
struct LinearFilter {
  using S = typename B::Scalar;
  using L = typename B::Lanes;
  using V = typename L::Vector;

  FilterBasis<B, true> basis;
  TileWeight<S> weight, weight_t;  // (K, width), (width, K to 16)
  const S* bias;
  int width, ld;
  S* F[3];
  S* grad[2];  // (rows, K)

  SYMKERN_FORMULA LinearFilter(B& block, const FilterInput<S>& in, const TileWeight<S>& w, const TileWeight<S>& w_t,
                               const S* c, int derivatives, const FilterSums<S>& sums)
      : basis(block, in, derivatives),
        weight(block.weight(w)),
        weight_t(sums.basis() ? block.weight(w_t) : w_t),
        bias(c),
        width(w.n),
        ld(B::ld(w.n)) {
    for (int k = 0; k < 3; ++k) F[k] = k <= derivatives ? block.tile(width) : nullptr;
    for (int k = 0; k < 2; ++k) grad[k] = sums.basis() && k <= derivatives ? block.tile(in.basis) : nullptr;
  }

  SYMKERN_FORMULA void evaluate(B& block, int64_t begin, int n) {
    basis.evaluate(block, begin, n);
    const auto pick = [](const auto& x, int k) { return k == 0 ? x[0] : k == 1 ? x[1] : x[2]; };  // registers, no array
    for (int k = 0; k <= basis.order; ++k) {
      const S* u = pick(basis.u, k);
      S* to = pick(F, k);
      block.product(n, pick(basis.e, k), basis.ld, weight,
                    [&](int r, int c, V x) { L::store(to + r * ld + c, x + L::load(bias + c) * L::splat(u[r])); });
    }
  }

  // Gradients of the parameters along a.F + b.F'; b may be null.
  SYMKERN_FORMULA void reverse(B& block, int n, const S* a, const S* b, const FilterSums<S>& sums) {
    const S *u = basis.u[0], *u1 = basis.u[1];
    if (sums.first_bias != nullptr) {
      const auto share = [&](int r, int c) {
        V x = L::load(a + r * ld + c) * L::splat(u[r]);
        if (b != nullptr) x += L::load(b + r * ld + c) * L::splat(u1[r]);
        return x;
      };
      block.add_columns(n, width, share, sums.first_bias);
    }
    if (sums.first_weight != nullptr) {
      block.add_product(n, basis.e[0], basis.ld, basis.in.basis, a, ld, width, sums.first_weight);
      if (b != nullptr) block.add_product(n, basis.e[1], basis.ld, basis.in.basis, b, ld, width, sums.first_weight);
    }
    if (!sums.basis()) return;
    const auto to = [&](S* g) { return [g, ldk = basis.ld](int r, int c, V x) { L::store(g + r * ldk + c, x); }; };
    block.product(n, a, ld, weight_t, to(grad[0]));
    if (b != nullptr) block.product(n, b, ld, weight_t, to(grad[1]));
    basis.add_parameters(block, n, grad[0], b != nullptr ? grad[1] : nullptr, sums);
  }
};

// F = (W_2 ssp(W_1 b + b_1) + b_2) u, with its derivatives.
template <class B>
struct NetworkFilter {
  using S = typename B::Scalar;
  using L = typename B::Lanes;
  using V = typename L::Vector;

  struct Weights {
    TileWeight<S> first, second;      // (K, F), (F, F)
    TileWeight<S> first_t, second_t;  // (F, K to 16), (F, F)
    const S *first_bias, *second_bias;
  };

  FilterBasis<B, false> basis;
  Weights w;
  int width, ld;
  S* F[3];
  S* inner[3];    // ssp(z) of z = W_1 b + b_1, and its derivatives in d
  S *slope, *z1;  // ssp'(z), z'
  S* grad[2];     // (rows, K)

  SYMKERN_FORMULA NetworkFilter(B& block, const FilterInput<S>& in, const Weights& weights, int derivatives,
                                const FilterSums<S>& sums)
      : basis(block, in, derivatives), w(weights), width(in.width), ld(B::ld(in.width)) {
    w.first = block.weight(w.first), w.second = block.weight(w.second);
    if (sums.any()) w.second_t = block.weight(w.second_t);
    if (sums.basis()) w.first_t = block.weight(w.first_t);
    for (int k = 0; k < 3; ++k) {
      inner[k] = k <= derivatives ? block.tile(width) : nullptr;
      F[k] = k <= derivatives ? block.tile(width) : nullptr;
    }
    slope = derivatives > 0 || sums.any() ? block.tile(width) : nullptr;
    z1 = derivatives > 0 ? block.tile(width) : nullptr;
    for (int k = 0; k < 2; ++k) grad[k] = sums.basis() && k <= derivatives ? block.tile(in.basis) : nullptr;
  }

  SYMKERN_FORMULA void evaluate(B& block, int64_t begin, int n) {
    basis.evaluate(block, begin, n);
    const int order = basis.order;
    block.product(n, basis.e[0], basis.ld, w.first, [&](int r, int c, V x) {
      const Activation<V> y = shifted_softplus<S, V>(x + L::load(w.first_bias + c));
      L::store(inner[0] + r * ld + c, y.f);
      if (slope != nullptr) L::store(slope + r * ld + c, y.d);
    });
    if (order > 0) {
      block.product(n, basis.e[1], basis.ld, w.first, [&](int r, int c, V x) {
        L::store(z1 + r * ld + c, x);
        L::store(inner[1] + r * ld + c, L::load(slope + r * ld + c) * x);
      });
    }
    if (order > 1) {
      block.product(n, basis.e[2], basis.ld, w.first, [&](int r, int c, V x) {
        const V s = L::load(slope + r * ld + c), z = L::load(z1 + r * ld + c);
        L::store(inner[2] + r * ld + c, s * (x + (S(1) - s) * z * z));
      });
    }
    // highest derivative first: each product adds its share to those below (Leibniz)
    const S *u0 = basis.u[0], *u1 = basis.u[1], *u2 = basis.u[2];
    if (order > 1) {
      block.product(n, inner[2], ld, w.second,
                    [&](int r, int c, V x) { L::store(F[2] + r * ld + c, x * L::splat(u0[r])); });
    }
    if (order > 0) {
      block.product(n, inner[1], ld, w.second, [&](int r, int c, V x) {
        const int at = r * ld + c;
        L::store(F[1] + at, x * L::splat(u0[r]));
        if (order > 1) L::store(F[2] + at, L::load(F[2] + at) + x * L::splat(u1[r] + u1[r]));
      });
    }
    block.product(n, inner[0], ld, w.second, [&](int r, int c, V x) {
      const int at = r * ld + c;
      const V f = x + L::load(w.second_bias + c);
      L::store(F[0] + at, f * L::splat(u0[r]));
      if (order > 0) L::store(F[1] + at, L::load(F[1] + at) + f * L::splat(u1[r]));
      if (order > 1) L::store(F[2] + at, L::load(F[2] + at) + f * L::splat(u2[r]));
    });
  }

  // Gradients of the parameters along a.F + b.F'; b may be null. Overwrites a, b and F.
  SYMKERN_FORMULA void reverse(B& block, int n, S* a, S* b, const FilterSums<S>& sums) {
    const S *u = basis.u[0], *u1 = basis.u[1];
    block.each(n, width, [&](int r, int c) {
      const int at = r * ld + c;
      V x = L::load(a + at) * L::splat(u[r]);
      if (b != nullptr) {
        const V y = L::load(b + at);
        x += y * L::splat(u1[r]);
        L::store(b + at, y * L::splat(u[r]));
      }
      L::store(a + at, x);
    });
    if (sums.second_bias != nullptr) {
      block.add_columns(n, width, [&](int r, int c) { return L::load(a + r * ld + c); }, sums.second_bias);
    }
    if (sums.second_weight != nullptr) {
      block.add_product(n, a, ld, width, inner[0], ld, width, sums.second_weight);
      if (b != nullptr) block.add_product(n, b, ld, width, inner[1], ld, width, sums.second_weight);
    }
    if (sums.first_weight == nullptr && sums.first_bias == nullptr && !sums.basis()) return;
    S *x0 = F[0], *x1 = b != nullptr ? F[1] : nullptr;  // gradients of z and z'
    block.product(n, a, ld, w.second_t,
                  [&](int r, int c, V x) { L::store(x0 + r * ld + c, x * L::load(slope + r * ld + c)); });
    if (b != nullptr) {
      block.product(n, b, ld, w.second_t, [&](int r, int c, V x) {
        const int at = r * ld + c;
        const V s = L::load(slope + at), y = x * s;
        L::store(x1 + at, y);
        L::store(x0 + at, L::load(x0 + at) + y * (S(1) - s) * L::load(z1 + at));
      });
    }
    if (sums.first_bias != nullptr) {
      block.add_columns(n, width, [&](int r, int c) { return L::load(x0 + r * ld + c); }, sums.first_bias);
    }
    if (sums.first_weight != nullptr) {
      block.add_product(n, basis.e[0], basis.ld, basis.in.basis, x0, ld, width, sums.first_weight);
      if (b != nullptr) block.add_product(n, basis.e[1], basis.ld, basis.in.basis, x1, ld, width, sums.first_weight);
    }
    if (!sums.basis()) return;
    const auto to = [&](S* g) { return [g, ldk = basis.ld](int r, int c, V x) { L::store(g + r * ldk + c, x); }; };
    block.product(n, x0, ld, w.first_t, to(grad[0]));
    if (b != nullptr) block.product(n, x1, ld, w.first_t, to(grad[1]));
    basis.add_parameters(block, n, grad[0], b != nullptr ? grad[1] : nullptr, sums);
  }
};

}  // namespace symkern
