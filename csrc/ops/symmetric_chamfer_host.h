// The symmetric Chamfer search on the host. Operations are sifted in fp32; those that may win, usually one, are
// compared in fp64, by the same numbers that the device compares all of them with.
#pragma once

#include <algorithm>
#include <limits>

#include "core/isa.h"
#include "core/workspace.h"
#include "ops/symmetric_chamfer_simd.h"
#include "ops/symmetric_search.h"

namespace symkern {

inline const SymmetricKernels& symmetric_kernels() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *symkern_symmetric_kernels_avx512();
    case Isa::avx2:
      return *symkern_symmetric_kernels_avx2();
    default:
      break;
  }
#endif
  return *symkern_symmetric_kernels_baseline();
}

// One thread's scratch memory, and the search in one molecule after the other.
template <class T>
class SymmetricChamferSearch {
 public:
  SymmetricChamferSearch(const SymmetricProblem<T>& problem, const int64_t* types, SymmetricDirections directions,
                         const SymmetricKernels& kernels)
      : p_(problem), types_(types), wanted_{directions.x_to_y, directions.y_to_x}, kernels_(kernels) {
    int64_t atoms = 0, operations = 0, queries = 0;
    for (int64_t b = 0; b < p_.atoms.count; ++b) {
      const int64_t n = p_.atoms.bound(b + 1) - p_.atoms.bound(b), g = p_.count(b);
      atoms = std::max(atoms, n), operations = std::max(operations, g), queries = std::max(queries, n * g);
    }
    for (int side = 0; side < 2; ++side) {
      for (int c = 0; c < 3; ++c) floats_[side][c] = room<float>(atoms), doubles_[side][c] = room<double>(atoms);
      squares_[side] = room<double>(atoms), places_[side] = room<double>(atoms);
      sums_[side] = room<float>(operations);
    }
    for (int c = 0; c < 3; ++c) scratch_.queries[c] = room<float>(queries), scratch_.rotated[c] = room<double>(atoms);
    scratch_.least = room<float>(queries), scratch_.half_square = room<float>(atoms);
    matrices_ = room<float>(9 * operations), losses_ = room<double>(operations);
    if (types != nullptr) {
      scratch_.types = room<float>(queries), types_f_ = room<float>(atoms), types_d_ = room<double>(atoms);
    }
    in_ = {side(0), side(1), 0, types_f_, types_d_};
  }

  // The chosen matrix; the nearest atoms go to there[i] (prediction i) and back[i] (rotated target i), unless nullptr.
  int64_t operator()(int64_t b, int64_t* there, int64_t* back, T* loss) {
    const int64_t begin = p_.atoms.bound(b), first = p_.first(b), operations = p_.count(b);
    int64_t* const index[2] = {there, back};
    in_.count = p_.atoms.bound(b + 1) - begin;
    const double size = p_.size(b);
    const bool finite = size < std::numeric_limits<double>::infinity();
    *loss = static_cast<T>(size - size);  // 0, or NaN
    int64_t chosen = 0;
    if (finite && in_.count > 0) {
      load(begin);
      chosen = choose(first, operations, size);
      if (chosen != exact_) compute(first, chosen);
      *loss = static_cast<T>(losses_[chosen]);
    }
    for (int way = 0; way < 2; ++way) {
      for (int64_t i = 0; wanted_[way] && i < in_.count; ++i) {
        index[way][begin + i] = begin + (finite ? static_cast<int64_t>(places_[way][i]) : i);
      }
    }
    return first + chosen;
  }

 private:
  template <class S>
  S* room(int64_t count) {
    S* data = arena_.allocate<S>(static_cast<size_t>(count + kSymmetricPad));
    std::fill(data, data + count + kSymmetricPad, S(0));
    return data;
  }

  SymmetricPoints side(int s) const {
    return {{floats_[s][0], floats_[s][1], floats_[s][2]}, {doubles_[s][0], doubles_[s][1], doubles_[s][2]}};
  }

