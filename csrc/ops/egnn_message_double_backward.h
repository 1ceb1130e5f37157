// The second derivative of EGNN's messages: the gradient's pass in numbers x + eps x', where x' is the change along
// given directions of P, Q, the attributes and the edge weights. The parts of eps are the results. A name with 1 at its
// end is the eps part of the name without: v for values u, e for second derivatives of silu times the change.
#pragma once

#include "ops/egnn_message.h"

namespace symkern {

template <class S>
struct EgnnDoubleBackward {
  using Scalar = S;
  EgnnInput<S> in;
  const S *received_along, *sent_along, *scalars_along, *edge_weight_along;  // as the arguments; null for zero
  const S *total_grad, *head_grad;                                           // (atoms, H), (edges); null for zero
  S *total, *head;  // gradients of these: (atoms, H), a sum at receivers, and (edges); null is not asked for
  EgnnGradients<S> out;

  SYMKERN_HD void shift(int64_t by) { out.shift(by); }

  struct Tiles {
    S *a, *b, *u1, *d1, *v1, *e1, *u2, *d2, *v2, *e2, *g, *g1, *z, *z1;
    S *weight, *weight1, *alpha, *alpha1, *q, *t, *t1;
  };
  SYMKERN_HD bool headed() const { return head_grad != nullptr || head != nullptr; }

  template <class B>
  SYMKERN_FORMULA Tiles tiles(B& block) const {
    const int h = in.width;
    Tiles t;
    t.a = block.tile(in.attributes);
    t.b = scalars_along != nullptr ? block.tile(in.attributes) : nullptr;
    t.u1 = block.tile(h), t.d1 = block.tile(h), t.v1 = block.tile(h), t.e1 = block.tile(h);
    t.u2 = block.tile(h), t.d2 = block.tile(h), t.v2 = block.tile(h), t.e2 = block.tile(h);
    t.g = block.tile(h), t.g1 = block.tile(h);
    t.z = headed() ? block.tile(h) : nullptr, t.z1 = headed() ? block.tile(h) : nullptr;
    t.weight = block.column(), t.weight1 = block.column(), t.alpha = block.column(), t.alpha1 = block.column();
    t.q = block.column(), t.t = block.column(), t.t1 = block.column();
    return t;
  }

  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int h = in.width, ld = B::ld(h), ldk = B::ld(in.attributes);
    const Tiles t = tiles(block);
    const auto first = in.wide() ? block.weight(in.first) : in.first, second = block.weight(in.second),
               second_t = block.weight(in.second_t), to_head = headed() ? block.weight(in.head) : in.head,
               to_head_t = headed() ? block.weight(in.head_t) : in.head_t,
               first_t = in.wide() ? block.weight(in.first_t) : in.first_t;
    const bool gated = in.gated(), along_first = out.first != nullptr && scalars_along != nullptr;
    const bool inner = out.received != nullptr || out.sent != nullptr || out.scalars != nullptr || out.first != nullptr;
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      const auto edge = [&](int r) { return in.edge(begin + r); };
      const auto at = [&](const S* tile, int r, int c) { return L::load(tile + r * ld + c); };
      const auto put = [&](S* tile, int r, int c, V x) { L::store(tile + r * ld + c, x); };
      const auto incoming = [&](int r, int c) {  // gradient of the sum that the edge is part of
        return total_grad != nullptr ? in.template at_receiver<B>(total_grad, edge(r), c) : L::splat(0);
      };

