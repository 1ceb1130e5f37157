// The operation under which the Chamfer distance of the target to the prediction is smallest, and the nearest atoms
// under it. What is differentiated then is ops/chamfer.cpp.
#include "torch/symmetric.h"

#if !defined(__CUDACC__)
#include "ops/symmetric_chamfer_host.h"
#endif

namespace symkern {
namespace {

// Directions are numbered as in `chamfer`: x_to_y, y_to_x, both.
std::tuple<Tensor, Tensor, Tensor, Tensor> symmetric_chamfer(const Tensor& pred, const Tensor& target,
                                                             const Tensor& matrices, const Tensor& op_ptr,
                                                             const Tensor& permutations, const Tensor& perm_ptr,
                                                             const Tensor& ptr, const OptionalTensor& types,
                                                             int64_t copies, int64_t direction) {
  const SymmetricArguments in(pred, target, matrices, op_ptr, permutations, perm_ptr, ptr, copies);
  if (direction < 0 || direction > 2) bad_argument("direction must be 0, 1 or 2, got ", direction);
  const SymmetricDirections directions{direction != 1, direction != 0};
  const int64_t n = in.pred.size(0), molecules = in.atoms.count;
  OptionalTensor numbers;
  if (types.has_value()) {
    check_dtype(*types, "types", ScalarType::Long);
    check_same_device(*types, "types", in.pred, "pred");
    check_shape(*types, "types", {n}, "(N,)");
    numbers = as_contiguous(*types);
  }
  Tensor loss = empty({molecules}, in.pred.scalar_type(), in.pred);
  Tensor choice = empty({molecules}, ScalarType::Long, in.pred);
  Tensor there = empty({directions.x_to_y ? n : 0}, ScalarType::Long, in.pred);
  Tensor back = empty({directions.y_to_x ? n : 0}, ScalarType::Long, in.pred);
  const Launch launch(in.pred);
  dispatch_float(in.pred.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const SymmetricProblem<T> p = in.problem<T>();
    const int64_t* kinds = data_or_null<int64_t>(numbers);
    int64_t* chosen = choice.mutable_data_ptr<int64_t>();
    int64_t* const index[2] = {directions.x_to_y ? there.mutable_data_ptr<int64_t>() : nullptr,
                               directions.y_to_x ? back.mutable_data_ptr<int64_t>() : nullptr};
    T* result = loss.mutable_data_ptr<T>();
#if defined(__CUDACC__)
    const int64_t rows = in.rows.rows * copies, operations = in.matrices.size(0);
    Tensor work = empty({2 * rows + operations}, ScalarType::Double, in.pred);
    double* squares[2] = {work.mutable_data_ptr<double>(), work.mutable_data_ptr<double>() + rows};
    double* losses = squares[1] + rows;
    for (int way = 0; way < 2; ++way) {
      if (index[way] == nullptr) {
        squares[way] = nullptr;
      } else {
        launch.for_each(rows, 0, NearestRows<T>{p, kinds, way == 1, squares[way]});
      }
    }
    launch.for_each(operations, 0, RowLosses<T>{p, squares[0], squares[1], losses});
    launch.for_each(molecules, 0, ChooseOperations<T>{p, losses, chosen, result});
    for (int way = 0; way < 2; ++way) {
      if (index[way] != nullptr) launch.for_each(n, 0, ChosenPlaces<T>{p, kinds, chosen, way == 1, index[way]});
    }
#else
    double pairs = 1;
    for (int64_t b = 0; b < molecules; ++b) {
      const double size = static_cast<double>(in.atoms.ptr[b + 1] - in.atoms.ptr[b]);
      pairs += static_cast<double>(p.count(b)) * size * size;
    }
    // some tenths of a millisecond for a thread
    const auto grain = static_cast<int64_t>(1 + 4e6 / pairs * static_cast<double>(molecules));
    launch.parallel()(molecules, grain, [&](int64_t begin, int64_t end) {
      SymmetricChamferSearch<T> search(p, kinds, directions, symmetric_kernels());
      for (int64_t b = begin; b < end; ++b) chosen[b] = search(b, index[0], index[1], result + b);
    });
#endif
  });
  return {loss, choice, there, back};
}

}  // namespace

SYMKERN_OP(symmetric_chamfer,
           "(Tensor pred, Tensor target, Tensor matrices, Tensor op_ptr, Tensor permutations, Tensor perm_ptr, Tensor "
           "ptr, Tensor? types, int copies, int direction) -> (Tensor, Tensor, Tensor, Tensor)",
           symmetric_chamfer)

}  // namespace symkern