  void load(int64_t begin) {
    const T* const from[2] = {p_.pred + 3 * begin, p_.target + 3 * begin};
    exact_ = -1;
    for (int s = 0; s < 2; ++s) {
      sum_[s] = largest_[s] = 0;
      for (int64_t i = 0; i < in_.count; ++i) {
        double square = 0;
        for (int c = 0; c < 3; ++c) {
          const double x = from[s][3 * i + c];
          doubles_[s][c][i] = x, floats_[s][c][i] = static_cast<float>(x);
          square += x * x;
        }
        sum_[s] += square;
        largest_[s] = std::max(largest_[s], square);
      }
    }
    // the place of the first atom of the same type: a small number, exact in fp32
    for (int64_t i = 0; types_ != nullptr && i < in_.count; ++i) {
      int64_t j = 0;
      while (types_[begin + j] != types_[begin + i]) ++j;
      types_f_[i] = static_cast<float>(j), types_d_[i] = static_cast<double>(j);
    }
  }

  int64_t choose(int64_t first, int64_t operations, double size) {
    if (operations == 1) return 0;
    const float* matrices = matrices_;
    if constexpr (sizeof(T) == 4) {
      matrices = p_.matrices + 9 * first;
    } else {
      for (int64_t e = 0; e < 9 * operations; ++e) matrices_[e] = static_cast<float>(p_.matrices[9 * first + e]);
    }
    double squares = 0, rounding = 0;
    for (int way = 0; way < 2; ++way) {
      if (!wanted_[way]) continue;
      kernels_.sift(in_, matrices, operations, way == 1, scratch_, sums_[way]);
      squares += sum_[way];
      // of the halved sums: a term has at most 32 roundings (of inputs, rotation and product), a sum one more per term
      rounding += 2 * 0x1p-23 * static_cast<double>(in_.count * (32 + in_.count)) * (largest_[0] + largest_[1]);
    }
    const auto sifted = [&](int64_t g) {
      return squares + 2 * ((wanted_[0] ? double{sums_[0][g]} : 0) + (wanted_[1] ? double{sums_[1][g]} : 0));
    };
    double least = std::numeric_limits<double>::infinity();
    for (int64_t g = 0; g < operations; ++g) least = std::min(least, sifted(g));
    const double bound = tie_bound(std::max(least, 0.0) + rounding, size, kTie<T>);
    const double reach = bound * bound + rounding;
    const auto out = [&](int64_t g) { return sifted(g) > reach; };  // false for what fp32 cannot hold
    int64_t candidates = 0, last = 0;
    for (int64_t g = 0; g < operations; ++g) {
      if (!out(g)) ++candidates, last = g;
    }
    if (candidates == 1) return last;
    for (int64_t g = 0; g < operations; ++g) {
      losses_[g] = std::numeric_limits<double>::infinity();
      if (!out(g)) compute(first, g);
    }
    return choose_operation(losses_, operations, size, kTie<T>);
  }

  void compute(int64_t first, int64_t g) {
    double m[9], sum[2] = {};
    for (int e = 0; e < 9; ++e) m[e] = static_cast<double>(p_.matrices[9 * (first + g) + e]);
    for (int way = 0; way < 2; ++way) {
      if (!wanted_[way]) continue;
      kernels_.nearest(in_, m, way == 1, scratch_, squares_[way], places_[way]);
      for (int64_t i = 0; i < in_.count; ++i) sum[way] += squares_[way][i];
    }
    losses_[g] = sum[0] + sum[1];
    exact_ = g;
  }

  SymmetricProblem<T> p_;
  const int64_t* types_;
  const bool wanted_[2];  // prediction to target, target to prediction
  const SymmetricKernels& kernels_;
  Arena arena_;
  float* floats_[2][3];
  double* doubles_[2][3];
  double *squares_[2], *places_[2], *losses_, *types_d_ = nullptr;
  float *sums_[2], *matrices_, *types_f_ = nullptr;
  double sum_[2] = {}, largest_[2] = {};  // of the squares
  int64_t exact_ = -1;                    // the operation that squares_ and places_ are of
  SymmetricSearch in_{};
  SymmetricScratch scratch_{};
};

}  // namespace symkern
