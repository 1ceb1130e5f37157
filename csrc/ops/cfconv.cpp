// SchNet's continuous-filter convolution without rows of features per edge, and its first two derivatives. The passes
// are in cfconv.h; here are checks, memory, and the choice of a schedule.
#include "ops/cfconv_simd.h"
#include "torch/edge_filter.h"

#if defined(__CUDACC__)
#include "ops/cfconv_cuda.cuh"
#endif

namespace symkern {
namespace {

// The arguments of the op, checked.
struct Cfconv {
  FilterArguments filter;
  int64_t width;
  Tensor h, first_weight, first_bias, second_weight, second_bias;

  Cfconv(const Tensor& features, const Tensor& d, const Tensor& p, const OptionalTensor& q, const Tensor& weight1,
         const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const Tensor& edge_index,
         const Tensor& row_ptr, const OptionalTensor& reverse, const OptionalTensor& sender_order,
         const OptionalTensor& sender_ptr, double cutoff, int64_t kind, int64_t precision)
      : filter(d, p, q, edge_index, row_ptr, reverse, sender_order, sender_ptr, cutoff, kind, precision),
        width(features.dim() == 2 ? check_features(features, "h", features.size(1)) : -1),
        h(fused_argument(features, "h", filter.d, "d", {filter.atoms(), width})),
        first_weight(fused_argument(weight1, "first_weight", h, "h", {width, filter.functions()})),
        first_bias(fused_argument(bias1, "first_bias", h, "h", {width})),
        second_weight(fused_argument(weight2, "second_weight", h, "h", {width, width})),
        second_bias(fused_argument(bias2, "second_bias", h, "h", {width})) {}

  // Everything but the packed weights.
  template <class S>
  CfconvInput<S> input() const {
    return {filter.input<S>(width),         h.const_data_ptr<S>(),          {}, {}, {}, {},
            first_bias.const_data_ptr<S>(), second_bias.const_data_ptr<S>()};
  }
};

// The gradients of the op's floats that are asked for.
struct Gradients {
  FusedResult h, d, p, q, first_weight, first_bias, second_weight, second_bias;

  Gradients(const Cfconv& in, int64_t mask)
      : h(mask & 1, {in.filter.atoms(), in.width}, in.h),
        d(mask >> 1 & 1, {in.filter.edges()}, in.h),
        p(mask >> 2 & 1, {in.filter.functions()}, in.h),
        q(in.filter.q.has_value() && (mask >> 3 & 1), {in.filter.functions()}, in.h),
        first_weight(mask >> 4 & 1, {in.width, in.filter.functions()}, in.h),
        first_bias(mask >> 5 & 1, {in.width}, in.h),
        second_weight(mask >> 6 & 1, {in.width, in.width}, in.h),
        second_bias(mask >> 7 & 1, {in.width}, in.h) {}
};

#if defined(__CUDACC__)

template <class Pass>
void run(const Launch& launch, const Cfconv& args, const Pass& pass) {
  using S = typename Pass::Scalar;
  const CfconvWeights<S> weights{args.first_weight.const_data_ptr<S>(), args.second_weight.const_data_ptr<S>()};
  on_device(args.filter, [&](const TileGraph& graph, FusedMemory& memory) {
    cfconv_cuda::run(pass, weights, graph, args.filter.precision == 1, memory, launch.stream());
  });
}

template <class S>
FilterSums<S> sums_of(const Gradients& to) {
  return {to.first_weight.data<S>(), to.first_bias.data<S>(), to.second_weight.data<S>(),
          to.second_bias.data<S>(),  to.p.data<S>(),          to.q.data<S>()};
}

template <class S>
void run_forward(const Launch& launch, const Cfconv& args, Tensor& out) {
  run(launch, args, CfconvForward<S>{args.input<S>(), out.mutable_data_ptr<S>()});
}

template <class S>
void run_backward(const Launch& launch, const Cfconv& args, const Tensor& grad, const Gradients& to) {
  run(launch, args,
      CfconvBackward<S>{args.input<S>(), grad.const_data_ptr<S>(), to.h.data<S>(), to.d.data<S>(), sums_of<S>(to)});
}

template <class S>
void run_double_backward(const Launch& launch, const Cfconv& args, const Tensor& along_h, const OptionalTensor& along_d,
                         const Tensor& grad, const FusedResult& out, const Gradients& to) {
  run(launch, args,
      CfconvDoubleBackward<S>{args.input<S>(), along_h.const_data_ptr<S>(), data_or_null<S>(along_d),
                              grad.const_data_ptr<S>(), out.data<S>(), to.h.data<S>(), to.d.data<S>(), sums_of<S>(to)});
}

#else

template <class S>
const CfconvKernels<S>& kernels() {
  const CfconvLevel* level = symkern_cfconv_kernels_baseline();
#if defined(SYMKERN_ISA_DISPATCH)
  if (active_isa() == Isa::avx512) level = symkern_cfconv_kernels_avx512();
  if (active_isa() == Isa::avx2) level = symkern_cfconv_kernels_avx2();
#endif
  if constexpr (sizeof(S) == 8) {
    return level->doubles;
  } else {
    return level->singles;
  }
}

// What every call needs: the graph in chunks, and the weights as right sides of products.
template <class S>
struct HostCall {
  FusedChunks chunks;
  PackedWeights<S> packed;
  CfconvInput<S> in;

