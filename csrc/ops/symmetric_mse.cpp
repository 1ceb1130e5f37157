// The operation whose image of the target, matched by its permutation, is nearest to the prediction; and the rotation
// of each molecule's rows by one matrix, through which the loss is differentiated.
#include "torch/symmetric.h"

namespace symkern {
namespace {

#if defined(__CUDACC__)
constexpr int kSlices = 32;  // threads that share the rows of a molecule
#else
constexpr int kSlices = 1;

// All operations of a molecule, each only as far as it may still be chosen.
template <class T>
struct MatchedMolecule {
  SymmetricProblem<T> p;
  double* losses;

  void operator()(int64_t b) const {
    const int64_t first = p.first(b), count = p.count(b);
    const double size = p.size(b);
    double least = std::numeric_limits<double>::infinity(), enough = least;
    for (int64_t g = first; g < first + count; ++g) {
      losses[g] = matched_loss(p, g, b, enough);
      if (losses[g] < least) {
        least = losses[g];
        const double bound = tie_bound(least, size, kTie<T>);
        enough = bound * bound * (1 + 0x1p-40);
      }
    }
  }
};
#endif

template <class T>
struct Partners {
  SymmetricProblem<T> p;
  const int64_t* choice;
  int64_t* index;  // (N)

  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / kSlices, begin = p.atoms.bound(b), end = p.atoms.bound(b + 1);
    for (int64_t i = begin + item % kSlices; i < end; i += kSlices) index[i] = partner_of(p, choice[b], b, i - begin);
  }
};

std::tuple<Tensor, Tensor, Tensor> symmetric_mse(const Tensor& pred, const Tensor& target, const Tensor& matrices,
                                                 const Tensor& op_ptr, const Tensor& permutations,
                                                 const Tensor& perm_ptr, const Tensor& ptr, int64_t copies) {
  const SymmetricArguments in(pred, target, matrices, op_ptr, permutations, perm_ptr, ptr, copies);
  const int64_t molecules = in.atoms.count, operations = in.matrices.size(0);
  Tensor loss = empty({molecules}, in.pred.scalar_type(), in.pred);
  Tensor choice = empty({molecules}, ScalarType::Long, in.pred);
  Tensor index = empty({in.pred.size(0)}, ScalarType::Long, in.pred);
  Tensor losses = empty({operations}, ScalarType::Double, in.pred);
  const Launch launch(in.pred);
  dispatch_float(in.pred.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const SymmetricProblem<T> p = in.problem<T>();
    double* all = losses.mutable_data_ptr<double>();
    int64_t* chosen = choice.mutable_data_ptr<int64_t>();
#if defined(__CUDACC__)
    launch.for_each(operations, 0, MatchedLosses<T>{p, all});
#else
    const int64_t rows = in.rows.rows * in.copies;
    launch.for_each(molecules, rows > 0 ? 1 + 20000 * molecules / rows : molecules, MatchedMolecule<T>{p, all});
#endif
    launch.for_each(molecules, 1024, ChooseOperations<T>{p, all, chosen, loss.mutable_data_ptr<T>()});
    launch.for_each(molecules * kSlices, 1024, Partners<T>{p, chosen, index.mutable_data_ptr<int64_t>()});
  });
  return {loss, choice, index};
}

// ---- out_i = M x_i or M^T x_i with the matrix of i's molecule; each is the other's derivative -----------------------

template <class T>
struct RotateRows {
  const T* x;         // (N, 3)
  const T* matrices;  // (G, 3, 3)
  int64_t num_matrices;
  const int64_t* choice;  // (B)
  Ragged atoms;
  bool transposed;
  T* out;  // (N, 3)

  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / kSlices, begin = atoms.bound(b), end = atoms.bound(b + 1), g = choice[b];
    const bool inside = static_cast<uint64_t>(g) < static_cast<uint64_t>(num_matrices);
    const int64_t along = transposed ? 3 : 1, down = transposed ? 1 : 3;
    for (int64_t i = begin + item % kSlices; i < end; i += kSlices) {
      const Vec3 v = load_vec3(x + 3 * i);
      for (int64_t r = 0; r < 3; ++r) {
        const T* m = matrices + 9 * (inside ? g : 0) + down * r;
        const double sum = inside ? m[0] * v.x + m[along] * v.y + m[2 * along] * v.z : 0;
        out[3 * i + r] = static_cast<T>(sum);
      }
    }
  }
};

Tensor rotate_rows(const Tensor& x, const Tensor& matrices, const Tensor& choice, const Tensor& ptr, bool transposed) {
  const Tensor rows = as_contiguous(x), m = as_contiguous(matrices), g = as_contiguous(choice), p = as_contiguous(ptr);
  check_float(rows, "x");
  check_shape(rows, "x", {-1, 3}, "(N, 3)");
  check_like(m, "matrices", {-1, 3, 3}, "(G, 3, 3)", rows, "x");
  const Ragged atoms = checked_ptr(p, "ptr", "rows", rows.size(0), rows);
  check_dtype(g, "choice", ScalarType::Long);
  check_same_device(g, "choice", rows, "x");
  check_shape(g, "choice", {atoms.count}, "(B,)");
  Tensor out = empty({rows.size(0), 3}, rows.scalar_type(), rows);
  const Launch launch(rows);
  dispatch_float(rows.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const RotateRows<T> f{
        rows.const_data_ptr<T>(), m.const_data_ptr<T>(), m.size(0), g.const_data_ptr<int64_t>(), atoms, transposed,
        out.mutable_data_ptr<T>()};
    launch.for_each(atoms.count * kSlices, 1024, f);
  });
  return out;
}

}  // namespace

SYMKERN_OP(symmetric_mse,
           "(Tensor pred, Tensor target, Tensor matrices, Tensor op_ptr, Tensor permutations, Tensor perm_ptr, Tensor "
           "ptr, int copies) -> (Tensor, Tensor, Tensor)",
           symmetric_mse)
SYMKERN_OP(rotate_rows, "(Tensor x, Tensor matrices, Tensor choice, Tensor ptr, bool transposed) -> Tensor",
           rotate_rows)

}  // namespace symkern
