// Second-order features of rotated molecules, and their first two derivatives as ops. Formulas are in
// second_order_pool.h; here are checks, memory, and how the loops are cut.
#include "ops/second_order_pool.h"

#include "core/segment_sum.h"
#include "torch/fused.h"
#include "torch/structures.h"

namespace symkern {
namespace {

#if defined(__CUDACC__)
constexpr int kLanes = 16, kBlock = 1, kEntries = 1;
#else
constexpr int kLanes = 1, kBlock = 4, kEntries = 9;
#endif

// The arguments of the op, checked.
struct Pool {
  Tensor positions, rotation;
  OptionalTensor weights;
  Tensor ptr;
  PoolMode mode;
  int64_t molecules;

  Pool(const Tensor& x, const Tensor& r, const OptionalTensor& w, const Tensor& starts, int64_t number)
      : positions(as_contiguous(x)), rotation(as_contiguous(r)), ptr(as_contiguous(starts)) {
    check_float(positions, "positions");
    check_shape(positions, "positions", {-1, 3}, "(N, 3)");
    if (number < 0 || number > 2) bad_argument("mode must be 0, 1 or 2, got ", number);
    mode = static_cast<PoolMode>(number);
    molecules = check_structures(positions, std::nullopt, ptr);
    check_dtype(rotation, "rotation", positions.scalar_type());
    check_same_device(rotation, "rotation", positions, "positions");
    const bool square = rotation.dim() == 2 || (rotation.dim() == 3 && rotation.size(0) == molecules);
    if (!square || rotation.size(rotation.dim() - 2) != 3 || rotation.size(rotation.dim() - 1) != 3) {
      bad_argument("rotation must have shape (3, 3) or (B, 3, 3) with B = ", molecules, ", got ", shape_of(rotation));
    }
    if (w.has_value()) {
      if (mode != PoolMode::moment) bad_argument("weights go with mode 'moment'");
      check_shape(*w, "weights", {atoms(), -1}, "(N, C), N as in positions");
      weights = fused_argument(*w, "weights", positions, "positions", {atoms(), w->size(1)});
    }
#if !defined(__CUDACC__)
    check_ptr_values(starts_of(), molecules, atoms());
    for (int64_t b = 0; mode != PoolMode::moment && b < molecules; ++b) {
      const int64_t size = starts_of()[b + 1] - starts_of()[b];
      if (size <= kPoolAtoms) continue;
      bad_argument("mode '", mode == PoolMode::gram ? "gram" : "outer", "' has room for ", kPoolAtoms,
                   " atoms, but molecule ", b, " has ", size, "; mode 'moment' takes any number");
    }
#endif
  }

  const int64_t* starts_of() const { return ptr.const_data_ptr<int64_t>(); }
  int64_t atoms() const { return positions.size(0); }
  int64_t channels() const { return weights.has_value() ? weights->size(1) : 1; }
  int64_t width() const { return mode == PoolMode::moment ? 9 * channels() : kPoolFeatures; }
  bool shared() const { return rotation.dim() == 2; }
};

// What the rungs have in common: y = x R, and from it features or gradients.
template <class T, class N>
class Pass {
 public:
  Pass(const Pool& args, const Launch& launch, const T* along_x = nullptr, const T* along_rotation = nullptr,
       const T* along_weights = nullptr)
      : args_(args),
        launch_(launch),
        in_{args.mode,
            {args.positions.const_data_ptr<T>(), along_x},
            {args.rotation.const_data_ptr<T>(), along_rotation},
            {data_or_null<T>(args.weights), along_weights},
            {args.starts_of(), args.molecules, args.atoms()},
            args.channels(),
            args.shared()},
        turned_(memory()) {
    each_atom(PoolTurn<T, N>{in_, y()});
  }

  void features(T* out) const {
    if (args_.mode == PoolMode::outer) {
      each_piece(PoolOuter<kLanes, T, N>{in_, y(), out}, PoolOuter<kLanes, T, N>::pieces);
    } else if (args_.mode == PoolMode::gram) {
      each_piece(PoolGram<kLanes, T, N>{in_, y(), out}, PoolGram<kLanes, T, N>::pieces);
    } else {
      const PoolMoment<kBlock, T, N> moments{in_, y(), out};
      each_piece(moments, moments.pieces());
    }
  }

  // Any of the three may be null.
  void pull(const Tensor& grad, T* grad_x, T* grad_rotation, T* grad_weights) const {
    const Tensor by_turned = memory();
    N* by_y = static_cast<N*>(by_turned.mutable_data_ptr());
    each_atom(PoolPull<T, N>{in_, y(), grad.const_data_ptr<T>(), by_y, grad_x, grad_weights});
    if (grad_rotation == nullptr) return;
    if (!args_.shared()) {
      each_piece(PoolPullRotation<kEntries, T, N, T>{in_, by_y, grad_rotation}, 9 / kEntries);
      return;
    }
    const int64_t b = args_.molecules;
    const Tensor each = empty({b, 9}, ScalarType::Double, args_.positions);
    const Tensor tiles = empty({blocks_of(b, kSumTile), 9}, ScalarType::Double, args_.positions);
    double *items = each.mutable_data_ptr<double>(), *sums = tiles.mutable_data_ptr<double>();
    each_piece(PoolPullRotation<kEntries, T, N, double>{in_, by_y, items}, 9 / kEntries);
    launch_.for_each(tiles.size(0), 16, TileSum<9>{items, sums, b});
    launch_.for_each(1, 1, WholeSum<9, T>{items, sums, b, grad_rotation});
  }