      // forward
      in.gather(block, begin, n, in.scalars, t.a);
      in.gather_weight(block, begin, n, in.edge_weight, S(1), t.weight);
      in.gather_weight(block, begin, n, edge_weight_along, S(0), t.weight1);
      in.enter(block, first, begin, n, t.a, in.received, in.sent, [&](int r, int c, V z) {
        const auto y = silu<S, V>(z);
        put(t.u1, r, c, y.f), put(t.d1, r, c, y.d), put(t.e1, r, c, y.dd);
      });
      if (scalars_along != nullptr) in.gather(block, begin, n, scalars_along, t.b);
      in.enter(block, first, begin, n, t.b, received_along, sent_along,
               [&](int r, int c, V z) { put(t.v1, r, c, at(t.d1, r, c) * z), put(t.e1, r, c, at(t.e1, r, c) * z); });
      block.product(n, t.u1, ld, second, [&](int r, int c, V x) {
        const auto y = silu<S, V>(x + L::load(in.second_bias + c));
        put(t.u2, r, c, y.f), put(t.d2, r, c, y.d), put(t.e2, r, c, y.dd);
      });
      block.product(n, t.v1, ld, second, [&](int r, int c, V x) {
        put(t.v2, r, c, at(t.d2, r, c) * x), put(t.e2, r, c, at(t.e2, r, c) * x);
      });
      in.gate(block, n, t.u2, t.alpha);
      if (gated) {
        block.dot(
            n, h, [&](int r, int c) { return at(t.v2, r, c) * L::load(in.attention_weight + c); },
            [&](int r, S sum) { t.q[r] = sum, t.alpha1[r] = sum * t.alpha[r] * (S(1) - t.alpha[r]); });
      } else {
        block.each_row(n, [&](int r) { t.alpha1[r] = S(0); });
      }
      const auto message1 = [&](int r, int c) {
        return at(t.u2, r, c) * L::splat(t.alpha1[r]) + at(t.v2, r, c) * L::splat(t.alpha[r]);
      };

      // the head, there and back: g and g1 become the gradients of the message
      if (headed()) {
        block.product(n, t.u2, ld, to_head, [&](int r, int c, V x) {
          const auto y = silu<S, V>(x * L::splat(t.alpha[r]) + L::load(in.head_bias + c));
          put(t.z, r, c, x), put(t.g, r, c, y.d), put(t.g1, r, c, y.dd);
        });
        block.product(n, t.v2, ld, to_head, [&](int r, int c, V x) {
          const V change3 = at(t.z, r, c) * L::splat(t.alpha1[r]) + x * L::splat(t.alpha[r]), d = at(t.g, r, c);
          const V s = L::load(in.head_last + c) * L::splat(head_grad != nullptr ? head_grad[edge(r)] : S(0));
          put(t.z, r, c, d * s), put(t.z1, r, c, at(t.g1, r, c) * change3 * s), put(t.g, r, c, d * change3);
        });
        if (head != nullptr) {
          block.dot(
              n, h, [&](int r, int c) { return at(t.g, r, c) * L::load(in.head_last + c); },
              [&](int r, S sum) { head[edge(r)] = sum; });
        }
      }
      if (head_grad != nullptr) {
        if (out.head_last != nullptr) {
          block.add_columns(
              n, h, [&](int r, int c) { return at(t.g, r, c) * L::splat(head_grad[edge(r)]); }, out.head_last);
        }
        if (out.head_bias != nullptr) {
          block.add_columns(n, h, [&](int r, int c) { return at(t.z1, r, c); }, out.head_bias);
        }
        block.product(n, t.z, ld, to_head_t,
                      [&](int r, int c, V x) { put(t.g, r, c, x + incoming(r, c) * L::splat(t.weight[r])); });
        block.product(n, t.z1, ld, to_head_t,
                      [&](int r, int c, V x) { put(t.g1, r, c, x + incoming(r, c) * L::splat(t.weight1[r])); });
        if (out.head_weight != nullptr) {
          if (gated) {
            block.each(n, h, [&](int r, int c) {
              const V z = at(t.z, r, c), alpha = L::splat(t.alpha[r]);
              put(t.z1, r, c, at(t.z1, r, c) * alpha + z * L::splat(t.alpha1[r])), put(t.z, r, c, z * alpha);
            });
          }
          block.add_product(n, t.z1, ld, h, t.u2, ld, h, out.head_weight);
          block.add_product(n, t.z, ld, h, t.v2, ld, h, out.head_weight);
        }
      } else {
        block.each(n, h, [&](int r, int c) {
          const V x = incoming(r, c);
          put(t.g, r, c, x * L::splat(t.weight[r])), put(t.g1, r, c, x * L::splat(t.weight1[r]));
        });
      }

