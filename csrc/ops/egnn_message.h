// EGNN's messages (symkern/ops/egnn_message.py has the formulas), as passes over edges in tiles: see core/tile.h. This
// is the forward pass, and what all passes share.
//
// Attention is a factor of each row, so it waits until after the products: no pass keeps the gated message.
#pragma once

#include <cstdint>

#include "core/tile.h"

namespace symkern {

// The arguments of the op. `edges` rows of a pass; row r is the edge order[r], or r where order is null.
template <class S>
struct EgnnInput {
  int64_t atoms, edges;
  int width, attributes;                       // H, a multiple of 16, and K
  const S *received, *sent;                    // (atoms, H)
  const S *scalars, *edge_weight;              // (edges, K), (edges) or null
  const S* second_bias;                        // (H)
  const S *attention_weight, *attention_bias;  // (H), (1), or null
  const S *head_bias, *head_last;              // (H), or null
  const S* first_rows;                         // (K, H), the transpose of W_1
  // packed, x_t the transpose of x: what gradients are multiplied with. Without a head, its data is null.
  TileWeight<S> first, second, head;        // (K, H), (H, H), (H, H)
  TileWeight<S> first_t, second_t, head_t;  // (H, K to 16), (H, H), (H, H)
  const int64_t *senders, *receivers, *order;

  SYMKERN_HD int64_t edge(int64_t row) const { return order != nullptr ? order[row] : row; }
  SYMKERN_HD bool gated() const { return attention_weight != nullptr; }
  SYMKERN_HD bool wide() const { return attributes > 4; }  // a product, not a sum per attribute

  // The numbers of n edges: rows of `from` (edges, K), or zeros.
  template <class B>
  SYMKERN_FORMULA void gather(B& block, int64_t begin, int n, const S* from, S* to) const {
    const int ld = B::ld(attributes);
    block.each_row(n, [&](int r) {
      const S* row = from + edge(begin + r) * attributes;
      for (int k = 0; k < attributes; ++k) to[r * ld + k] = row[k];
    });
  }
  // The factor of each of n edges.
  template <class B>
  SYMKERN_FORMULA void gather_weight(B& block, int64_t begin, int n, const S* from, S missing, S* to) const {
    block.each_row(n, [&](int r) { to[r] = from != nullptr ? from[edge(begin + r)] : missing; });
  }
  // P_i + Q_j, and the same of other rows per atom, either of them null for zero; NaN for an edge with a wrong index
  template <class B>
  SYMKERN_FORMULA typename B::Lanes::Vector ends(const S* own, const S* other, int64_t e, int c) const {
    using L = typename B::Lanes;
    if (!B::good(receivers[e], atoms) || !B::good(senders[e], atoms)) return L::splat(S(NAN));
    typename L::Vector sum = own != nullptr ? L::load(own + receivers[e] * width + c) : L::splat(0);
    if (other != nullptr) sum += L::load(other + senders[e] * width + c);
    return sum;
  }
  // The row of its receiver.
  template <class B>
  SYMKERN_FORMULA typename B::Lanes::Vector at_receiver(const S* x, int64_t e, int c) const {
    return B::Lanes::load(x + B::index(receivers[e], atoms) * width + c);
  }
  // alpha of each row, from rows of u2; 1 without attention
  template <class B>
  SYMKERN_FORMULA void gate(B& block, int n, const S* u, S* alpha) const {
    using L = typename B::Lanes;
    const int ld = B::ld(width);
    if (!gated()) {
      block.each_row(n, [&](int r) { alpha[r] = S(1); });
      return;
    }
    block.dot(
        n, width, [&](int r, int c) { return L::load(u + r * ld + c) * L::load(attention_weight + c); },
        [&](int r, S sum) { alpha[r] = sigmoid(sum + attention_bias[0]); });
  }
};

// Gradients of the op's arguments; null is not asked for. Those per atom and of weights are added to, those per edge
// are written.
template <class S>
struct EgnnGradients {
  S *received, *sent;                      // (atoms, H): sums at receivers, and at senders
  S *scalars, *edge_weight;                // (edges, K), (edges)
  S *first, *second, *second_bias;         // (K, H): the transpose, (H, H), (H)
  S *attention_weight, *attention_bias;    // (H), (16) of the same number
  S *head_weight, *head_bias, *head_last;  // (H, H), (H), (H)

