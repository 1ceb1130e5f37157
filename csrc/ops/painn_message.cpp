// PaiNN's messages without rows of features per edge, and their first two derivatives. The passes are in
// painn_message.h; here are checks, memory, and the choice of a schedule.
#include "ops/painn_message_simd.h"
#include "torch/edge_filter.h"

#if defined(__CUDACC__)
#include "ops/painn_message_cuda.cuh"
#endif

namespace symkern {
namespace {

// The arguments of the op, checked.
struct Painn {
  FilterArguments filter;
  int64_t width;
  Tensor phi, mu, directions, weight, bias;

  Painn(const Tensor& scalars, const Tensor& vectors, const Tensor& d, const Tensor& unit, const Tensor& p,
        const OptionalTensor& q, const Tensor& filter_weight, const Tensor& filter_bias, const Tensor& edge_index,
        const Tensor& row_ptr, const OptionalTensor& reverse, const OptionalTensor& sender_order,
        const OptionalTensor& sender_ptr, double cutoff, int64_t kind, int64_t precision)
      : filter(d, p, q, edge_index, row_ptr, reverse, sender_order, sender_ptr, cutoff, kind, precision),
        width(scalars.dim() == 3 ? check_features(scalars, "phi", scalars.size(2)) : -1),
        phi(fused_argument(scalars, "phi", filter.d, "d", {filter.atoms(), 3, width})),
        mu(fused_argument(vectors, "mu", phi, "phi", {filter.atoms(), 3, width})),
        directions(fused_argument(unit, "directions", phi, "phi", {filter.edges(), 3})),
        weight(fused_argument(filter_weight, "filter_weight", phi, "phi", {3, width, filter.functions()})),
        bias(fused_argument(filter_bias, "filter_bias", phi, "phi", {3, width})) {}

  // Everything but the packed weights.
  template <class S>
  PainnInput<S> input() const {
    return {filter.input<S>(width),
            phi.const_data_ptr<S>(),
            mu.const_data_ptr<S>(),
            directions.const_data_ptr<S>(),
            {},
            {},
            bias.const_data_ptr<S>()};
  }
};

// The gradients of the op's floats that are asked for.
struct Gradients {
  FusedResult phi, mu, d, directions, p, q, weight, bias;

  Gradients(const Painn& in, int64_t mask)
      : phi(mask & 1, {in.filter.atoms(), 3, in.width}, in.phi),
        mu(mask >> 1 & 1, {in.filter.atoms(), 3, in.width}, in.phi),
        d(mask >> 2 & 1, {in.filter.edges()}, in.phi),
        directions(mask >> 3 & 1, {in.filter.edges(), 3}, in.phi),
        p(mask >> 4 & 1, {in.filter.functions()}, in.phi),
        q(in.filter.q.has_value() && (mask >> 5 & 1), {in.filter.functions()}, in.phi),
        weight(mask >> 6 & 1, {3, in.width, in.filter.functions()}, in.phi),
        bias(mask >> 7 & 1, {3, in.width}, in.phi) {}
};

// Directions of the first four floats, or zeros.
struct Directions {
  Tensor phi, mu, d, directions;

  Directions(const Painn& in, const OptionalTensor& along_phi, const OptionalTensor& along_mu,
             const OptionalTensor& along_d, const OptionalTensor& along_directions)
      : phi(rows(in, along_phi, "along_phi")),
        mu(rows(in, along_mu, "along_mu")),
        d(or_zeros(fused_argument(along_d, "along_d", in.phi, "phi", {in.filter.edges()}), {in.filter.edges()},
                   in.phi)),
        directions(or_zeros(fused_argument(along_directions, "along_directions", in.phi, "phi", {in.filter.edges(), 3}),
                            {in.filter.edges(), 3}, in.phi)) {}

  static Tensor rows(const Painn& in, const OptionalTensor& t, const char* name) {
    const int64_t n = in.filter.atoms(), w = in.width;
    return or_zeros(fused_argument(t, name, in.phi, "phi", {n, 3, w}), {n, 3, w}, in.phi);
  }
};

// Gradients of the outputs, or zeros.
struct OutputGradients {
  Tensor q, mu;

