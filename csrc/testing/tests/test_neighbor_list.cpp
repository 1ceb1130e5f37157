// The CUDA neighbor list against all pairs and all images in plain loops.
#include "ops/neighbor_list_cuda.cuh"

#include <algorithm>
#include <array>
#include <deque>
#include <random>

#include "testing/check.h"

using namespace symkern;
using namespace symkern::neighbor_cuda;
using symkern::testing::Buffer;
using symkern::testing::for_orders;

namespace {

using Edge = std::array<int64_t, 5>;  // receiver, sender, shift: sorts as the result must be sorted

template <class T>
struct System {
  std::vector<T> positions, cell;
  std::vector<int64_t> ptr;
  std::vector<char> pbc;  // 3 per structure
  double cutoff = 1;
  bool full = true, self_loops = false, use_batch = false;

  int64_t structures() const { return static_cast<int64_t>(ptr.size()) - 1; }
  int64_t atoms() const { return ptr.back(); }
  double extent() const {  // no two atoms are further apart
    double largest = 0;
    for (T x : positions) largest = std::max(largest, std::fabs(static_cast<double>(x)));
    return 2 * std::sqrt(3.0) * largest;
  }
  std::vector<int64_t> batch() const {
    std::vector<int64_t> b;
    for (int64_t s = 0; s < structures(); ++s) b.insert(b.end(), static_cast<size_t>(ptr[s + 1] - ptr[s]), s);
    return b;
  }
};

template <class T>
std::vector<Edge> reference(const System<T>& system) {
  std::vector<Edge> edges;
  for (int64_t b = 0; b < system.structures(); ++b) {
    int range[3] = {0, 0, 0};
    Mat3 cell{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    if (!system.cell.empty()) {
      cell = load_mat3(&system.cell[9 * b]);
      const Vec3 rows[3] = {cell.a, cell.b, cell.c};
      const double volume = std::fabs(dot(cell.a, cross(cell.b, cell.c)));
      for (int k = 0; k < 3; ++k) {
        const Vec3 normal = cross(rows[(k + 1) % 3], rows[(k + 2) % 3]);
        const double height = volume / std::sqrt(dot(normal, normal)), distance = system.extent() + system.cutoff;
        range[k] = system.pbc[3 * b + k] ? static_cast<int>(distance / height) + 1 : 0;
      }
    }
    for (int64_t i = system.ptr[b]; i < system.ptr[b + 1]; ++i) {
      for (int64_t j = system.ptr[b]; j < system.ptr[b + 1]; ++j) {
        for (int x = -range[0]; x <= range[0]; ++x) {
          for (int y = -range[1]; y <= range[1]; ++y) {
            for (int z = -range[2]; z <= range[2]; ++z) {
              const double d2 = pair_distance_sq(load_vec3(&system.positions[3 * i]),
                                                 load_vec3(&system.positions[3 * j]), {x, y, z}, cell);
              if (!(d2 < system.cutoff * system.cutoff)) continue;
              const Edge edge{i, j, x, y, z}, self{i, i, 0, 0, 0};
              if (edge == self ? !system.self_loops : !system.full && edge < self) continue;
              edges.push_back(edge);
            }
          }
        }
      }
    }
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

struct Result {
  Summary summary;
  std::vector<Edge> edges;  // the real ones
  std::vector<int64_t> row_ptr;
  int64_t room = -1;
  unsigned long long sticky;
};

template <class T>
Result run(const System<T>& system, int64_t capacity = -1, bool synchronise = true) {
  const Buffer<T> positions(system.positions), cell(system.cell);
  const Buffer<char> pbc(system.pbc);
  const Buffer<int64_t> ptr(system.ptr), batch(system.batch());
  const int64_t n = system.atoms();
  Buffer<int64_t> row_ptr(n + 1);
  Buffer<unsigned long long> sticky(std::vector<unsigned long long>{kNoProblem});
  std::deque<Buffer<char>> scratch;
  const auto memory = [&](size_t bytes) -> void* { return scratch.emplace_back(static_cast<int64_t>(bytes)).data(); };
  std::deque<Buffer<int64_t>> index;
  std::deque<Buffer<int32_t>> shifts;
  Result result;
  const auto allocate = [&](int64_t room) {
    result.room = room;
    index.emplace_back(room), index.emplace_back(room), shifts.emplace_back(system.cell.empty() ? 0 : 3 * room);
    return Output{index[0].data(), index[1].data(), system.cell.empty() ? nullptr : shifts[0].data()};
  };
  const bool cells = !system.cell.empty();
  const Input<T> in{positions.data(),
                    n,
                    system.use_batch ? batch.data() : nullptr,
                    system.use_batch ? nullptr : ptr.data(),
                    system.use_batch && !cells ? 0 : system.structures(),
                    cells ? cell.data() : nullptr,
                    cells,
                    cells ? reinterpret_cast<const bool*>(pbc.data()) : nullptr,
                    cells,
                    7,
                    system.cutoff,
                    system.full,
                    system.self_loops};
  result.summary =
      find_edges(in, capacity, synchronise, memory, sticky.data(), row_ptr.data(), allocate, gpu::Stream{});
  result.row_ptr = row_ptr.to_host();
  result.sticky = sticky.to_host()[0];
  if (result.room >= 0) {
    const auto senders = index[0].to_host(), receivers = index[1].to_host();
    const auto s = shifts[0].to_host();
    for (int64_t e = 0; e < result.room; ++e) {
      const Edge edge{receivers[e], senders[e], cells ? s[3 * e] : 0, cells ? s[3 * e + 1] : 0,
                      cells ? s[3 * e + 2] : 0};
      if (e < result.row_ptr[n]) {
        result.edges.push_back(edge);
      } else {
        CHECK(edge == Edge({0, 0, 0, 0, 0}));  // padding
      }
    }
  }
  return result;
}

template <class T>
void check(const System<T>& system) {
  const std::vector<Edge> expected = reference(system);
  const auto compare = [&](int64_t capacity, bool synchronise) {
    const Result result = run(system, capacity, synchronise);
    CHECK_EQUAL(result.summary.status, kNoProblem);
    CHECK_EQUAL(result.sticky, kNoProblem);
    CHECK_EQUAL(result.edges.size(), expected.size());
    CHECK(result.edges == expected);
    size_t e = 0;
    for (int64_t i = 0; i < system.atoms(); ++i) {
      CHECK_EQUAL(result.row_ptr[i], static_cast<int64_t>(e));
      while (e < expected.size() && expected[e][0] == i) ++e;
    }
  };
  compare(-1, true);
  compare(static_cast<int64_t>(expected.size()) + 5, false);
}

template <class T>
System<T> random_system(std::mt19937& random, const std::vector<int>& sizes, double spread, double cutoff) {
  System<T> system;
  system.cutoff = cutoff;
  system.ptr.push_back(0);
  std::uniform_real_distribution<double> uniform(-spread, spread);
  for (int size : sizes) {
    for (int c = 0; c < 3 * size; ++c) system.positions.push_back(static_cast<T>(uniform(random)));
    system.ptr.push_back(system.ptr.back() + size);
  }
  return system;
}

template <class T>
void test_molecules() {
  std::mt19937 random(1);
  for (const std::vector<int>& sizes : {std::vector<int>{}, {0}, {1}, {31, 0, 33}, {2, 5, 1, 32}, {64}}) {
    for (int options = 0; options < 8; ++options) {
      System<T> system = random_system<T>(random, sizes, 2, 1.7);
      system.full = options & 1, system.self_loops = options & 2, system.use_batch = options & 4;
      if (options == 0 || sizes.size() == 3) {
        for_orders([&] { check(system); });
      } else {
        check(system);
      }
    }
  }
}

// Cells of every kind: orthogonal, skewed, left-handed, tiny, periodic in some directions; atoms outside.
template <class T>
void test_cells() {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (int trial = 0; trial < 48; ++trial) {
    System<T> system =
        random_system<T>(random, trial % 4 == 0 ? std::vector<int>{3, 0, 5} : std::vector<int>{6}, 1.5, 1.5);
    for (int64_t b = 0; b < system.structures(); ++b) {
      std::array<double, 9> rows;
      Mat3 m;
      do {
        for (double& x : rows) x = 2 * uniform(random);
        m = load_mat3(rows.data());
      } while (std::fabs(dot(m.a, cross(m.b, m.c))) < 1.5);
      for (double x : rows) system.cell.push_back(static_cast<T>(x));
      for (int k = 0; k < 3; ++k) system.pbc.push_back(static_cast<char>((random() >> 5) % 4 != 0));
    }
    system.full = trial % 2, system.self_loops = trial % 3 == 0, system.use_batch = trial % 5 == 0;
    if (trial < 4) {
      for_orders([&] { check(system); }, 2);
    } else {
      check(system);
    }
  }
}

template <class T>
void test_large_without_cell() {
  std::mt19937 random(3);
  System<T> system = random_system<T>(random, {static_cast<int>(kMoleculeLimit) + 3}, 6, 1.1);
  check(system);
  for (T& x : system.positions) x += T(300);  // far from the origin
  check(system);
}

void test_problems() {
  std::mt19937 random(4);
  const auto problem = [](const System<double>& system, int64_t capacity = -1) {
    return static_cast<Problem>(run(system, capacity).summary.status >> 48);
  };
  System<double> system = random_system<double>(random, {4, 5}, 1, 2);
  CHECK(run(system).summary.status == kNoProblem);
  System<double> bad = system;
  bad.positions[7] = std::nan("");
  CHECK(problem(bad) == Problem::not_finite);
  CHECK_EQUAL(run(bad).summary.status & 0xffff, 2u);  // atom 2
  bad.positions[7] = INFINITY;
  CHECK(problem(bad) == Problem::not_finite);
  bad.cell.assign(18, 1.0), bad.pbc.assign(6, 1);
  bad.positions = system.positions;
  CHECK(problem(bad) == Problem::cell_singular);
  CHECK(problem(system, 3) == Problem::overflow);

  // without synchronising: rows are empty, the problem stays behind
  const Result quiet = run(system, 3, false);
  CHECK_EQUAL(quiet.row_ptr.back(), 0);
  CHECK(static_cast<Problem>(quiet.sticky >> 48) == Problem::overflow);
}

// Wrong ptr and batch are reported and never read out of bounds.
void test_bad_structures() {
  const Buffer<double> positions(std::vector<double>(12, 0.5));
  const auto status = [&](const std::vector<int64_t>& ptr, const std::vector<int64_t>& batch) {
    const Buffer<int64_t> p(ptr), b(batch);
    Buffer<int64_t> row_ptr(5);
    Buffer<unsigned long long> sticky(std::vector<unsigned long long>{kNoProblem});
    std::deque<Buffer<char>> scratch;
    std::deque<Buffer<int64_t>> index;
    const Input<double> in{positions.data(),
                           4,
                           batch.empty() ? nullptr : b.data(),
                           ptr.empty() ? nullptr : p.data(),
                           ptr.empty() ? 0 : static_cast<int64_t>(ptr.size()) - 1,
                           nullptr,
                           false,
                           nullptr,
                           false,
                           7,
                           1.0,
                           true,
                           false};
    const Summary summary = find_edges(
        in, -1, true, [&](size_t bytes) -> void* { return scratch.emplace_back(static_cast<int64_t>(bytes)).data(); },
        sticky.data(), row_ptr.data(),
        [&](int64_t room) {
          index.emplace_back(room), index.emplace_back(room);
          return Output{index[0].data(), index[1].data(), nullptr};
        },
        gpu::Stream{});
    return static_cast<Problem>(summary.status >> 48);
  };
  CHECK(status({1, 4}, {}) == Problem::ptr_start);
  CHECK(status({0, 3, 2, 4}, {}) == Problem::ptr_decreases);
  CHECK(status({0, 900, 4}, {}) == Problem::ptr_decreases);
  CHECK(status({0, 3}, {}) == Problem::ptr_end);
  CHECK(status({0, 9}, {}) == Problem::ptr_end);
  CHECK(status({}, {0, 0, -1, 2}) == Problem::batch_negative);
  CHECK(status({}, {0, 1, 0, 2}) == Problem::batch_unsorted);
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"molecules fp32", test_molecules<float>},
                                      {"molecules fp64", test_molecules<double>},
                                      {"cells fp32", test_cells<float>},
                                      {"cells fp64", test_cells<double>},
                                      {"large without cell", test_large_without_cell<float>},
                                      {"problems", test_problems},
                                      {"bad structures", test_bad_structures}});
}
