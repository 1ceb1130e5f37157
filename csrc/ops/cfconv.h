// SchNet's continuous-filter convolution (symkern/ops/cfconv.py has the formula) and its first two derivatives, as
// passes over filters in tiles: see core/tile.h and ops/edge_filter.h.
//
// Outputs that are null are not computed. `out`-like sums over atoms start as zero. Where rows have one side, those at
// receivers want rows in order of receivers, those at senders in order of senders (see add_to in core/tile.h).
#pragma once

#include "ops/edge_filter.h"

namespace symkern {

template <class S>
struct CfconvInput {
  FilterInput<S> filter;
  const S* h;  // (atoms, F)
  TileWeight<S> first, second, first_t, second_t;
  const S *first_bias, *second_bias;

  template <class B>
  SYMKERN_FORMULA NetworkFilter<B> make(B& block, int order, const FilterSums<S>& sums) const {
    return NetworkFilter<B>(block, filter, {first, second, first_t, second_t, first_bias, second_bias}, order, sums);
  }
};

template <class S>
struct CfconvForward {
  using Scalar = S;
  CfconvInput<S> in;
  S* out;  // (atoms, F), at receivers

  template <class B>
  SYMKERN_FORMULA void tiles(B& block) const {
    (*this)(block, TileRange{0, 0});
  }
  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const FilterInput<S>& graph = in.filter;
    auto filter = in.make(block, 0, FilterSums<S>{});
    const int w = graph.width, ld = filter.ld;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      filter.evaluate(block, begin, n);
      const S* f = filter.F[0];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto edge = [&](int r) { return graph.edge(side, begin + r); };
        block.template add_parts<1>(
            n, w, [&](int r) { return graph.receivers[edge(r)]; },
            [&](int r, int c, V* sum) {
              sum[0] += L::load(f + r * ld + c) * L::load(in.h + B::index(graph.senders[edge(r)], graph.atoms) * w + c);
            },
            out);
      }
    }
  }
};

template <class S>
struct CfconvBackward {
  using Scalar = S;
  CfconvInput<S> in;
  const S* grad;  // (atoms, F)
  S* h;           // (atoms, F), at senders
  S* d;           // (edges)
  FilterSums<S> sums;

  SYMKERN_HD void shift(int64_t by) { sums.shift(by); }
  template <class B>
  SYMKERN_FORMULA void tiles(B& block) const {
    (*this)(block, TileRange{0, 0});
  }
  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const FilterInput<S>& graph = in.filter;
    auto filter = in.make(block, d != nullptr ? 1 : 0, sums);
    S* a = sums.any() ? block.tile(graph.width) : nullptr;
    const int w = graph.width, ld = filter.ld;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      filter.evaluate(block, begin, n);
      const S *f = filter.F[0], *f1 = filter.F[1];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto edge = [&](int r) { return graph.edge(side, begin + r); };
        const auto at_receiver = [&](int r, int c) {
          return L::load(grad + B::index(graph.receivers[edge(r)], graph.atoms) * w + c);
        };
        const auto both = [&](int r, int c) {
          return at_receiver(r, c) * L::load(in.h + B::index(graph.senders[edge(r)], graph.atoms) * w + c);
        };
        if (h != nullptr) {
          block.template add_parts<1>(
              n, w, [&](int r) { return graph.senders[edge(r)]; },
              [&](int r, int c, V* sum) { sum[0] += L::load(f + r * ld + c) * at_receiver(r, c); }, h);
        }
        if (d != nullptr) {
          block.dot(
              n, w, [&](int r, int c) { return L::load(f1 + r * ld + c) * both(r, c); },
              [&](int r, S sum) { d[edge(r)] = sum; });
        }
        if (a != nullptr) {
          block.each(n, w, [&](int r, int c) {
            const V x = both(r, c);
            L::store(a + r * ld + c, side == 0 ? x : L::load(a + r * ld + c) + x);
          });
        }
      }
      if (a != nullptr) filter.reverse(block, n, a, nullptr, sums);
    }
  }
};

// Gradients of th . (gradient of h) + td . (gradient of d), where th and td are directions.
template <class S>
struct CfconvDoubleBackward {
  using Scalar = S;
  CfconvInput<S> in;
  const S *along_h, *along_d;  // (atoms, F); (edges), or null: zero
  const S* grad;               // (atoms, F)
  S* out;                      // (atoms, F), at receivers: gradient of grad
  S* h;                        // (atoms, F), at senders; zero without along_d, and then null
  S* d;                        // (edges)
  FilterSums<S> sums;

  SYMKERN_HD void shift(int64_t by) { sums.shift(by); }
  template <class B>
  SYMKERN_FORMULA void tiles(B& block) const {
    (*this)(block, TileRange{0, 0});
  }
  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const FilterInput<S>& graph = in.filter;
    const bool slope = along_d != nullptr;
    auto filter = in.make(block, (d != nullptr ? 1 : 0) + (slope ? 1 : 0), sums);
    S* a = sums.any() ? block.tile(graph.width) : nullptr;
    S* b = sums.any() && slope ? block.tile(graph.width) : nullptr;
    S* td = slope ? block.column() : nullptr;
    const int w = graph.width, ld = filter.ld;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      filter.evaluate(block, begin, n);
      const S *f = filter.F[0], *f1 = filter.F[1], *f2 = filter.F[2];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto edge = [&](int r) { return graph.edge(side, begin + r); };
        const auto sent = [&](const S* x, int r, int c) {
          return L::load(x + B::index(graph.senders[edge(r)], graph.atoms) * w + c);
        };
        const auto received = [&](int r, int c) {
          return L::load(grad + B::index(graph.receivers[edge(r)], graph.atoms) * w + c);
        };
        if (slope) block.each_row(n, [&](int r) { td[r] = along_d[edge(r)]; });
        if (out != nullptr) {
          block.template add_parts<1>(
              n, w, [&](int r) { return graph.receivers[edge(r)]; },
              [&](int r, int c, V* sum) {
                sum[0] += L::load(f + r * ld + c) * sent(along_h, r, c);
                if (slope) sum[0] += L::load(f1 + r * ld + c) * sent(in.h, r, c) * L::splat(td[r]);
              },
              out);
        }
        if (h != nullptr) {
          block.template add_parts<1>(
              n, w, [&](int r) { return graph.senders[edge(r)]; },
              [&](int r, int c, V* sum) { sum[0] += L::load(f1 + r * ld + c) * received(r, c) * L::splat(td[r]); }, h);
        }
        if (d != nullptr) {
          block.dot(
              n, w,
              [&](int r, int c) {
                V x = L::load(f1 + r * ld + c) * sent(along_h, r, c);
                if (slope) x += L::load(f2 + r * ld + c) * sent(in.h, r, c) * L::splat(td[r]);
                return x * received(r, c);
              },
              [&](int r, S sum) { d[edge(r)] = sum; });
        }
        if (a != nullptr) {
          block.each(n, w, [&](int r, int c) {
            const int at = r * ld + c;
            const V g = received(r, c), x = sent(along_h, r, c) * g;
            L::store(a + at, side == 0 ? x : L::load(a + at) + x);
            if (b == nullptr) return;
            const V y = sent(in.h, r, c) * g * L::splat(td[r]);
            L::store(b + at, side == 0 ? y : L::load(b + at) + y);
          });
        }
      }
      if (a != nullptr) filter.reverse(block, n, a, b, sums);
    }
  }
};

}  // namespace symkern
