// The pieces that loops are cut into for a device against those of the host: the same numbers; atoms of no molecule,
// and molecules that are too large.
#include "ops/second_order_pool.h"

#include <cmath>
#include <limits>
#include <random>

#include "testing/check.h"

using namespace symkern;
using symkern::testing::Buffer;

namespace {

#if defined(__CUDACC__)
template <class F>
SYMKERN_KERNEL for_each_kernel(int64_t n, F f) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) f(i);
}
template <class F>
void for_each(int64_t n, const F& f) {
  gpu::launch(for_each_kernel<F>, gpu::grid_for(n, 256), 256, 0, nullptr, n, f);
}
#else
template <class F>
void for_each(int64_t n, const F& f) {
  for (int64_t i = n - 1; i >= 0; --i) f(i);  // any order will do
}
#endif

template <class T>
std::vector<T> normal(int64_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(size));
  for (T& x : values) x = static_cast<T>(std::normal_distribution<>()(random));
  return values;
}

template <class T>
struct Result {
  std::vector<T> features, grad_x, grad_weights, grad_rotation;
};

// Everything there is, for numbers N, in pieces of one kind.
template <bool device, class T, class N>
Result<T> all(PoolMode mode, const std::vector<int64_t>& ptr_values, int64_t atoms, bool shared, int64_t channels) {
  constexpr int lanes = device ? 16 : 1, block = device ? 1 : 4, entries = device ? 1 : 9;
  const int64_t molecules = static_cast<int64_t>(ptr_values.size()) - 1, matrices = shared ? 1 : molecules;
  const bool masked = channels > 0;
  const int64_t c = masked ? channels : 1, width = mode == PoolMode::moment ? 9 * c : kPoolFeatures;
  const Buffer<T> x(normal<T>(3 * atoms, 1)), tx(normal<T>(3 * atoms, 2)), r(normal<T>(9 * matrices, 3));
  const Buffer<T> tr(normal<T>(9 * matrices, 4)), w(normal<T>(atoms * c, 5)), grad(normal<T>(molecules * width, 6));
  const Buffer<int64_t> ptr(ptr_values);
  const PoolInput<T, N> in{mode,
                           {x.data(), tx.data()},
                           {r.data(), tr.data()},
                           {masked ? w.data() : nullptr, nullptr},
                           {ptr.data(), molecules, atoms},
                           c,
                           shared};
  const Buffer<N> y(3 * atoms), by_y(3 * atoms);
  const Buffer<T> features(molecules * width), grad_x(3 * atoms), grad_w(masked ? atoms * c : 0), grad_r(9 * molecules);
  const auto each_atom = [&](auto f) {
    using F = decltype(f);
    if constexpr (device) {
      for_each(atoms, EachAtom<F>{f});
    } else {
      for_each(molecules, AtomsOfMolecule<F>{f});
    }
  };
  each_atom(PoolTurn<T, N>{in, y.data()});
  if (mode == PoolMode::outer) {
    using F = PoolOuter<lanes, T, N>;
    for_each(molecules * F::pieces, F{in, y.data(), features.data()});
  } else if (mode == PoolMode::gram) {
    using F = PoolGram<lanes, T, N>;
    for_each(molecules * F::pieces, F{in, y.data(), features.data()});
  } else {
    const PoolMoment<block, T, N> f{in, y.data(), features.data()};
    for_each(molecules * f.pieces(), f);
  }
  each_atom(PoolPull<T, N>{in, y.data(), grad.data(), by_y.data(), grad_x.data(), masked ? grad_w.data() : nullptr});
  for_each(molecules * 9 / entries, PoolPullRotation<entries, T, N, T>{in, by_y.data(), grad_r.data()});
  return {features.to_host(), grad_x.to_host(), grad_w.to_host(), grad_r.to_host()};
}

template <class T>
void check_close(const std::vector<T>& a, const std::vector<T>& b) {
  CHECK_EQUAL(a.size(), b.size());
  // compilers may contract the two differently
  const double eps = 8 * std::numeric_limits<T>::epsilon();
  for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) <= eps * (100 + std::fabs(b[i])));
}

template <class T, class N>
void compare(PoolMode mode, const std::vector<int64_t>& sizes, bool shared, int64_t channels) {
  std::vector<int64_t> ptr{0};
  for (int64_t size : sizes) ptr.push_back(ptr.back() + size);
  const Result<T> host = all<false, T, N>(mode, ptr, ptr.back(), shared, channels);
  const Result<T> there = all<true, T, N>(mode, ptr, ptr.back(), shared, channels);
  check_close(there.features, host.features), check_close(there.grad_x, host.grad_x);
  check_close(there.grad_weights, host.grad_weights), check_close(there.grad_rotation, host.grad_rotation);
}

void test_pieces() {
  for (const bool shared : {false, true}) {
    for (const PoolMode mode : {PoolMode::outer, PoolMode::gram}) {
      for (const auto& sizes : std::vector<std::vector<int64_t>>{{}, {0}, {1}, {2, 15, 0, 5}, {15, 14, 1, 15}}) {
        compare<float, double>(mode, sizes, shared, 0), compare<float, Dual>(mode, sizes, shared, 0);
        compare<double, double>(mode, sizes, shared, 0), compare<double, Dual>(mode, sizes, shared, 0);
      }
    }
    for (const int64_t channels : {0, 1, 3, 4, 5, 9}) {
      for (const auto& sizes : std::vector<std::vector<int64_t>>{{}, {0, 0}, {3, 0, 33, 1}}) {
        compare<float, double>(PoolMode::moment, sizes, shared, channels);
        compare<double, Dual>(PoolMode::moment, sizes, shared, channels);
      }
    }
  }
}

void test_atoms_of_no_molecule_have_no_gradient() {
  for (const PoolMode mode : {PoolMode::outer, PoolMode::moment}) {
    const int64_t channels = mode == PoolMode::moment ? 2 : 0;
    const Result<float> r = all<true, float, double>(mode, {2, 5, 7}, 9, true, channels);
    for (size_t i = 0; i < 9; ++i) {
      const bool member = i >= 2 && i < 7;
      for (size_t k = 0; k < 3; ++k) CHECK_EQUAL(r.grad_x[3 * i + k] != 0, member);
      for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
        CHECK_EQUAL(r.grad_weights[i * static_cast<size_t>(channels) + c] != 0, member);
      }
    }
  }
}

void test_too_large_molecules_are_nan() {
  for (const PoolMode mode : {PoolMode::outer, PoolMode::gram}) {
    const Result<float> r = all<true, float, double>(mode, {0, 3, 19}, 19, false, 0);
    for (size_t k = 0; k < static_cast<size_t>(kPoolFeatures); ++k) {
      CHECK(std::isfinite(r.features[k]));
      CHECK(std::isnan(r.features[static_cast<size_t>(kPoolFeatures) + k]));
    }
    for (size_t k = 0; k < 3 * 19; ++k) CHECK_EQUAL(std::isnan(r.grad_x[k]), k >= 9);
    for (size_t k = 0; k < 18; ++k) CHECK_EQUAL(std::isnan(r.grad_rotation[k]), k >= 9);
  }
}

}  // namespace

int main() {
  return symkern::testing::run_tests(
      {{"pieces", test_pieces},
       {"atoms of no molecule have no gradient", test_atoms_of_no_molecule_have_no_gradient},
       {"too large molecules are NaN", test_too_large_molecules_are_nan}});
}
