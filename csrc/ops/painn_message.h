// PaiNN's messages (symkern/ops/painn_message.py has the formulas) and their first two derivatives, as passes over
// filters in tiles: see core/tile.h and ops/edge_filter.h, and ops/cfconv.h for what is null and in which order rows
// are.
//
// With g, G the gradients of dq, dmu, an edge's message has the product (channel by channel)
//     sum over parts c of  w_c phi_c F_c,   w = (g_i, G_i . n, G_i . mu_j)
// with the gradients of the outputs, from which all gradients follow. Its derivative along directions of phi, mu, d and
// n, marked t below, is  sum of (tphi_c w_c + phi_c w'_c) F_c + td w_c phi_c F'_c,  w' = (0, G_i . tn, G_i . tmu_j).
#pragma once

#include "ops/edge_filter.h"

namespace symkern {

template <class S>
struct PainnInput {
  FilterInput<S> filter;
  const S *phi, *mu;               // (atoms, 3, F)
  const S* directions;             // (edges, 3)
  TileWeight<S> weight, weight_t;  // (K, 3 F), (3 F, K to 16)
  const S* bias;                   // (3 F)

  template <class B>
  SYMKERN_FORMULA LinearFilter<B> make(B& block, int order, const FilterSums<S>& sums) const {
    return LinearFilter<B>(block, filter, weight, weight_t, bias, order, sums);
  }
};

// One edge of a tile, at one vector of channels.
template <class B>
struct PainnEdge {
  using L = typename B::Lanes;
  using S = typename L::Scalar;
  using V = typename L::Vector;

  int width;
  int64_t edge, sender, receiver;

  template <class Graph>
  SYMKERN_FORMULA PainnEdge(const Graph& graph, int side, int64_t row)
      : width(graph.width),
        edge(graph.edge(side, row)),
        sender(B::index(graph.senders[edge], graph.atoms)),
        receiver(B::index(graph.receivers[edge], graph.atoms)) {}

  SYMKERN_FORMULA V sent(const S* x, int part, int c) const { return L::load(x + (sender * 3 + part) * width + c); }
  SYMKERN_FORMULA V received(const S* x, int part, int c) const {
    return L::load(x + (receiver * 3 + part) * width + c);
  }
  SYMKERN_FORMULA V received(const S* x, int c) const { return L::load(x + receiver * width + c); }
  // of a vector per edge, x (edges, 3)
  SYMKERN_FORMULA V component(const S* x, int k) const { return L::splat(x[edge * 3 + k]); }
  // G_i . x with x a vector per edge, or per channel of the sender
  SYMKERN_FORMULA V along(const S* grad, const S* x, int c) const {
    return received(grad, 0, c) * component(x, 0) + received(grad, 1, c) * component(x, 1) +
           received(grad, 2, c) * component(x, 2);
  }
  SYMKERN_FORMULA V with_sent(const S* grad, const S* x, int c) const {
    return received(grad, 0, c) * sent(x, 0, c) + received(grad, 1, c) * sent(x, 1, c) +
           received(grad, 2, c) * sent(x, 2, c);
  }
};

template <class S>
struct PainnForward {
  using Scalar = S;
  PainnInput<S> in;
  S *dq, *dmu;  // (atoms, F), (atoms, 3, F), at receivers

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
      const S* F = filter.F[0];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto receiver = [&](int r) { return graph.receivers[graph.edge(side, begin + r)]; };
        const auto product = [&](const PainnEdge<B>& x, int r, int part, int c) {
          return x.sent(in.phi, part, c) * L::load(F + r * ld + part * w + c);
        };
        if (dq != nullptr) {
          block.template add_parts<1>(
              n, w, receiver,
              [&](int r, int c, V* sum) { sum[0] += product(PainnEdge<B>(graph, side, begin + r), r, 0, c); }, dq);
        }
        if (dmu != nullptr) {
          block.template add_parts<3>(
              n, w, receiver,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x(graph, side, begin + r);
                const V radial = product(x, r, 1, c), mixed = product(x, r, 2, c);
                for (int k = 0; k < 3; ++k) {
                  sum[k] += radial * x.component(in.directions, k) + mixed * x.sent(in.mu, k, c);
                }
              },
              dmu);
        }
      }
    }
  }
};

