// Passes over edges in tiles: a few dozen edges at a time go through a small network, and what is left of them is
// summed at atoms, at edges, or in the gradients of weights. Nothing as long as the edges and as wide as the features
// is ever written to memory.
//
// A pass is written once, as a template over a `Block` that executes it: core/tile_simd.h is one host thread with the
// tile in its caches, core/tile_gpu.cuh a block of device threads with the tile in shared memory. What a Block offers:
//
//   Scalar, Lanes                  number type; and how V = Lanes::Vector is loaded, stored and splat
//   rows                           rows of a tile (constant)
//   ld(width)                      row stride of a tile of that many columns
//   tile(width), column()          room for `rows` x ld(width) numbers; for one number per row. For the whole pass.
//   good(i, size), index(i, size)  whether an index is in range, and a safe one. On the host true and i: the caller has
//                                  looked at all of them. On the device edges with a wrong index become NaN.
//   each(n, width, f)              f(r, c) for rows r < n and columns c = 0, W, 2 W ... < width, W = Lanes::width
//   each_by_row(n, width, g)      the same as g(r)(c): g has what a row needs once
//   each_row(n, f)                 f(r), one call per row
//   dot(n, width, f, g)            g(r, sum): sum over columns of the vectors f(r, c)
//   dots<m>(n, width, f, g)        g(r, sums) with m sums over columns at once: f(r, c, sums) adds its vectors to them
//   product(n, a, lda, w, f)       f(r, c, V): rows of a (n, w.k) times w (w.k, w.n), a `TileWeight`
//   weight(w)                      the same weight, perhaps closer to the Block
//   add_product(n, a, lda, m, b, ldb, width, out)   out (m, width) += transpose of a (n, m) times b (n, width)
//   add_columns(n, width, f, out)  out[c] += sum over rows of f(r, c)
//   add_to(n, width, index, f, out)                 out[index(r)][c] += f(r, c), out (_, width); rows of equal index
//                                  that follow each other are added up first. On the device equal ones must do so.
//   add_parts<m>(n, width, index, f, out)           the same for rows of m parts, out (_, m, width): f(r, c, sums) adds
//                                  m vectors to sums
//
// Widths are multiples of 16, except those of `tile` and the `lda`-strided left side of products, and `width` of
// add_product with its `m`. Every function ends with all threads of the Block done. Sums run in an order that depends
// on the pass alone.
#pragma once

#include <cstdint>

#include "core/number.h"

namespace symkern {

// The right side of a product, (k, n) with n a multiple of 16, in the layout that the Block's pack() makes.
template <class S>
struct TileWeight {
  const S* data;
  int k, n;
};

// A part of all rows, worked on by one Block from its first row to its last.
struct TileRange {
  int64_t begin, end;
};

// A pass as compiled for one instruction set: how many numbers its tiles take, and the run over a range.
template <class Pass>
struct TileKernel {
  using S = typename Pass::Scalar;
  int64_t (*room)(const Pass&);
  void (*run)(const Pass&, TileRange, S* scratch);
};

// ---- activations and their derivatives -------------------------------------------------------------------------

template <class V>
struct Activation {
  V f, d, dd;
};

// x s with s = 1 / (1 + e^-x); what a caller does not use, the compiler drops
template <class S, class V>
SYMKERN_FORMULA Activation<V> silu(V x) {
  const V s = sigmoid(x), rest = s * (S(1) - s);  // s'
  return {x * s, s + x * rest, rest * (S(2) + x * (S(1) - s - s))};
}

// log(1 + e^x) - log 2: nothing overflows, and nothing is lost where x is large
template <class S, class V>
SYMKERN_FORMULA Activation<V> shifted_softplus(V x) {
  const V y = exponential(select(x > S(0), -x, x)), s = reciprocal(y + S(1)), small = y * s;
  return {select(x > S(0), x, y * S(0)) + (log_one_plus(y) - S(0.693147180559945309417)), select(x > S(0), s, small),
          small * s};
}

}  // namespace symkern