  HostCall(const Cfconv& args, const Launch& launch, bool forward)
      : chunks(args.filter.graph, launch), packed(kernels<S>().pack), in(args.input<S>()) {
    const S *first = args.first_weight.const_data_ptr<S>(), *second = args.second_weight.const_data_ptr<S>();
    const int64_t w = args.width, k = args.filter.functions();
    in.first = packed(first, w, k), in.second = packed(second, w, w);
    if (!forward) in.first_t = packed.transposed(first, w, k), in.second_t = packed.transposed(second, w, w);
  }
};

// Sums over all edges.
template <class S>
struct ParameterSums {
  WeightSums<S> sums;
  int slots[6];

  ParameterSums(const Cfconv& in, const Gradients& to, const FusedChunks& chunks) : sums(chunks) {
    const int64_t w = in.width, k = in.filter.functions();
    slots[0] = sums.add(to.first_weight.data<S>(), w, k, true);
    slots[1] = sums.add(to.first_bias.data<S>(), 1, w);
    slots[2] = sums.add(to.second_weight.data<S>(), w, w);
    slots[3] = sums.add(to.second_bias.data<S>(), 1, w);
    slots[4] = sums.add(to.p.data<S>(), 1, k);
    slots[5] = sums.add(to.q.data<S>(), 1, k);
    sums.allocate(true);
  }
  FilterSums<S> begin(int64_t c) const {
    sums.begin(c);
    const auto at = [&](int k) { return sums.at(c, slots[k]); };
    return {at(0), at(1), at(2), at(3), at(4), at(5)};
  }
};

template <class S>
void run_forward(const Launch& launch, const Cfconv& args, Tensor& out) {
  const HostCall<S> call(args, launch, true);
  check_distances<S>(args.filter, call.chunks);
  const AtomSums<S> atoms(call.chunks, args.width, out.mutable_data_ptr<S>());
  run_filters<S>(args.filter, call.chunks, kernels<S>().forward, nullptr,
                 [&](int64_t c) { return CfconvForward<S>{call.in, atoms.begin(c)}; });
  atoms.finish();
}

template <class S>
void run_backward(const Launch& launch, const Cfconv& args, const Tensor& grad, const Gradients& to) {
  const HostCall<S> call(args, launch, false);
  const AtomSums<S> atoms(call.chunks, args.width, to.h.data<S>());
  const ParameterSums<S> parameters(args, to, call.chunks);
  run_filters<S>(args.filter, call.chunks, kernels<S>().backward, &parameters.sums, [&](int64_t c) {
    return CfconvBackward<S>{call.in, grad.const_data_ptr<S>(), atoms.begin(c), to.d.data<S>(), parameters.begin(c)};
  });
  atoms.finish();
  parameters.sums.finish();
  clear_padding(args.filter, call.chunks, to.d.data<S>(), 1);
}

template <class S>
void run_double_backward(const Launch& launch, const Cfconv& args, const Tensor& along_h, const OptionalTensor& along_d,
                         const Tensor& grad, const FusedResult& out, const Gradients& to) {
  const HostCall<S> call(args, launch, false);
  const AtomSums<S> received(call.chunks, args.width, out.data<S>()), sent(call.chunks, args.width, to.h.data<S>());
  const ParameterSums<S> parameters(args, to, call.chunks);
  run_filters<S>(args.filter, call.chunks, kernels<S>().double_backward, &parameters.sums, [&](int64_t c) {
    S* const h = sent.begin(c);
    return CfconvDoubleBackward<S>{
        call.in,           along_h.const_data_ptr<S>(),       data_or_null<S>(along_d), grad.const_data_ptr<S>(),
        received.begin(c), along_d.has_value() ? h : nullptr, to.d.data<S>(),           parameters.begin(c)};
  });
  received.finish();
  sent.finish();
  parameters.sums.finish();
  clear_padding(args.filter, call.chunks, to.d.data<S>(), 1);
}

#endif

Tensor cfconv(const Tensor& h, const Tensor& d, const Tensor& p, const OptionalTensor& q, const Tensor& first_weight,
              const Tensor& first_bias, const Tensor& second_weight, const Tensor& second_bias,
              const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor& reverse,
              const OptionalTensor& sender_order, const OptionalTensor& sender_ptr, double cutoff, int64_t kind,
              int64_t precision) {
  const Cfconv args(h, d, p, q, first_weight, first_bias, second_weight, second_bias, edge_index, row_ptr, reverse,
                    sender_order, sender_ptr, cutoff, kind, precision);
  Tensor out = empty({args.filter.atoms(), args.width}, args.h.scalar_type(), args.h);
  const Launch launch(args.h);
  dispatch_float(args.h.scalar_type(), [&](auto zero) { run_forward<decltype(zero)>(launch, args, out); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cfconv_backward(
    const OptionalTensor& grad, const Tensor& h, const Tensor& d, const Tensor& p, const OptionalTensor& q,
    const Tensor& first_weight, const Tensor& first_bias, const Tensor& second_weight, const Tensor& second_bias,
    const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor& reverse, const OptionalTensor& sender_order,
    const OptionalTensor& sender_ptr, double cutoff, int64_t kind, int64_t precision, int64_t mask) {
  const Cfconv args(h, d, p, q, first_weight, first_bias, second_weight, second_bias, edge_index, row_ptr, reverse,
                    sender_order, sender_ptr, cutoff, kind, precision);
  const int64_t n = args.filter.atoms(), w = args.width;
  const Tensor g = or_zeros(fused_argument(grad, "grad", args.h, "h", {n, w}), {n, w}, args.h);
  const Gradients to(args, mask);
  const Launch launch(args.h);
  dispatch_float(args.h.scalar_type(), [&](auto zero) { run_backward<decltype(zero)>(launch, args, g, to); });
  return {to.h.tensor,
          to.d.tensor,
          to.p.tensor,
          to.q.tensor,
          to.first_weight.tensor,
          to.first_bias.tensor,
          to.second_weight.tensor,
          to.second_bias.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cfconv_double_backward(
    const OptionalTensor& along_h, const OptionalTensor& along_d, const OptionalTensor& grad, const Tensor& h,
    const Tensor& d, const Tensor& p, const OptionalTensor& q, const Tensor& first_weight, const Tensor& first_bias,
    const Tensor& second_weight, const Tensor& second_bias, const Tensor& edge_index, const Tensor& row_ptr,
    const OptionalTensor& reverse, const OptionalTensor& sender_order, const OptionalTensor& sender_ptr, double cutoff,
    int64_t kind, int64_t precision, int64_t mask) {
  const Cfconv args(h, d, p, q, first_weight, first_bias, second_weight, second_bias, edge_index, row_ptr, reverse,
                    sender_order, sender_ptr, cutoff, kind, precision);
  const int64_t n = args.filter.atoms(), w = args.width;
  const Tensor th = or_zeros(fused_argument(along_h, "along_h", args.h, "h", {n, w}), {n, w}, args.h);
  const OptionalTensor td = fused_argument(along_d, "along_d", args.h, "h", {args.filter.edges()});
  const Tensor g = or_zeros(fused_argument(grad, "grad", args.h, "h", {n, w}), {n, w}, args.h);
  const FusedResult out(mask & 1, {n, w}, args.h);
  const Gradients to(args, mask >> 1);
  const Launch launch(args.h);
  dispatch_float(args.h.scalar_type(),
                 [&](auto zero) { run_double_backward<decltype(zero)>(launch, args, th, td, g, out, to); });
  return {out.tensor,           to.h.tensor,
          to.d.tensor,          to.p.tensor,
          to.q.tensor,          to.first_weight.tensor,
          to.first_bias.tensor, to.second_weight.tensor,
          to.second_bias.tensor};
}

#define SYMKERN_CFCONV_ARGUMENTS                                                                            \
  "Tensor h, Tensor d, Tensor p, Tensor? q, Tensor first_weight, Tensor first_bias, Tensor second_weight, " \
  "Tensor second_bias, Tensor edge_index, Tensor row_ptr, Tensor? reverse, Tensor? sender_order, "          \
  "Tensor? sender_ptr, float cutoff, int kind, int precision"

}  // namespace

SYMKERN_OP(cfconv, "(" SYMKERN_CFCONV_ARGUMENTS ") -> Tensor", cfconv)
SYMKERN_OP(cfconv_backward,
           "(Tensor? grad, " SYMKERN_CFCONV_ARGUMENTS
           ", int mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
           cfconv_backward)
SYMKERN_OP(cfconv_double_backward,
           "(Tensor? along_h, Tensor? along_d, Tensor? grad, " SYMKERN_CFCONV_ARGUMENTS
           ", int mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
           cfconv_double_backward)

}  // namespace symkern