  // Moves the sums over all edges, so that each block of a device has its own.
  SYMKERN_HD void shift(int64_t by) {
    S** const sums[] = {&first,          &second,      &second_bias, &attention_weight,
                        &attention_bias, &head_weight, &head_bias,   &head_last};
    for (S** p : sums) *p = *p != nullptr ? *p + by : nullptr;
  }

  // The gradients that start from that of P_i + Q_j + W_1 a: rows of zb (n, H), and the attributes as gathered.
  template <class B>
  SYMKERN_FORMULA void first_layer(B& block, const EgnnInput<S>& in, const TileWeight<S>& first_t, int64_t begin, int n,
                                   const S* zb) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int h = in.width, ld = B::ld(h), count = in.attributes;
    const auto edge = [&](int r) { return in.edge(begin + r); };
    const auto row = [&](int r, int c) { return L::load(zb + r * ld + c); };
    if (received != nullptr) block.add_to(n, h, [&](int r) { return in.receivers[edge(r)]; }, row, received);
    if (sent != nullptr) block.add_to(n, h, [&](int r) { return in.senders[edge(r)]; }, row, sent);
    if (scalars == nullptr) return;
    if (!in.wide()) {
      for (int k = 0; k < count; ++k) {
        block.dot(
            n, h, [&](int r, int c) { return row(r, c) * L::load(in.first_rows + k * h + c); },
            [&](int r, S sum) { scalars[edge(r) * count + k] = sum; });
      }
    } else {
      block.product(n, zb, ld, first_t, [&](int r, int c, V x) {
        S* to = scalars + edge(r) * count + c;
        if (count % L::width == 0) {  // then rows are aligned as the device wants them
          if (c < count) L::store(to, x);
        } else if (c < count) {
          L::store_first(to, x, count - c < L::width ? count - c : L::width);
        }
      });
    }
  }
};

// total (atoms, H), which starts as zero, and head (edges), or null.
template <class S>
struct EgnnForward {
  using Scalar = S;
  EgnnInput<S> in;
  S *total, *head;

  struct Tiles {
    S *a, *u, *m, *weight, *alpha;
  };
  template <class B>
  SYMKERN_FORMULA Tiles tiles(B& block) const {
    const int h = in.width;
    return {block.tile(in.attributes), block.tile(h), block.tile(h), block.column(), block.column()};
  }

  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int h = in.width, ld = B::ld(h), ldk = B::ld(in.attributes);
    const Tiles t = tiles(block);
    const auto first = block.weight(in.first), second = block.weight(in.second), to_head = block.weight(in.head);
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      const auto edge = [&](int r) { return in.edge(begin + r); };
      in.gather(block, begin, n, in.scalars, t.a);
      in.gather_weight(block, begin, n, in.edge_weight, S(1), t.weight);
      block.product(n, t.a, ldk, first, [&](int r, int c, V x) {
        L::store(t.u + r * ld + c, silu<S, V>(x + in.template ends<B>(in.received, in.sent, edge(r), c)).f);
      });
      block.product(n, t.u, ld, second, [&](int r, int c, V x) {
        L::store(t.m + r * ld + c, silu<S, V>(x + L::load(in.second_bias + c)).f);
      });
      in.gate(block, n, t.m, t.alpha);
      block.add_to(
          n, h, [&](int r) { return in.receivers[edge(r)]; },
          [&](int r, int c) { return L::load(t.m + r * ld + c) * L::splat(t.weight[r] * t.alpha[r]); }, total);
      if (head == nullptr) continue;
      block.product(n, t.m, ld, to_head, [&](int r, int c, V x) {
        const V z = x * L::splat(t.alpha[r]) + L::load(in.head_bias + c);
        L::store(t.u + r * ld + c, silu<S, V>(z).f);
      });
      block.dot(
          n, h, [&](int r, int c) { return L::load(t.u + r * ld + c) * L::load(in.head_last + c); },
          [&](int r, S sum) { head[edge(r)] = sum; });
    }
  }
};

}  // namespace symkern
