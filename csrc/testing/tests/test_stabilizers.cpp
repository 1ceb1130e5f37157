// The CUDA schedule of stabilizers against the host's routine: the same integers, matrices to rounding.
#define SYMKERN_ISA_LEVEL baseline
#include "ops/stabilizers_cuda.cuh"
#include "ops/stabilizers_host.h"
#include "ops/stabilizers_simd.cpp"

#include <cmath>
#include <memory>
#include <random>

#include "testing/check.h"

using namespace symkern;
using symkern::testing::Buffer;
using symkern::testing::for_orders;

namespace {

constexpr double kTurn = 6.283185307179586;

struct Molecules {
  std::vector<double> positions;
  std::vector<int64_t> numbers, ptr{0};

  void atom(int64_t number, double x, double y, double z) {
    positions.insert(positions.end(), {x, y, z});
    numbers.push_back(number);
  }
  void end() { ptr.push_back(static_cast<int64_t>(numbers.size())); }

  void ring(int64_t number, int count, double radius, double height, double phase) {
    for (int k = 0; k < count; ++k) {
      const double t = phase + kTurn * k / count;
      atom(number, radius * std::cos(t), radius * std::sin(t), height);
    }
  }
  // Turned and moved, so that no axis is special.
  void turn(size_t from) {
    const double c = std::cos(0.7), s = std::sin(0.7), d = std::cos(1.9), e = std::sin(1.9);
    for (size_t i = from; i < positions.size() / 3; ++i) {
      double* p = positions.data() + 3 * i;
      const double x = c * p[0] - s * p[1], y = s * p[0] + c * p[1], z = p[2];
      p[0] = d * x - e * z + 0.3, p[1] = y - 1.1, p[2] = e * x + d * z + 2.5;
    }
  }
};

Molecules every_kind() {
  Molecules m;
  size_t from = 0;
  const auto end = [&] { m.end(), m.turn(from), from = m.numbers.size(); };
  m.end();  // no atoms
  m.atom(2, 0, 0, 0), end();
  m.atom(1, 0, 0, 0), m.atom(1, 0, 0, 0.74), end();
  m.atom(1, 0, 0, 0), m.atom(17, 0, 0, 1.27), end();
  m.atom(6, 0, 0, 0), m.atom(8, 0, 0, 1.16), m.atom(8, 0, 0, -1.16), end();
  m.atom(8, 0, 0, -0.05), m.atom(1, 0.58, 0, 0.4), m.atom(1, -0.58, 0, 0.4), end();
  m.ring(6, 6, 1.4, 0, 0), m.ring(1, 6, 2.5, 0, 0), end();                                  // D6h
  m.ring(16, 4, 2.3, 0.5, 0), m.ring(16, 4, 2.3, -0.5, kTurn / 8), end();                   // D4d
  m.ring(6, 3, 1, 0.4, 0.1), m.ring(6, 3, 1.1, -0.6, 0.5), m.ring(7, 3, 2, 0, 0.9), end();  // C3
  m.ring(5, 33, 6, 0, 0), end();                                                            // more than a warp
  for (int k = 0; k < 4; ++k) m.atom(6, k < 2 ? 1 : -1, k % 2 ? 1 : -1, k == 0 || k == 3 ? 1 : -1);
  end();  // Td
  for (int k = 0; k < 8; ++k) m.atom(6, k & 1 ? 1 : -1, k & 2 ? 1 : -1, k & 4 ? 1 : -1);
  end();                                             // Oh
  m.ring(6, 5, 1, 0, 0), m.atom(6, 1, 0, 0), end();  // coincident atoms
  m.ring(6, 6, 1.4, 0, 0), m.positions[3 * from] += 0.015, m.positions[3 * from + 4] -= 0.012, end();  // nearly D6h
  m.ring(6, 4, 1.0, 0, 0), m.positions[3 * from] += 0.013, m.positions[3 * from + 4] += 0.016, end();
  std::mt19937 random(5);
  std::normal_distribution<> normal(0, 3);
  for (int count : {4, 31, 32, 33, 40}) {
    for (int k = 0; k < count; ++k) m.atom(1 + k % 3, normal(random), normal(random), normal(random));
    end();
  }
  return m;
}

// Atoms of one species within four tolerances, so that partners are shared out.
Molecules close_atoms() {
  Molecules m;
  size_t from = 0;
  const auto end = [&] { m.end(), m.turn(from), from = m.numbers.size(); };
  m.atom(1, 0, 0, 0), m.atom(1, 0, 0, 0), m.atom(6, 2, 0, 0), m.atom(7, 0, 3, 0), end();  // Cs
  for (int k = 0; k < 2; ++k) m.atom(1, 0, 0, 1), m.atom(1, 0, 0, -1);
  m.atom(6, 0, 0, 0), end();  // linear
  m.ring(6, 8, 0.1, 0, 0), end();
  m.ring(6, 5, 2, 0.01, 0), m.ring(6, 5, 2, -0.01, 0), end();
  m.ring(6, 17, 2, 0.01, 0), m.ring(6, 17, 2, -0.02, 0), m.ring(8, 1, 1, 1, 0), end();  // more than a warp
  std::mt19937 random(7);
  std::normal_distribution<> normal(0, 0.01);
  for (int count : {2, 3}) {
    for (int k = 0; k < 4; ++k) m.ring(7, count, 3 + normal(random), normal(random), normal(random) / 2);
    end();
  }
  return m;
}

// Everything that the op returns, from either schedule.
template <class T>
struct Result {
  std::vector<int64_t> op_ptr, orbits, order, group, rank, permutations, perm_ptr;
  std::vector<T> operations, residuals, centroid, axis, margin;
  std::vector<char> closed, ambiguous;
};

template <class T>
Result<T> on_host(const Molecules& m, const std::vector<T>& x, double tolerance, int policy, int64_t samples) {
  const int64_t count = static_cast<int64_t>(m.ptr.size()) - 1;
  Result<T> r;
  r.op_ptr.resize(count + 1), r.orbits.resize(m.numbers.size());
  for (auto* v : {&r.order, &r.group, &r.rank}) v->resize(count);
  r.centroid.resize(3 * count), r.axis.resize(3 * count), r.margin.resize(count);
  const auto closed = std::make_unique<bool[]>(count), ambiguous = std::make_unique<bool[]>(count);
  const StabilizersInput in{x.data(),  sizeof(T) == 8, m.numbers.data(), m.ptr.data(), count,
                            tolerance, policy,         samples,          false};
  const StabilizersFixed<T> fixed{r.op_ptr.data(),   r.orbits.data(), r.order.data(),  r.group.data(), r.rank.data(),
                                  r.centroid.data(), r.axis.data(),   r.margin.data(), closed.get(),   ambiguous.get()};
  const Parallel one([](int64_t, int64_t, int64_t, Parallel::Body, void*) {}, 1);
  find_stabilizers<T>(in, one, fixed, [&](int64_t operations, int64_t entries) {
    r.operations.resize(9 * operations), r.residuals.resize(operations);
    r.permutations.resize(entries), r.perm_ptr.resize(operations + 1);
    return StabilizersRagged<T>{r.operations.data(), r.residuals.data(), r.permutations.data(), r.perm_ptr.data()};
  });
  r.closed.assign(closed.get(), closed.get() + count), r.ambiguous.assign(ambiguous.get(), ambiguous.get() + count);
  return r;
}

template <class T, int BUG = stabilizers_cuda::kNone>
stabilizers_cuda::Summary on_device(const Molecules& m, const std::vector<T>& x, double tolerance, int policy,
                                    int64_t samples, Result<T>& r) {
  const int64_t count = static_cast<int64_t>(m.ptr.size()) - 1;
  int64_t most = 0;
  for (int64_t b = 0; b < count; ++b) most = std::max(most, m.ptr[b + 1] - m.ptr[b]);
  const Buffer<T> positions(x);
  const Buffer<int64_t> numbers(m.numbers), ptr(m.ptr);
  Buffer<int64_t> op_ptr(count + 1), orbits(m.numbers.size()), order(count), group(count), rank(count);
  Buffer<T> centroid(3 * count), axis(3 * count), margin(count);
  Buffer<char> closed(count), ambiguous(count);
  stabilizers_cuda::Fixed<T> fixed{};
  fixed.orbits = orbits.data(), fixed.order = order.data(), fixed.group = group.data(), fixed.rank = rank.data();
  fixed.centroid = centroid.data(), fixed.axis = axis.data(), fixed.margin = margin.data();
  fixed.closed = reinterpret_cast<bool*>(closed.data());
  fixed.ambiguous = reinterpret_cast<bool*>(ambiguous.data());
  std::vector<std::unique_ptr<Buffer<char>>> scratch;
  const auto memory = [&](size_t bytes) -> void* {
    scratch.push_back(std::make_unique<Buffer<char>>(bytes));
    return scratch.back()->data();
  };
  std::unique_ptr<Buffer<T>> operations, residuals;
  std::unique_ptr<Buffer<int64_t>> permutations, perm_ptr;
  const stabilizers_cuda::Input<T> in{positions.data(), numbers.data(), ptr.data(), count,
                                      tolerance,        policy,         samples,    false};
  const stabilizers_cuda::Summary found = stabilizers_cuda::find_stabilizers<BUG>(
      in, most, fixed, op_ptr.data(), memory,
      [&](int64_t ops, int64_t entries) {
        operations = std::make_unique<Buffer<T>>(9 * ops), residuals = std::make_unique<Buffer<T>>(ops);
        permutations = std::make_unique<Buffer<int64_t>>(entries);
        perm_ptr = std::make_unique<Buffer<int64_t>>(ops + 1);
        stabilizers_cuda::Ragged<T> out{};
        out.operations = operations->data(), out.residuals = residuals->data();
        out.permutations = permutations->data(), out.perm_ptr = perm_ptr->data();
        return out;
      },
      nullptr);
  if (found.status != stabilizers_cuda::kNoProblem) return found;
  r.op_ptr = op_ptr.to_host(), r.orbits = orbits.to_host(), r.order = order.to_host(), r.group = group.to_host();
  r.rank = rank.to_host(), r.centroid = centroid.to_host(), r.axis = axis.to_host(), r.margin = margin.to_host();
  r.operations = operations->to_host(), r.residuals = residuals->to_host();
  r.permutations = permutations->to_host(), r.perm_ptr = perm_ptr->to_host();
  r.closed = closed.to_host(), r.ambiguous = ambiguous.to_host();
  return found;
}

template <class T>
void check_close(const std::vector<T>& got, const std::vector<T>& expected, double allowed) {
  CHECK_EQUAL(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::fabs(got[i] - expected[i]) <= allowed);
}

template <class T, int BUG = stabilizers_cuda::kNone>
void check_same(const Molecules& m, double tolerance, int policy, int64_t samples) {
  const std::vector<T> x(m.positions.begin(), m.positions.end());
  const Result<T> expected = on_host<T>(m, x, tolerance, policy, samples);
  Result<T> got;
  const auto found = on_device<T, BUG>(m, x, tolerance, policy, samples, got);
  CHECK_EQUAL(found.status, stabilizers_cuda::kNoProblem);
  CHECK(got.op_ptr == expected.op_ptr);
  CHECK(got.group == expected.group);
  CHECK(got.order == expected.order);
  CHECK(got.rank == expected.rank);
  CHECK(got.orbits == expected.orbits);
  CHECK(got.permutations == expected.permutations);
  CHECK(got.perm_ptr == expected.perm_ptr);
  CHECK(got.closed == expected.closed);
  CHECK(got.ambiguous == expected.ambiguous);
  const double allowed = sizeof(T) == 8 ? 1e-9 : 1e-5;
  check_close(got.operations, expected.operations, allowed);
  check_close(got.residuals, expected.residuals, allowed);
  check_close(got.centroid, expected.centroid, allowed);
  check_close(got.axis, expected.axis, allowed);
  check_close(got.margin, expected.margin, allowed);
}

void test_every_kind() {
  const Molecules m = every_kind();
  for_orders([&] { check_same<double>(m, 0.01, 0, 0); });
  for_orders([&] { check_same<float>(m, 0.01, 0, 0); });
}

void test_policies_and_samples() {
  const Molecules m = every_kind();
  for (int policy : {0, 1, 2}) {
    for (double tolerance : {0.02, 0.03}) check_same<double>(m, tolerance, policy, policy == 1 ? 3 : 0);
  }
}

void test_close_atoms() {
  const Molecules m = close_atoms();
  for (int policy : {0, 1}) {
    for (double tolerance : {0.01, 0.03}) check_same<double>(m, tolerance, policy, 0);
  }
  const Result<double> r = on_host<double>(m, m.positions, 0.01, 0, 0);
  CHECK_EQUAL(r.group[0], group_code(Family::cs));
  CHECK_EQUAL(r.group[1], group_code(Family::dinfh));
}

void test_problems() {
  Molecules m = every_kind();
  Result<double> r;
  m.numbers[5] = 0;
  CHECK_EQUAL(on_device<double>(m, m.positions, 0.01, 0, 0, r).status,
              4u * 8 + static_cast<unsigned>(SymmetryProblem::number));
  m = every_kind();
  m.positions[3] = std::nan("");
  CHECK_EQUAL(on_device<double>(m, m.positions, 0.01, 0, 0, r).status,
              2u * 8 + static_cast<unsigned>(SymmetryProblem::not_finite));
}

void test_nothing() {
  Molecules m;
  m.end();
  check_same<float>(m, 0.01, 0, 0);
}

// A missing barrier is found; only the race checker sees each of them.
void test_planted() {
#ifndef __CUDACC__
  if (std::string(testing::mode) != "race") return;
  namespace cuda = stabilizers_cuda;
  Molecules m;
  m.ring(6, 6, 1.4, 0, 0), m.ring(1, 6, 2.5, 0, 0), m.end();
  CHECK(testing::in_child([&] { check_same<double, cuda::kNoSyncBeforeSort>(m, 0.01, 0, 0); }).caught);
  CHECK(testing::in_child([&] { check_same<double, cuda::kNoSyncAfterAppend>(m, 0.01, 0, 0); }).caught);
  CHECK(testing::in_child([&] { check_same<double, cuda::kNoSyncAfterMatch>(m, 0.01, 0, 0); }).caught);
  CHECK(!testing::in_child([&] { check_same<double>(m, 0.01, 0, 0); }).caught);
#endif
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"every kind", test_every_kind},
                                      {"policies and samples", test_policies_and_samples},
                                      {"close atoms", test_close_atoms},
                                      {"problems", test_problems},
                                      {"nothing", test_nothing},
                                      {"planted", test_planted}});
}