template <class S>
struct PainnBackward {
  using Scalar = S;
  PainnInput<S> in;
  const S *grad_q, *grad_mu;  // (atoms, F), (atoms, 3, F)
  S *phi, *mu;                // (atoms, 3, F), at senders
  S *d, *directions;          // (edges), (edges, 3)
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
    const int w = graph.width, ld = filter.ld;
    S* a = sums.any() ? block.tile(3 * w) : nullptr;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      filter.evaluate(block, begin, n);
      const S *F = filter.F[0], *F1 = filter.F[1];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto edge = [&](int r) { return PainnEdge<B>(graph, side, begin + r); };
        const auto sender = [&](int r) { return graph.senders[graph.edge(side, begin + r)]; };
        const auto at = [&](const S* x, int r, int part, int c) { return L::load(x + r * ld + part * w + c); };
        if (phi != nullptr) {
          block.template add_parts<3>(
              n, w, sender,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                sum[0] += x.received(grad_q, c) * at(F, r, 0, c);
                sum[1] += x.along(grad_mu, in.directions, c) * at(F, r, 1, c);
                sum[2] += x.with_sent(grad_mu, in.mu, c) * at(F, r, 2, c);
              },
              phi);
        }
        if (mu != nullptr) {
          block.template add_parts<3>(
              n, w, sender,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V mixed = x.sent(in.phi, 2, c) * at(F, r, 2, c);
                for (int k = 0; k < 3; ++k) sum[k] += x.received(grad_mu, k, c) * mixed;
              },
              mu);
        }
        if (d != nullptr) {
          block.dot(
              n, w,
              [&](int r, int c) {
                const PainnEdge<B> x = edge(r);
                return x.received(grad_q, c) * x.sent(in.phi, 0, c) * at(F1, r, 0, c) +
                       x.along(grad_mu, in.directions, c) * x.sent(in.phi, 1, c) * at(F1, r, 1, c) +
                       x.with_sent(grad_mu, in.mu, c) * x.sent(in.phi, 2, c) * at(F1, r, 2, c);
              },
              [&](int r, S sum) { d[graph.edge(side, begin + r)] = sum; });
        }
        if (directions != nullptr) {
          block.template dots<3>(
              n, w,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V radial = x.sent(in.phi, 1, c) * at(F, r, 1, c);
                for (int k = 0; k < 3; ++k) sum[k] += x.received(grad_mu, k, c) * radial;
              },
              [&](int r, const S* sum) {
                S* to = directions + graph.edge(side, begin + r) * 3;
                for (int k = 0; k < 3; ++k) to[k] = sum[k];
              });
        }
        if (a != nullptr) {
          block.each(n, w, [&](int r, int c) {
            const PainnEdge<B> x = edge(r);
            const V share[3] = {x.received(grad_q, c) * x.sent(in.phi, 0, c),
                                x.along(grad_mu, in.directions, c) * x.sent(in.phi, 1, c),
                                x.with_sent(grad_mu, in.mu, c) * x.sent(in.phi, 2, c)};
            for (int part = 0; part < 3; ++part) {
              S* to = a + r * ld + part * w + c;
              L::store(to, side == 0 ? share[part] : L::load(to) + share[part]);
            }
          });
        }
      }
      if (a != nullptr) filter.reverse(block, n, a, nullptr, sums);
    }
  }
};

