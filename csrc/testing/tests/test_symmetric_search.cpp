// The search of the host, which sifts in fp32 and compares few operations in fp64, against the schedule of the device,
// which compares all of them: the same operations, nearest atoms and bits.
#define SYMKERN_ISA_LEVEL baseline
#include "ops/symmetric_chamfer_simd.cpp"

#include <random>
#include <vector>

#include "ops/symmetric_chamfer_host.h"
#include "testing/check.h"

using namespace symkern;
using symkern::testing::Buffer;

namespace {

template <class T>
struct Sample {
  std::vector<T> pred, target, matrices;
  std::vector<int64_t> permutations, types, ptr{0}, op_ptr{0}, perm_ptr{0};
  int64_t copies;

  // Signed permutation matrices, hence exact ties, with small integers as coordinates if `coarse`; then turned a bit if
  // `rounded`, which makes ties inexact.
  Sample(const std::vector<int64_t>& sizes, int64_t operations, int64_t copies_, bool coarse, bool rounded,
         double scale)
      : copies(copies_) {
    std::mt19937 random(static_cast<unsigned>(operations * 10 + copies));
    const auto coordinate = [&] {
      const double x = std::normal_distribution<>(0, 2)(random);
      return static_cast<T>(scale * (coarse ? std::round(x) : x));
    };
    for (int64_t size : sizes) {
      for (int64_t i = 0; i < size; ++i) {
        types.push_back(static_cast<int64_t>(random() % 3));
        for (int c = 0; c < 3; ++c) pred.push_back(coordinate()), target.push_back(coordinate());
      }
      for (int64_t g = 0; g < operations; ++g) {
        for (int64_t copy = 0; copy < copies; ++copy) {
          const int shift = static_cast<int>(random() % 3);
          for (int r = 0; r < 3; ++r) {
            const bool minus = random() % 2;
            for (int c = 0; c < 3; ++c) {
              const double one = c == (r + shift) % 3 ? (minus ? -1 : 1) : 0;
              matrices.push_back(static_cast<T>(one + (rounded ? 1e-8 * std::normal_distribution<>()(random) : 0)));
            }
          }
        }
        for (int64_t i = 0; i < size; ++i) permutations.push_back(ptr.back() + (i + g) % size);
        perm_ptr.push_back(static_cast<int64_t>(permutations.size()));
      }
      ptr.push_back(ptr.back() + size);
      op_ptr.push_back(op_ptr.back() + operations);
    }
  }
};

template <class T>
void compare(const Sample<T>& s, SymmetricDirections directions, bool typed) {
  const int64_t atoms = s.ptr.back(), molecules = static_cast<int64_t>(s.ptr.size()) - 1;
  const int64_t operations = s.op_ptr.back(), rows = s.perm_ptr.back();
  const Buffer<T> pred(s.pred), target(s.target), matrices(s.matrices);
  const Buffer<int64_t> permutations(s.permutations), types(s.types), ptr(s.ptr), op_ptr(s.op_ptr),
      perm_ptr(s.perm_ptr);
  const SymmetricProblem<T> p{pred.data(),
                              target.data(),
                              matrices.data(),
                              permutations.data(),
                              {ptr.data(), molecules, atoms},
                              {op_ptr.data(), molecules, operations},
                              {perm_ptr.data(), operations, rows},
                              s.copies};
  const int64_t* kinds = typed ? types.data() : nullptr;
  const size_t n = static_cast<size_t>(atoms), b = static_cast<size_t>(molecules);
  std::vector<T> loss(b), expected_loss(b);
  std::vector<int64_t> choice(b), expected(b), index[2], expected_index[2];
  std::vector<double> squares[2], losses(static_cast<size_t>(operations * s.copies));
  const bool wanted[2] = {directions.x_to_y, directions.y_to_x};
  for (int way = 0; way < 2; ++way) {
    index[way].resize(n), expected_index[way].resize(n), squares[way].resize(static_cast<size_t>(rows * s.copies));
    for (int64_t r = 0; wanted[way] && r < rows * s.copies; ++r) {
      NearestRows<T>{p, kinds, way == 1, squares[way].data()}(r);
    }
  }
  for (int64_t g = 0; g < operations * s.copies; ++g) {
    const double* there = wanted[0] ? squares[0].data() : nullptr;
    RowLosses<T>{p, there, wanted[1] ? squares[1].data() : nullptr, losses.data()}(g);
  }
  for (int64_t m = 0; m < molecules; ++m) {
    ChooseOperations<T>{p, losses.data(), expected.data(), expected_loss.data()}(m);
  }
  for (int way = 0; way < 2; ++way) {
    for (int64_t i = 0; wanted[way] && i < atoms; ++i) {
      ChosenPlaces<T>{p, kinds, expected.data(), way == 1, expected_index[way].data()}(i);
    }
  }
  SymmetricChamferSearch<T> search(p, kinds, directions, symmetric_kernels());
  for (int64_t m = 0; m < molecules; ++m) choice[m] = search(m, index[0].data(), index[1].data(), loss.data() + m);
  CHECK(choice == expected);
  CHECK(loss == expected_loss);
  CHECK(index[0] == expected_index[0]);
  CHECK(index[1] == expected_index[1]);
}

template <class T>
void check_all() {
  const std::vector<std::vector<int64_t>> batches = {{}, {0}, {1}, {3, 0, 4, 1}, {15, 16, 17}, {33, 5}, {130}};
  for (const auto& sizes : batches) {
    for (int64_t operations : {1, 2, 7, 24}) {
      for (int64_t copies : {1, 2}) {
        for (int variant = 0; variant < 5; ++variant) {
          const double scale = variant == 3 ? 1e-25 : variant == 4 ? 1e15 : 1;
          const Sample<T> s(sizes, operations, copies, variant < 2, variant == 1, scale);
          for (const SymmetricDirections d : {SymmetricDirections{true, false}, {false, true}, {true, true}}) {
            compare(s, d, false);
            compare(s, d, true);
          }
        }
      }
    }
  }
}

void matched_loss_with_and_without_an_early_end() {
  const Sample<double> s({5, 0, 9}, 12, 2, true, false, 1);
  const SymmetricProblem<double> p{s.pred.data(),
                                   s.target.data(),
                                   s.matrices.data(),
                                   s.permutations.data(),
                                   {s.ptr.data(), 3, s.ptr.back()},
                                   {s.op_ptr.data(), 3, s.op_ptr.back()},
                                   {s.perm_ptr.data(), s.op_ptr.back(), s.perm_ptr.back()},
                                   2};
  std::vector<double> losses(static_cast<size_t>(2 * s.op_ptr.back()));
  for (size_t g = 0; g < losses.size(); ++g) {
    MatchedLosses<double>{p, losses.data()}(static_cast<int64_t>(g));
    const int64_t b = p.molecule_of(static_cast<int64_t>(g));
    CHECK(matched_loss(p, static_cast<int64_t>(g), b, losses[g]) == losses[g]);
    if (losses[g] > 1) CHECK(matched_loss(p, static_cast<int64_t>(g), b, losses[g] - 1) > losses[g] - 1);
  }
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"fp32", check_all<float>},
                                      {"fp64", check_all<double>},
                                      {"matched", matched_loss_with_and_without_an_early_end}});
}