  OutputGradients(const Painn& in, const OptionalTensor& grad_q, const OptionalTensor& grad_mu)
      : q(or_zeros(fused_argument(grad_q, "grad_q", in.phi, "phi", {in.filter.atoms(), in.width}),
                   {in.filter.atoms(), in.width}, in.phi)),
        mu(Directions::rows(in, grad_mu, "grad_mu")) {}
};

#if defined(__CUDACC__)

template <class Pass>
void run(const Launch& launch, const Painn& args, const Pass& pass) {
  using S = typename Pass::Scalar;
  on_device(args.filter, [&](const TileGraph& graph, FusedMemory& memory) {
    painn_cuda::run(pass, args.weight.const_data_ptr<S>(), graph, args.filter.precision == 1, memory, launch.stream());
  });
}

template <class S>
FilterSums<S> sums_of(const Gradients& to) {
  return {to.weight.data<S>(), to.bias.data<S>(), nullptr, nullptr, to.p.data<S>(), to.q.data<S>()};
}

template <class S>
void run_forward(const Launch& launch, const Painn& args, Tensor& dq, Tensor& dmu) {
  run(launch, args, PainnForward<S>{args.input<S>(), dq.mutable_data_ptr<S>(), dmu.mutable_data_ptr<S>()});
}

template <class S>
void run_backward(const Launch& launch, const Painn& args, const OutputGradients& grad, const Gradients& to) {
  run(launch, args,
      PainnBackward<S>{args.input<S>(), grad.q.const_data_ptr<S>(), grad.mu.const_data_ptr<S>(), to.phi.data<S>(),
                       to.mu.data<S>(), to.d.data<S>(), to.directions.data<S>(), sums_of<S>(to)});
}

template <class S>
void run_double_backward(const Launch& launch, const Painn& args, const Directions& along, const OutputGradients& grad,
                         const FusedResult& out_q, const FusedResult& out_mu, const Gradients& to) {
  run(launch, args,
      PainnDoubleBackward<S>{args.input<S>(), along.phi.const_data_ptr<S>(), along.mu.const_data_ptr<S>(),
                             along.d.const_data_ptr<S>(), along.directions.const_data_ptr<S>(),
                             grad.q.const_data_ptr<S>(), grad.mu.const_data_ptr<S>(), out_q.data<S>(), out_mu.data<S>(),
                             to.phi.data<S>(), to.mu.data<S>(), to.d.data<S>(), to.directions.data<S>(),
                             sums_of<S>(to)});
}

#else

template <class S>
const PainnKernels<S>& kernels() {
  const PainnLevel* level = symkern_painn_kernels_baseline();
#if defined(SYMKERN_ISA_DISPATCH)
  if (active_isa() == Isa::avx512) level = symkern_painn_kernels_avx512();
  if (active_isa() == Isa::avx2) level = symkern_painn_kernels_avx2();
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
  PainnInput<S> in;

  HostCall(const Painn& args, const Launch& launch, bool forward)
      : chunks(args.filter.graph, launch), packed(kernels<S>().pack), in(args.input<S>()) {
    const S* weight = args.weight.const_data_ptr<S>();
    const int64_t w = 3 * args.width, k = args.filter.functions();
    in.weight = packed(weight, w, k);
    if (!forward) in.weight_t = packed.transposed(weight, w, k);
  }
};

// Sums over all edges.
template <class S>
struct ParameterSums {
  WeightSums<S> sums;
  int slots[4];