template <class S>
struct PainnDoubleBackward {
  using Scalar = S;
  PainnInput<S> in;
  const S *along_phi, *along_mu;        // (atoms, 3, F)
  const S *along_d, *along_directions;  // (edges), (edges, 3)
  const S *grad_q, *grad_mu;            // (atoms, F), (atoms, 3, F)
  S *out_q, *out_mu;                    // (atoms, F), (atoms, 3, F), at receivers: gradients of grad_q, grad_mu
  S *phi, *mu;                          // (atoms, 3, F), at senders
  S *d, *directions;                    // (edges), (edges, 3)
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
    auto filter = in.make(block, d != nullptr ? 2 : 1, sums);
    const int w = graph.width, ld = filter.ld;
    S *a = sums.any() ? block.tile(3 * w) : nullptr, *b = sums.any() ? block.tile(3 * w) : nullptr;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      filter.evaluate(block, begin, n);
      const S *F = filter.F[0], *F1 = filter.F[1], *F2 = filter.F[2];
      for (int side = 0; side < graph.sides(); ++side) {
        const auto edge = [&](int r) { return PainnEdge<B>(graph, side, begin + r); };
        const auto sender = [&](int r) { return graph.senders[graph.edge(side, begin + r)]; };
        const auto receiver = [&](int r) { return graph.receivers[graph.edge(side, begin + r)]; };
        const auto at = [&](const S* x, int r, int part, int c) { return L::load(x + r * ld + part * w + c); };
        const auto td = [&](const PainnEdge<B>& x) { return L::splat(along_d[x.edge]); };
        // derivative of phi F, a part of it
        const auto product = [&](const PainnEdge<B>& x, int r, int part, int c) {
          return x.sent(along_phi, part, c) * at(F, r, part, c) + x.sent(in.phi, part, c) * at(F1, r, part, c) * td(x);
        };
        if (out_q != nullptr) {
          block.template add_parts<1>(
              n, w, receiver, [&](int r, int c, V* sum) { sum[0] += product(edge(r), r, 0, c); }, out_q);
        }
        if (out_mu != nullptr) {
          block.template add_parts<3>(
              n, w, receiver,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V radial = x.sent(in.phi, 1, c) * at(F, r, 1, c), mixed = x.sent(in.phi, 2, c) * at(F, r, 2, c);
                const V radial1 = product(x, r, 1, c), mixed1 = product(x, r, 2, c);
                for (int k = 0; k < 3; ++k) {
                  sum[k] += radial1 * x.component(in.directions, k) + radial * x.component(along_directions, k) +
                            mixed1 * x.sent(in.mu, k, c) + mixed * x.sent(along_mu, k, c);
                }
              },
              out_mu);
        }
        if (phi != nullptr) {
          block.template add_parts<3>(
              n, w, sender,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V t = td(x);
                sum[0] += x.received(grad_q, c) * at(F1, r, 0, c) * t;
                sum[1] += x.along(grad_mu, along_directions, c) * at(F, r, 1, c) +
                          x.along(grad_mu, in.directions, c) * at(F1, r, 1, c) * t;
                sum[2] += x.with_sent(grad_mu, along_mu, c) * at(F, r, 2, c) +
                          x.with_sent(grad_mu, in.mu, c) * at(F1, r, 2, c) * t;
              },
              phi);
        }
        if (mu != nullptr) {
          block.template add_parts<3>(
              n, w, sender,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V mixed1 = product(x, r, 2, c);
                for (int k = 0; k < 3; ++k) sum[k] += x.received(grad_mu, k, c) * mixed1;
              },
              mu);
        }
        // what F_c and F'_c are multiplied with
        const auto factors = [&](const PainnEdge<B>& x, int c, V(&first)[3], V(&second)[3]) {
          const V t = td(x), p0 = x.sent(in.phi, 0, c), p1 = x.sent(in.phi, 1, c), p2 = x.sent(in.phi, 2, c);
          const V w0 = x.received(grad_q, c), w1 = x.along(grad_mu, in.directions, c),
                  w2 = x.with_sent(grad_mu, in.mu, c);
          first[0] = x.sent(along_phi, 0, c) * w0;
          first[1] = x.sent(along_phi, 1, c) * w1 + p1 * x.along(grad_mu, along_directions, c);
          first[2] = x.sent(along_phi, 2, c) * w2 + p2 * x.with_sent(grad_mu, along_mu, c);
          second[0] = t * w0 * p0, second[1] = t * w1 * p1, second[2] = t * w2 * p2;
        };
        if (d != nullptr) {
          block.dot(
              n, w,
              [&](int r, int c) {
                V first[3], second[3];
                factors(edge(r), c, first, second);
                V sum = first[0] * at(F1, r, 0, c) + second[0] * at(F2, r, 0, c);
                for (int part = 1; part < 3; ++part) {
                  sum += first[part] * at(F1, r, part, c) + second[part] * at(F2, r, part, c);
                }
                return sum;
              },
              [&](int r, S sum) { d[graph.edge(side, begin + r)] = sum; });
        }
        if (directions != nullptr) {
          block.template dots<3>(
              n, w,
              [&](int r, int c, V* sum) {
                const PainnEdge<B> x = edge(r);
                const V radial1 = product(x, r, 1, c);
                for (int k = 0; k < 3; ++k) sum[k] += x.received(grad_mu, k, c) * radial1;
              },
              [&](int r, const S* sum) {
                S* to = directions + graph.edge(side, begin + r) * 3;
                for (int k = 0; k < 3; ++k) to[k] = sum[k];
              });
        }
        if (a != nullptr) {
          block.each(n, w, [&](int r, int c) {
            V first[3], second[3];
            factors(edge(r), c, first, second);
            for (int part = 0; part < 3; ++part) {
              const int to = r * ld + part * w + c;
              L::store(a + to, side == 0 ? first[part] : L::load(a + to) + first[part]);
              L::store(b + to, side == 0 ? second[part] : L::load(b + to) + second[part]);
            }
          });
        }
      }
      if (a != nullptr) filter.reverse(block, n, a, b, sums);
    }
  }
};

}  // namespace symkern
