// Positions and matrices that satisfy the operations of molecules exactly: positions become the mean over the group of
// what it makes of them, x_i <- mean_g R_g^T x_p_g(i), and matrices the best ones for these positions, in turns.
#include "core/kabsch.h"
#include "torch/shim.h"

#include <utility>

namespace symkern {
namespace {

// The last of `count` segments that begins at or before `value`.
SYMKERN_HD int64_t segment_of(const int64_t* ptr, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (ptr[middle] <= value) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

struct Operations {
  const int64_t *ptr, *op_ptr, *permutations, *perm_ptr, *rank;
  const double* axis;
  int64_t molecules;
};

struct AveragePositions {
  Operations in;
  const double *matrices, *from;  // relative to the centroid
  double* to;

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t b = segment_of(in.ptr, in.molecules, i), first = in.op_ptr[b], end = in.op_ptr[b + 1];
    double sum[3] = {0, 0, 0};
    if (in.rank[b] == 1) {  // all operations keep the axis, up to its sign
      const double* axis = in.axis + 3 * b;
      double along = 0;
      for (int64_t g = first; g < end; ++g) {
        double image[3];
        multiply3(matrices + 9 * g, axis, image);
        const double t = dot3(from + 3 * in.permutations[in.perm_ptr[g] + i - in.ptr[b]], axis);
        along += dot3(image, axis) < 0 ? -t : t;
      }
      for (int k = 0; k < 3; ++k) sum[k] = along * axis[k];
    } else if (in.rank[b] > 1) {
      for (int64_t g = first; g < end; ++g) {
        const double *r = matrices + 9 * g, *x = from + 3 * in.permutations[in.perm_ptr[g] + i - in.ptr[b]];
        for (int k = 0; k < 3; ++k) sum[k] = fma(r[k], x[0], fma(r[3 + k], x[1], fma(r[6 + k], x[2], sum[k])));
      }
    }
    for (int k = 0; k < 3; ++k) to[3 * i + k] = sum[k] / static_cast<double>(end - first);
  }
};

struct FitOperation {
  Operations in;
  const double* positions;  // relative to the centroid
  double *matrices, *residuals;

  SYMKERN_HD void operator()(int64_t g) const {
    const int64_t b = segment_of(in.op_ptr, in.molecules, g), atoms = in.ptr[b + 1] - in.ptr[b];
    const double* y = positions + 3 * in.ptr[b];
    const int64_t* p = in.permutations + in.perm_ptr[g];
    double* r = matrices + 9 * g;
    if (in.rank[b] > 1) {
      double c[3], h[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
      cross3(r, r + 3, c);
      for (int64_t i = 0; i < atoms; ++i) {
        for (int k = 0; k < 9; ++k) h[k] = fma(positions[3 * p[i] + k / 3], y[3 * i + k % 3], h[k]);
      }
      kabsch3(h, dot3(c, r + 6) > 0 ? 1 : -1, r);
    }
    double worst = 0;
    for (int64_t i = 0; i < atoms; ++i) {
      double z[3];
      multiply3(r, y + 3 * i, z);
      const double d = distance_sq3(z, positions + 3 * p[i]);
      if (d > worst) worst = d;
    }
    residuals[g] = sqrt(worst);
  }
};

// Centered positions (N, 3), fp64 -> centered positions, matrices (G, 3, 3), residuals (G,)
std::tuple<Tensor, Tensor, Tensor> symmetrize(const Tensor& positions, const Tensor& operations, const Tensor& axis,
                                              const Tensor& ptr, const Tensor& op_ptr, const Tensor& permutations,
                                              const Tensor& perm_ptr, const Tensor& rank, int64_t rounds) {
  for (const Tensor* t : {&positions, &operations, &axis})
    check_dtype(*t, "positions, operations and axis", ScalarType::Double);
  for (const Tensor* t : {&ptr, &op_ptr, &permutations, &perm_ptr, &rank}) {
    check_dtype(*t, "ptr, op_ptr, permutations, perm_ptr and rank", ScalarType::Long);
    check_same_device(*t, "ptr, op_ptr, permutations, perm_ptr and rank", positions, "positions");
  }
  check_shape(positions, "positions", {-1, 3}, "(N, 3)");
  check_shape(operations, "operations", {-1, 3, 3}, "(G, 3, 3)");
  const Tensor x = as_contiguous(positions), a = as_contiguous(axis), starts = as_contiguous(ptr);
  const Tensor firsts = as_contiguous(op_ptr), perms = as_contiguous(permutations), rows = as_contiguous(perm_ptr);
  const Tensor ranks = as_contiguous(rank);
  const Operations in{starts.const_data_ptr<int64_t>(),
                      firsts.const_data_ptr<int64_t>(),
                      perms.const_data_ptr<int64_t>(),
                      rows.const_data_ptr<int64_t>(),
                      ranks.const_data_ptr<int64_t>(),
                      a.const_data_ptr<double>(),
                      rank.size(0)};
  Tensor matrices = torch::stable::clone(as_contiguous(operations));
  Tensor residuals = empty({operations.size(0)}, ScalarType::Double, positions);
  Tensor from = torch::stable::clone(x), to = empty({x.size(0), 3}, ScalarType::Double, positions);
  const Launch launch(positions);
  for (int64_t round = 0; round < rounds; ++round) {
    launch.for_each(x.size(0), 64,
                    AveragePositions{in, matrices.const_data_ptr<double>(), from.const_data_ptr<double>(),
                                     to.mutable_data_ptr<double>()});
    launch.for_each(operations.size(0), 64,
                    FitOperation{in, to.const_data_ptr<double>(), matrices.mutable_data_ptr<double>(),
                                 residuals.mutable_data_ptr<double>()});
    std::swap(from, to);
  }
  return {from, matrices, residuals};
}

}  // namespace

SYMKERN_OP(symmetrize,
           "(Tensor positions, Tensor operations, Tensor axis, Tensor ptr, Tensor op_ptr, Tensor permutations, Tensor "
           "perm_ptr, Tensor rank, int rounds) -> (Tensor, Tensor, Tensor)",
           symmetrize)

}  // namespace symkern