 private:
  Tensor memory() const {
    return empty({args_.atoms(), 3 * static_cast<int64_t>(sizeof(N) / sizeof(double))}, ScalarType::Double,
                 args_.positions);
  }
  N* y() const { return static_cast<N*>(turned_.mutable_data_ptr()); }

  // Molecules that are worth a thread of their own.
  int64_t grain() const { return 1 + 20000 * args_.molecules / (1 + args_.atoms() * (10 + args_.width() / 10)); }

  template <class F>
  void each_atom(const F& f) const {
#if defined(__CUDACC__)
    launch_.for_each(args_.atoms(), 0, EachAtom<F>{f});
#else
    launch_.for_each(args_.molecules, grain(), AtomsOfMolecule<F>{f});
#endif
  }
  template <class F>
  void each_piece(const F& f, int64_t pieces) const {
    launch_.for_each(args_.molecules * pieces, grain() * pieces, f);
  }

  const Pool& args_;
  const Launch& launch_;
  PoolInput<T, N> in_;
  Tensor turned_;
};

// The gradients of the op's floats that are asked for.
struct Gradients {
  FusedResult positions, rotation, weights;

  Gradients(const Pool& in, int64_t mask)
      : positions(mask & 1, {in.atoms(), 3}, in.positions),
        rotation(in.shared() ? FusedResult(mask >> 1 & 1, {3, 3}, in.positions)
                             : FusedResult(mask >> 1 & 1, {in.molecules, 3, 3}, in.positions)),
        weights(in.weights.has_value() && (mask >> 2 & 1), {in.atoms(), in.channels()}, in.positions) {}

  bool any() const { return positions.asked || rotation.asked || weights.asked; }
};

Tensor second_order_pool(const Tensor& positions, const Tensor& rotation, const OptionalTensor& weights,
                         const Tensor& ptr, int64_t mode) {
  const Pool args(positions, rotation, weights, ptr, mode);
  Tensor out = empty({args.molecules, args.width()}, args.positions.scalar_type(), args.positions);
  const Launch launch(args.positions);
  dispatch_float(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Pass<T, double>(args, launch).features(out.mutable_data_ptr<T>());
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> second_order_pool_backward(const Tensor& grad, const Tensor& positions,
                                                              const Tensor& rotation, const OptionalTensor& weights,
                                                              const Tensor& ptr, int64_t mode, int64_t mask) {
  const Pool args(positions, rotation, weights, ptr, mode);
  const Tensor g = fused_argument(grad, "grad", args.positions, "positions", {args.molecules, args.width()});
  const Gradients to(args, mask);
  const Launch launch(args.positions);
  dispatch_float(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (!to.any()) return;
    Pass<T, double>(args, launch).pull(g, to.positions.data<T>(), to.rotation.data<T>(), to.weights.data<T>());
  });
  return {to.positions.tensor, to.rotation.tensor, to.weights.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> second_order_pool_double_backward(
    const OptionalTensor& along_positions, const OptionalTensor& along_rotation, const OptionalTensor& along_weights,
    const Tensor& grad, const Tensor& positions, const Tensor& rotation, const OptionalTensor& weights,
    const Tensor& ptr, int64_t mode, int64_t mask) {
  const Pool args(positions, rotation, weights, ptr, mode);
  const Tensor& like = args.positions;
  const OptionalTensor tx = fused_argument(along_positions, "along_positions", like, "positions", {args.atoms(), 3});
  const OptionalTensor tr =
      args.shared() ? fused_argument(along_rotation, "along_rotation", like, "positions", {3, 3})
                    : fused_argument(along_rotation, "along_rotation", like, "positions", {args.molecules, 3, 3});
  const OptionalTensor tw =
      fused_argument(along_weights, "along_weights", like, "positions", {args.atoms(), args.channels()});
  const Tensor g = fused_argument(grad, "grad", like, "positions", {args.molecules, args.width()});
  const FusedResult out(mask & 1, {args.molecules, args.width()}, like);
  const Gradients to(args, mask >> 1);
  const Launch launch(like);
  dispatch_float(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Pass<T, Dual> pass(args, launch, data_or_null<T>(tx), data_or_null<T>(tr), data_or_null<T>(tw));
    if (out.asked) pass.features(out.data<T>());
    if (to.any()) pass.pull(g, to.positions.data<T>(), to.rotation.data<T>(), to.weights.data<T>());
  });
  return {out.tensor, to.positions.tensor, to.rotation.tensor, to.weights.tensor};
}

#define SYMKERN_POOL_ARGUMENTS "Tensor positions, Tensor rotation, Tensor? weights, Tensor ptr, int mode"

}  // namespace

SYMKERN_OP(second_order_pool, "(" SYMKERN_POOL_ARGUMENTS ") -> Tensor", second_order_pool)
SYMKERN_OP(second_order_pool_backward,
           "(Tensor grad, " SYMKERN_POOL_ARGUMENTS ", int mask) -> (Tensor, Tensor, Tensor)",
           second_order_pool_backward)
SYMKERN_OP(second_order_pool_double_backward,
           "(Tensor? along_positions, Tensor? along_rotation, Tensor? along_weights, Tensor "
           "grad, " SYMKERN_POOL_ARGUMENTS ", int mask) -> (Tensor, Tensor, Tensor, Tensor)",
           second_order_pool_double_backward)

}  // namespace symkern
