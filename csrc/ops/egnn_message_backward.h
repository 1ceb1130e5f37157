// The gradient of EGNN's messages: every tile is computed again, then taken back layer by layer.
#pragma once

#include "ops/egnn_message.h"

namespace symkern {

template <class S>
struct EgnnBackward {
  using Scalar = S;
  EgnnInput<S> in;
  const S *total_grad, *head_grad;  // (atoms, H), (edges); null for zero
  EgnnGradients<S> out;

  SYMKERN_HD void shift(int64_t by) { out.shift(by); }

  struct Tiles {
    S *a, *u1, *d1, *u2, *d2, *g, *z, *weight, *alpha, *t;
  };
  template <class B>
  SYMKERN_FORMULA Tiles tiles(B& block) const {
    const int h = in.width;
    Tiles t;
    t.a = block.tile(in.attributes);
    t.u1 = block.tile(h), t.d1 = block.tile(h), t.u2 = block.tile(h), t.d2 = block.tile(h), t.g = block.tile(h);
    t.z = head_grad != nullptr ? block.tile(h) : nullptr;
    t.weight = block.column(), t.alpha = block.column(), t.t = block.column();
    return t;
  }

  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int h = in.width, ld = B::ld(h), ldk = B::ld(in.attributes);
    const Tiles t = tiles(block);
    const bool gated = in.gated(), headed = head_grad != nullptr;
    const auto first = in.wide() ? block.weight(in.first) : in.first, second = block.weight(in.second),
               second_t = block.weight(in.second_t), to_head = headed ? block.weight(in.head) : in.head,
               to_head_t = headed ? block.weight(in.head_t) : in.head_t,
               first_t = in.wide() ? block.weight(in.first_t) : in.first_t;
    const bool inner = out.received != nullptr || out.sent != nullptr || out.scalars != nullptr || out.first != nullptr;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      const auto edge = [&](int r) { return in.edge(begin + r); };
      const auto at = [&](const S* tile, int r, int c) { return L::load(tile + r * ld + c); };
      const auto incoming = [&](int r, int c) {  // gradient of the sum that the edge is part of
        return total_grad != nullptr ? in.template at_receiver<B>(total_grad, edge(r), c) : L::splat(0);
      };

      in.gather(block, begin, n, in.scalars, t.a);
      in.gather_weight(block, begin, n, in.edge_weight, S(1), t.weight);
      in.enter(block, first, begin, n, t.a, in.received, in.sent, [&](int r, int c, V z) {
        const auto y = silu<S, V>(z);
        L::store(t.u1 + r * ld + c, y.f), L::store(t.d1 + r * ld + c, y.d);
      });
      block.product(n, t.u1, ld, second, [&](int r, int c, V x) {
        const auto y = silu<S, V>(x + L::load(in.second_bias + c));
        L::store(t.u2 + r * ld + c, y.f), L::store(t.d2 + r * ld + c, y.d);
      });
      in.gate(block, n, t.u2, t.alpha);

      // g: gradient of the message, and without attention at once that of the second layer's product
      const auto keep = [&](int r, int c, V x) {
        const V g = x + incoming(r, c) * L::splat(t.weight[r]);
        L::store(t.g + r * ld + c, gated ? g : g * at(t.d2, r, c));
      };
      if (headed) {
        block.product(n, t.u2, ld, to_head, [&](int r, int c, V x) {
          const auto y = silu<S, V>(x * L::splat(t.alpha[r]) + L::load(in.head_bias + c));
          const V s = L::splat(head_grad[edge(r)]);
          L::store(t.z + r * ld + c, y.d * L::load(in.head_last + c) * s);
          if (out.head_last != nullptr) L::store(t.g + r * ld + c, y.f * s);
        });
        const auto z = [&](int r, int c) { return at(t.z, r, c); };
        if (out.head_last != nullptr) {
          block.add_columns(n, h, [&](int r, int c) { return at(t.g, r, c); }, out.head_last);
        }
        if (out.head_bias != nullptr) block.add_columns(n, h, z, out.head_bias);
        block.product(n, t.z, ld, to_head_t, keep);
        if (out.head_weight != nullptr) {
          if (gated) {
            block.each(n, h, [&](int r, int c) { L::store(t.z + r * ld + c, z(r, c) * L::splat(t.alpha[r])); });
          }
          block.add_product(n, t.z, ld, h, t.u2, ld, h, out.head_weight);
        }
      } else {
        block.each(n, h, [&](int r, int c) { keep(r, c, L::splat(0)); });
      }
      if (out.edge_weight != nullptr) {
        block.dot(
            n, h, [&](int r, int c) { return incoming(r, c) * at(t.u2, r, c); },
            [&](int r, S sum) { out.edge_weight[edge(r)] = sum * t.alpha[r]; });
      }
      if (gated) {
        block.dot(
            n, h, [&](int r, int c) { return at(t.g, r, c) * at(t.u2, r, c); },
            [&](int r, S sum) { t.t[r] = sum * t.alpha[r] * (S(1) - t.alpha[r]); });
        if (out.attention_weight != nullptr) {
          block.add_columns(
              n, h, [&](int r, int c) { return at(t.u2, r, c) * L::splat(t.t[r]); }, out.attention_weight);
        }
        if (out.attention_bias != nullptr) {
          block.add_columns(n, 16, [&](int r, int) { return L::splat(t.t[r]); }, out.attention_bias);
        }
        block.each(n, h, [&](int r, int c) {
          const V u = at(t.g, r, c) * L::splat(t.alpha[r]) + L::load(in.attention_weight + c) * L::splat(t.t[r]);
          L::store(t.g + r * ld + c, u * at(t.d2, r, c));
        });
      }

      if (out.second_bias != nullptr) {
        block.add_columns(n, h, [&](int r, int c) { return at(t.g, r, c); }, out.second_bias);
      }
      if (out.second != nullptr) block.add_product(n, t.g, ld, h, t.u1, ld, h, out.second);
      if (!inner) continue;
      block.product(n, t.g, ld, second_t, [&](int r, int c, V x) { L::store(t.d1 + r * ld + c, x * at(t.d1, r, c)); });
      if (out.first != nullptr) block.add_product(n, t.a, ldk, in.attributes, t.d1, ld, h, out.first);
      out.first_layer(block, in, first_t, begin, n, t.d1);
    }
  }
};

}  // namespace symkern
