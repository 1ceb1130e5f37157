// The host schedule of the spherical basis: tiles of edges and of triplets, in vectors N, and D for the envelope's
// doubles. Where the tiles are does not depend on threads.
#pragma once

#include "ops/spherical_basis.h"

namespace symkern {

constexpr int64_t kSphericalTile = 64;

inline int64_t spherical_tiles(int64_t count) { return (count + kSphericalTile - 1) / kSphericalTile; }

// By what is known of num_radial at compile time: 6, 7 and 8, which models use (DimeNet 6, GemNet 7, ...), or nothing.
constexpr int kRadialCounts = 4;

inline int radial_variant(int64_t num_radial) { return num_radial >= 6 && num_radial <= 8 ? num_radial - 5 : 0; }

template <class S>
struct SphericalKernels {
  using Radial = void (*)(const SphericalRadial<S>&, int64_t tile);
  using Forward = void (*)(const SphericalInput<S>&, int64_t tile, S* out);
  using Derivative = void (*)(const SphericalInput<S>&, const SphericalDerivative<S>&, int64_t tile);
  struct Triplets {
    Forward forward;
    Derivative backward_d, backward_angle, backward, double_backward;
  };
  Radial radial[3];  // by orders - 1
  Triplets triplets[kRadialCounts];
};

template <class N, class D>
struct SphericalTile {
  using S = typename N::Scalar;
  using Input = SphericalInput<S>;
  using Derivative = SphericalDerivative<S>;

  template <int orders>
  static void radial(const SphericalRadial<S>& in, int64_t tile) {
    const int64_t begin = tile * kSphericalTile, left = in.edges - begin;
    const int64_t count = left < kSphericalTile ? left : kSphericalTile;
    double r[kSphericalTile] = {}, u[3][kSphericalTile];
    for (int64_t i = 0; i < count; ++i) r[i] = in.d[begin + i];
    for (int64_t i = 0; i < count; i += D::width) {
      const Jet<typename D::Vector> e = envelope_over_x(in.shape, D::load(r + i));
      D::store(u[0] + i, e.f), D::store(u[1] + i, e.d1), D::store(u[2] + i, e.d2);
    }
    for (int64_t i = 0; i < count; ++i) {
      const RadialPlace<S> at(in, begin + i, u[0][i], u[1][i], u[2][i]);
      for (int64_t c = 0; c < in.columns; c += N::width) radial_columns<N, orders>(in, at, begin + i, c);
    }
  }

  // f(block) for the blocks of a tile of triplets
  template <int radial, class F>
  SYMKERN_FORMULA static void blocks(const Input& in, int64_t tile, const F& f) {
    const int64_t begin = tile * kSphericalTile, left = in.count - begin;
    const int64_t end = begin + (left < kSphericalTile ? left : kSphericalTile);
    for (int64_t t = begin; t < end; t += N::width) f(SphericalBlock<N, radial>(in, t));
  }

  template <int radial>
  static void forward(const Input& in, int64_t tile, S* out) {
    blocks<radial>(in, tile, [&](const auto& block) __attribute__((always_inline)) { block.forward(out); });
  }

  template <int radial, bool by_d, bool by_angle>
  static void backward(const Input& in, const Derivative& io, int64_t tile) {
    blocks<radial>(in, tile, [&](const auto& block) __attribute__((always_inline)) {
      block.template backward<by_d, by_angle>(io);
    });
  }

  template <int radial>
  static void double_backward(const Input& in, const Derivative& io, int64_t tile) {
    blocks<radial>(in, tile, [&](const auto& block) __attribute__((always_inline)) { block.double_backward(io); });
  }

  template <int r>
  static constexpr typename SphericalKernels<S>::Triplets triplets() {
    return {forward<r>, backward<r, true, false>, backward<r, false, true>, backward<r, true, true>,
            double_backward<r>};
  }

  static constexpr SphericalKernels<S> table() {
    return {{radial<1>, radial<2>, radial<3>}, {triplets<0>(), triplets<6>(), triplets<7>(), triplets<8>()}};
  }
};

}  // namespace symkern