      // the message
      if (out.edge_weight != nullptr) {
        block.dot(
            n, h, [&](int r, int c) { return incoming(r, c) * message1(r, c); },
            [&](int r, S sum) { out.edge_weight[edge(r)] = sum; });
      }
      if (total != nullptr) {
        block.add_to(
            n, h, [&](int r) { return in.receivers[edge(r)]; },
            [&](int r, int c) {
              return message1(r, c) * L::splat(t.weight[r]) + at(t.u2, r, c) * L::splat(t.weight1[r] * t.alpha[r]);
            },
            total);
      }
      if (gated) {
        block.dot(
            n, h, [&](int r, int c) { return at(t.g, r, c) * at(t.u2, r, c); }, [&](int r, S sum) { t.t[r] = sum; });
        block.dot(
            n, h, [&](int r, int c) { return at(t.g1, r, c) * at(t.u2, r, c) + at(t.g, r, c) * at(t.v2, r, c); },
            [&](int r, S sum) {
              const S alpha = t.alpha[r], d = alpha * (S(1) - alpha), dd = d * (S(1) - alpha - alpha), value = t.t[r];
              t.t1[r] = sum * d + value * dd * t.q[r], t.t[r] = value * d;
            });
        if (out.attention_weight != nullptr) {
          block.add_columns(
              n, h,
              [&](int r, int c) { return at(t.u2, r, c) * L::splat(t.t1[r]) + at(t.v2, r, c) * L::splat(t.t[r]); },
              out.attention_weight);
        }
        if (out.attention_bias != nullptr) {
          block.add_columns(n, 16, [&](int r, int) { return L::splat(t.t1[r]); }, out.attention_bias);
        }
      }

      // the second layer
      block.each(n, h, [&](int r, int c) {
        V ub = at(t.g, r, c), ub1 = at(t.g1, r, c);
        if (gated) {
          const V alpha = L::splat(t.alpha[r]), w = L::load(in.attention_weight + c);
          ub1 = ub * L::splat(t.alpha1[r]) + ub1 * alpha + w * L::splat(t.t1[r]);
          ub = ub * alpha + w * L::splat(t.t[r]);
        }
        const V d = at(t.d2, r, c);
        put(t.g, r, c, ub * d), put(t.g1, r, c, ub1 * d + ub * at(t.e2, r, c));
      });
      if (out.second_bias != nullptr) {
        block.add_columns(n, h, [&](int r, int c) { return at(t.g1, r, c); }, out.second_bias);
      }
      if (out.second != nullptr) {
        block.add_product(n, t.g1, ld, h, t.u1, ld, h, out.second);
        block.add_product(n, t.g, ld, h, t.v1, ld, h, out.second);
      }

      // the first; u2 has done its work and takes the gradient of the product itself
      if (!inner) continue;
      block.product(n, t.g, ld, second_t, [&](int r, int c, V x) {
        if (along_first) put(t.u2, r, c, x * at(t.d1, r, c));
        put(t.e1, r, c, x * at(t.e1, r, c));
      });
      block.product(n, t.g1, ld, second_t,
                    [&](int r, int c, V x) { put(t.e1, r, c, x * at(t.d1, r, c) + at(t.e1, r, c)); });
      if (along_first) block.add_product(n, t.b, ldk, in.attributes, t.u2, ld, h, out.first);
      if (out.first != nullptr) block.add_product(n, t.a, ldk, in.attributes, t.e1, ld, h, out.first);
      out.first_layer(block, in, first_t, begin, n, t.e1);
    }
  }
};

}  // namespace symkern
