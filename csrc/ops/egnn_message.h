// EGNN's messages (symkern/ops/egnn_message.py has the formulas), as passes over edges in tiles: see core/tile.h.
#pragma once

#include <cstdint>

#include "core/tile.h"

namespace symkern {

// The arguments of the op. `edges` rows of a pass; row r is the edge order[r], or r where order is null.
template <class S>
struct EgnnInput {
  int64_t atoms, edges;
  int width, attributes;  // H, a multiple of 16, and K
  const S *received, *sent;             // (atoms, H)
  const S *scalars, *edge_weight;       // (edges, K), (edges) or null
  const S *second_bias;                 // (H)
  const S *attention_weight, *attention_bias;  // (H), (1), or null
  const S *head_bias, *head_last;       // (H), or null
  // packed, x_t the transpose of x: what gradients are multiplied with
  TileWeight<S> first, second, head;        // (K, H), (H, H), (H, H)
  TileWeight<S> first_t, second_t, head_t;  // (H, K to 16), (H, H), (H, H)
  const int64_t *senders, *receivers, *order;

  SYMKERN_HD int64_t edge(int64_t row) const { return order != nullptr ? order[row] : row; }
};

// total (atoms, H), which starts as zero, and head (edges), or null.
template <class S>
struct EgnnForward {
  EgnnInput<S> in;
  S *total, *head;

  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int h = in.width, ld = B::ld(h), ldk = B::ld(in.attributes);
    S *a = block.tile(in.attributes), *u = block.tile(h), *m = block.tile(h), *weight = block.column();
    const auto first = block.weight(in.first), second = block.weight(in.second), to_head = block.weight(in.head);
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      const auto edge = [&](int r) { return in.edge(begin + r); };
      block.each_row(n, [&](int r) {
        for (int k = 0; k < in.attributes; ++k) a[r * ldk + k] = in.scalars[edge(r) * in.attributes + k];
        weight[r] = in.edge_weight != nullptr ? in.edge_weight[edge(r)] : S(1);
      });
      block.product(n, a, ldk, first, [&](int r, int c, V x) {
        const int64_t e = edge(r);
        const V p = L::load(in.received + in.receivers[e] * h + c), q = L::load(in.sent + in.senders[e] * h + c);
        L::store(u + r * ld + c, silu<S, V>(x + p + q).f);
      });
      block.product(n, u, ld, second, [&](int r, int c, V x) {
        L::store(m + r * ld + c, silu<S, V>(x + L::load(in.second_bias + c)).f);
      });
      if (in.attention_weight != nullptr) {
        S* gate = u;  // first column of a row that is no longer needed
        block.dot(
            n, h, [&](int r, int c) { return L::load(m + r * ld + c) * L::load(in.attention_weight + c); },
            [&](int r, S sum) { gate[r * ld] = sigmoid<S>(sum + in.attention_bias[0]); });
        block.each(n, h, [&](int r, int c) {
          L::store(m + r * ld + c, L::load(m + r * ld + c) * L::splat(gate[r * ld]));
        });
      }
      block.add_to(
          n, h, [&](int r) { return in.receivers[edge(r)]; },
          [&](int r, int c) { return L::load(m + r * ld + c) * L::splat(weight[r]); }, total);
      if (head != nullptr) {
        block.product(n, m, ld, to_head, [&](int r, int c, V x) {
          L::store(u + r * ld + c, silu<S, V>(x + L::load(in.head_bias + c)).f);
        });
        block.dot(
            n, h, [&](int r, int c) { return L::load(u + r * ld + c) * L::load(in.head_last + c); },
            [&](int r, S sum) { head[edge(r)] = sum; });
      }
    }
  }
};

}  // namespace symkern