  ParameterSums(const Painn& in, const Gradients& to, const FusedChunks& chunks) : sums(chunks) {
    const int64_t w = 3 * in.width, k = in.filter.functions();
    slots[0] = sums.add(to.weight.data<S>(), w, k, true);
    slots[1] = sums.add(to.bias.data<S>(), 1, w);
    slots[2] = sums.add(to.p.data<S>(), 1, k);
    slots[3] = sums.add(to.q.data<S>(), 1, k);
    sums.allocate(true);
  }
  FilterSums<S> begin(int64_t c) const {
    sums.begin(c);
    const auto at = [&](int k) { return sums.at(c, slots[k]); };
    return {at(0), at(1), nullptr, nullptr, at(2), at(3)};
  }
};

template <class S>
void run_forward(const Launch& launch, const Painn& args, Tensor& dq, Tensor& dmu) {
  const HostCall<S> call(args, launch, true);
  check_distances<S>(args.filter, call.chunks);
  const AtomSums<S> scalars(call.chunks, args.width, dq.mutable_data_ptr<S>());
  const AtomSums<S> vectors(call.chunks, 3 * args.width, dmu.mutable_data_ptr<S>());
  run_filters<S>(args.filter, call.chunks, kernels<S>().forward, nullptr,
                 [&](int64_t c) { return PainnForward<S>{call.in, scalars.begin(c), vectors.begin(c)}; });
  scalars.finish();
  vectors.finish();
}

template <class S>
void run_backward(const Launch& launch, const Painn& args, const OutputGradients& grad, const Gradients& to) {
  const HostCall<S> call(args, launch, false);
  const AtomSums<S> phi(call.chunks, 3 * args.width, to.phi.data<S>());
  const AtomSums<S> mu(call.chunks, 3 * args.width, to.mu.data<S>());
  const ParameterSums<S> parameters(args, to, call.chunks);
  run_filters<S>(args.filter, call.chunks, kernels<S>().backward, &parameters.sums, [&](int64_t c) {
    return PainnBackward<S>{
        call.in,        grad.q.const_data_ptr<S>(), grad.mu.const_data_ptr<S>(), phi.begin(c), mu.begin(c),
        to.d.data<S>(), to.directions.data<S>(),    parameters.begin(c)};
  });
  phi.finish();
  mu.finish();
  parameters.sums.finish();
  clear_padding(args.filter, call.chunks, to.d.data<S>(), 1);
  clear_padding(args.filter, call.chunks, to.directions.data<S>(), 3);
}

template <class S>
void run_double_backward(const Launch& launch, const Painn& args, const Directions& along, const OutputGradients& grad,
                         const FusedResult& out_q, const FusedResult& out_mu, const Gradients& to) {
  const HostCall<S> call(args, launch, false);
  const int64_t w = args.width;
  const AtomSums<S> scalars(call.chunks, w, out_q.data<S>()), vectors(call.chunks, 3 * w, out_mu.data<S>()),
      phi(call.chunks, 3 * w, to.phi.data<S>()), mu(call.chunks, 3 * w, to.mu.data<S>());
  const ParameterSums<S> parameters(args, to, call.chunks);
  run_filters<S>(args.filter, call.chunks, kernels<S>().double_backward, &parameters.sums, [&](int64_t c) {
    return PainnDoubleBackward<S>{call.in,
                                  along.phi.const_data_ptr<S>(),
                                  along.mu.const_data_ptr<S>(),
                                  along.d.const_data_ptr<S>(),
                                  along.directions.const_data_ptr<S>(),
                                  grad.q.const_data_ptr<S>(),
                                  grad.mu.const_data_ptr<S>(),
                                  scalars.begin(c),
                                  vectors.begin(c),
                                  phi.begin(c),
                                  mu.begin(c),
                                  to.d.data<S>(),
                                  to.directions.data<S>(),
                                  parameters.begin(c)};
  });
  for (const AtomSums<S>* sums : {&scalars, &vectors, &phi, &mu}) sums->finish();
  parameters.sums.finish();
  clear_padding(args.filter, call.chunks, to.d.data<S>(), 1);
  clear_padding(args.filter, call.chunks, to.directions.data<S>(), 3);
}

#endif

std::tuple<Tensor, Tensor> painn_message(const Tensor& phi, const Tensor& mu, const Tensor& d, const Tensor& directions,
                                         const Tensor& p, const OptionalTensor& q, const Tensor& filter_weight,
                                         const Tensor& filter_bias, const Tensor& edge_index, const Tensor& row_ptr,
                                         const OptionalTensor& reverse, const OptionalTensor& sender_order,
                                         const OptionalTensor& sender_ptr, double cutoff, int64_t kind,
                                         int64_t precision) {
  const Painn args(phi, mu, d, directions, p, q, filter_weight, filter_bias, edge_index, row_ptr, reverse, sender_order,
                   sender_ptr, cutoff, kind, precision);
  const int64_t n = args.filter.atoms(), w = args.width;
  Tensor dq = empty({n, w}, args.phi.scalar_type(), args.phi), dmu = empty({n, 3, w}, args.phi.scalar_type(), args.phi);
  const Launch launch(args.phi);
  dispatch_float(args.phi.scalar_type(), [&](auto zero) { run_forward<decltype(zero)>(launch, args, dq, dmu); });
  return {dq, dmu};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> painn_message_backward(
    const OptionalTensor& grad_q, const OptionalTensor& grad_mu, const Tensor& phi, const Tensor& mu, const Tensor& d,
    const Tensor& directions, const Tensor& p, const OptionalTensor& q, const Tensor& filter_weight,
    const Tensor& filter_bias, const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor& reverse,
    const OptionalTensor& sender_order, const OptionalTensor& sender_ptr, double cutoff, int64_t kind,
    int64_t precision, int64_t mask) {
  const Painn args(phi, mu, d, directions, p, q, filter_weight, filter_bias, edge_index, row_ptr, reverse, sender_order,
                   sender_ptr, cutoff, kind, precision);
  const OutputGradients grad(args, grad_q, grad_mu);
  const Gradients to(args, mask);
  const Launch launch(args.phi);
  dispatch_float(args.phi.scalar_type(), [&](auto zero) { run_backward<decltype(zero)>(launch, args, grad, to); });
  return {to.phi.tensor, to.mu.tensor, to.d.tensor,      to.directions.tensor,
          to.p.tensor,   to.q.tensor,  to.weight.tensor, to.bias.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
painn_message_double_backward(const OptionalTensor& along_phi, const OptionalTensor& along_mu,
                              const OptionalTensor& along_d, const OptionalTensor& along_directions,
                              const OptionalTensor& grad_q, const OptionalTensor& grad_mu, const Tensor& phi,
                              const Tensor& mu, const Tensor& d, const Tensor& directions, const Tensor& p,
                              const OptionalTensor& q, const Tensor& filter_weight, const Tensor& filter_bias,
                              const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor& reverse,
                              const OptionalTensor& sender_order, const OptionalTensor& sender_ptr, double cutoff,
                              int64_t kind, int64_t precision, int64_t mask) {
  const Painn args(phi, mu, d, directions, p, q, filter_weight, filter_bias, edge_index, row_ptr, reverse, sender_order,
                   sender_ptr, cutoff, kind, precision);
  const Directions along(args, along_phi, along_mu, along_d, along_directions);
  const OutputGradients grad(args, grad_q, grad_mu);
  const int64_t n = args.filter.atoms(), w = args.width;
  const FusedResult out_q(mask & 1, {n, w}, args.phi), out_mu(mask >> 1 & 1, {n, 3, w}, args.phi);
  const Gradients to(args, mask >> 2);
  const Launch launch(args.phi);
  dispatch_float(args.phi.scalar_type(),
                 [&](auto zero) { run_double_backward<decltype(zero)>(launch, args, along, grad, out_q, out_mu, to); });
  return {out_q.tensor,         out_mu.tensor, to.phi.tensor, to.mu.tensor,     to.d.tensor,
          to.directions.tensor, to.p.tensor,   to.q.tensor,   to.weight.tensor, to.bias.tensor};
}

#define SYMKERN_PAINN_ARGUMENTS                                                                     \
  "Tensor phi, Tensor mu, Tensor d, Tensor directions, Tensor p, Tensor? q, Tensor filter_weight, " \
  "Tensor filter_bias, Tensor edge_index, Tensor row_ptr, Tensor? reverse, Tensor? sender_order, "  \
  "Tensor? sender_ptr, float cutoff, int kind, int precision"

}  // namespace

SYMKERN_OP(painn_message, "(" SYMKERN_PAINN_ARGUMENTS ") -> (Tensor, Tensor)", painn_message)
SYMKERN_OP(painn_message_backward,
           "(Tensor? grad_q, Tensor? grad_mu, " SYMKERN_PAINN_ARGUMENTS
           ", int mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
           painn_message_backward)
SYMKERN_OP(painn_message_double_backward,
           "(Tensor? along_phi, Tensor? along_mu, Tensor? along_d, Tensor? along_directions, Tensor? grad_q, "
           "Tensor? grad_mu, " SYMKERN_PAINN_ARGUMENTS
           ", int mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
           painn_message_double_backward)

}  // namespace symkern
