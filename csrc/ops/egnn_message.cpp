// EGNN's messages and their first two derivatives as fused ops. Formulas are in egnn_message*.h; here are checks,
// memory, and the order in which chunks of edges are summed.
#include "ops/egnn_message_simd.h"
#include "torch/fused.h"

#if defined(__CUDACC__)
#include "ops/egnn_message_cuda.cuh"
#endif

namespace symkern {
namespace {

#define SYMKERN_EGNN_ARGUMENTS                                                                                         \
  const Tensor &received, const Tensor &sent, const Tensor &attributes, const OptionalTensor &edge_weight,             \
      const Tensor &first_weight, const Tensor &second_weight, const Tensor &second_bias,                              \
      const OptionalTensor &attention_weight, const OptionalTensor &attention_bias, const OptionalTensor &head_weight, \
      const OptionalTensor &head_bias, const OptionalTensor &head_last, const Tensor &edge_index,                      \
      const Tensor &row_ptr, const OptionalTensor &sender_order, const OptionalTensor &sender_ptr, int64_t precision
#define SYMKERN_EGNN_NAMES                                                                                             \
  received, sent, attributes, edge_weight, first_weight, second_weight, second_bias, attention_weight, attention_bias, \
      head_weight, head_bias, head_last, edge_index, row_ptr, sender_order, sender_ptr, precision

struct Problem {
  FusedGraph graph;
  Tensor p, q, a;
  OptionalTensor u;
  Tensor w1, w2, b2;
  OptionalTensor wa, ba, c1, d1, c2;  // attention; the head's weight, bias and last row
  OptionalTensor order, ptr;          // edges by sender, on CUDA
  bool tf32;

  explicit Problem(SYMKERN_EGNN_ARGUMENTS)
      : graph(edge_index, row_ptr), order(sender_order), ptr(sender_ptr), tf32(precision == 1) {
    check_float(received, "received");
    check_shape(received, "received", {graph.size.atoms, -1}, "(N, H)");
    check_same_device(received, "received", edge_index, "edge_index");
    check_shape(attributes, "attributes", {graph.size.edges, -1}, "(E, K)");
    const int64_t n = graph.size.atoms, e = graph.size.edges, h = received.size(1), k = attributes.size(1);
    if (h < 16 || h % 16 != 0 || h > 65536)
      bad_argument("received must have 16 to 65536 columns, a multiple of 16, got ", h);
    if (k > 65536) bad_argument("attributes must have at most 65536 columns, got ", k);
    const auto argument = [&](const auto& t, const char* name, std::initializer_list<int64_t> shape) {
      return fused_argument(t, name, received, "received", shape);
    };
    p = as_rows(received);
    q = argument(sent, "sent", {n, h});
    a = argument(attributes, "attributes", {e, k});
    u = argument(edge_weight, "edge_weight", {e});
    w1 = argument(first_weight, "first_weight", {h, k});
    w2 = argument(second_weight, "second_weight", {h, h});
    b2 = argument(second_bias, "second_bias", {h});
    wa = argument(attention_weight, "attention_weight", {1, h});
    ba = argument(attention_bias, "attention_bias", {1});
    c1 = argument(head_weight, "head_weight", {h, h});
    d1 = argument(head_bias, "head_bias", {h});
    c2 = argument(head_last, "head_last", {1, h});
    if (wa.has_value() != ba.has_value()) bad_argument("attention_weight and attention_bias must be given together");
    if (c1.has_value() != d1.has_value() || c1.has_value() != c2.has_value()) {
      bad_argument("head_weight, head_bias and head_last must be given together");
    }
#if defined(__CUDACC__)
    if (!order.has_value() || !ptr.has_value()) bad_argument("sender_order and sender_ptr must be given on CUDA");
    check_index(*order, "sender_order", edge_index, e);
    check_index(*ptr, "sender_ptr", edge_index, n + 1);
    order = as_contiguous(*order), ptr = as_contiguous(*ptr);
#endif
  }

  int64_t atoms() const { return graph.size.atoms; }
  int64_t edges() const { return graph.size.edges; }
  int64_t width() const { return p.size(1); }
  int64_t attributes() const { return a.size(1); }
  ScalarType type() const { return p.scalar_type(); }

  OptionalTensor grad_of_total(const OptionalTensor& t, const char* name) const {
    return fused_argument(t, name, p, "received", {atoms(), width()});
  }
  // Without a head its gradient is one of nothing.
  OptionalTensor grad_of_head(const OptionalTensor& t, const char* name) const {
    return c1.has_value() ? fused_argument(t, name, p, "received", {edges()}) : std::nullopt;
  }

  // Everything but the weights of products, which either device lays out its own way.
  template <class S>
  EgnnInput<S> input() const {
    EgnnInput<S> in{};
    in.atoms = atoms(), in.edges = edges();
    in.width = static_cast<int>(width()), in.attributes = static_cast<int>(attributes());
    in.received = p.const_data_ptr<S>(), in.sent = q.const_data_ptr<S>();
    in.scalars = a.const_data_ptr<S>(), in.edge_weight = data_or_null<S>(u);
    in.second_bias = b2.const_data_ptr<S>();
    in.attention_weight = data_or_null<S>(wa), in.attention_bias = data_or_null<S>(ba);
    in.head_bias = data_or_null<S>(d1), in.head_last = data_or_null<S>(c2);
    in.senders = graph.senders(), in.receivers = graph.receivers();
    return in;
  }
};

// Gradients of the float arguments, in their order, by the bits of a mask.
struct Results {
  FusedResult received, sent, attributes, edge_weight, first_weight, second_weight, second_bias;
  FusedResult attention_weight, attention_bias, head_weight, head_bias, head_last;

  Results(const Problem& in, int64_t mask)
      : received((mask & 1) != 0, {in.atoms(), in.width()}, in.p),
        sent((mask & 2) != 0, {in.atoms(), in.width()}, in.p),
        attributes((mask & 4) != 0, {in.edges(), in.attributes()}, in.p),
        edge_weight((mask & 8) != 0 && in.u.has_value(), {in.edges()}, in.p),
        first_weight((mask & 16) != 0, {in.width(), in.attributes()}, in.p),
        second_weight((mask & 32) != 0, {in.width(), in.width()}, in.p),
        second_bias((mask & 64) != 0, {in.width()}, in.p),
        attention_weight((mask & 128) != 0 && in.wa.has_value(), {1, in.width()}, in.p),
        attention_bias((mask & 256) != 0 && in.wa.has_value(), {1}, in.p),
        head_weight((mask & 512) != 0 && in.c1.has_value(), {in.width(), in.width()}, in.p),
        head_bias((mask & 1024) != 0 && in.c1.has_value(), {in.width()}, in.p),
        head_last((mask & 2048) != 0 && in.c1.has_value(), {1, in.width()}, in.p) {}

  auto tensors() const {
    return std::make_tuple(received.tensor, sent.tensor, attributes.tensor, edge_weight.tensor, first_weight.tensor,
                           second_weight.tensor, second_bias.tensor, attention_weight.tensor, attention_bias.tensor,
                           head_weight.tensor, head_bias.tensor, head_last.tensor);
  }

  template <class S>
  EgnnGradients<S> outputs() const {
    return {received.data<S>(),       sent.data<S>(),          attributes.data<S>(),  edge_weight.data<S>(),
            first_weight.data<S>(),   second_weight.data<S>(), second_bias.data<S>(), attention_weight.data<S>(),
            attention_bias.data<S>(), head_weight.data<S>(),   head_bias.data<S>(),   head_last.data<S>()};
  }
};

#if defined(__CUDACC__)

// The raw weights of products, for a device to lay out.
template <class S>
EgnnWeights<S> weights(const Problem& in) {
  return {in.w1.const_data_ptr<S>(), in.w2.const_data_ptr<S>(), data_or_null<S>(in.c1)};
}

template <class Pass>
void run(const Problem& in, const Launch& launch, const Pass& pass) {
  using S = typename Pass::Scalar;
  FusedMemory memory(in.p);
  const TileGraph graph{in.atoms(), in.edges(), in.graph.starts(), in.order->const_data_ptr<int64_t>(),
                        in.ptr->const_data_ptr<int64_t>()};
  egnn_cuda::run(pass, weights<S>(in), graph, in.tf32, memory, launch.stream());
}

#else

const EgnnLevel& level() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *symkern_egnn_kernels_avx512();
    case Isa::avx2:
      return *symkern_egnn_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *symkern_egnn_kernels_baseline();
}
const EgnnKernels<float>& kernels(float) { return level().singles; }
const EgnnKernels<double>& kernels(double) { return level().doubles; }

// The weights as one instruction set wants them, for a pass that has them in `in`.
template <class S>
class Packed {
 public:
  Packed(const Problem& problem, EgnnInput<S>& in, bool gradient) : pack_(kernels(S{}).pack) {
    const int64_t h = problem.width(), k = problem.attributes();
    const S *w1 = problem.w1.const_data_ptr<S>(), *w2 = problem.w2.const_data_ptr<S>(),
            *c1 = data_or_null<S>(problem.c1);
    in.first = pack_(w1, h, k), in.second = pack_(w2, h, h), in.head = pack_(c1, h, h);
    in.first_rows = pack_.rows(w1, h, k);
    if (!gradient) return;
    in.first_t = pack_.transposed(w1, h, k), in.second_t = pack_.transposed(w2, h, h);
    in.head_t = pack_.transposed(c1, h, h);
  }

 private:
  PackedWeights<S> pack_;
};

template <class S>
void zero_padding(const FusedChunks& chunks, int64_t edges, int64_t width, S* out) {
  if (out == nullptr) return;
  std::memset(out + chunks.edges() * width, 0, static_cast<size_t>((edges - chunks.edges()) * width) * sizeof(S));
}

template <class S>
void run(const Problem& in, const Launch& launch, EgnnForward<S> pass) {
  const Packed<S> packed(in, pass.in, false);
  const FusedChunks chunks(in.graph, launch);
  const auto& kernel = kernels(S{}).forward;
  chunks.run<S>(kernel.room(pass), [&](int64_t c, S* scratch) {
    chunks.clear_receivers(c, pass.total, in.width());
    kernel.run(pass, {chunks[c].begin, chunks[c].end}, scratch);
  });
  zero_padding(chunks, in.edges(), 1, pass.head);
}

// The passes that make gradients: sums at senders have windows, those of weights a set per chunk.
template <class S, class Pass>
void run_gradient(const Problem& in, const Launch& launch, const TileKernel<Pass>& kernel, Pass pass, S* total) {
  const int64_t h = in.width(), k = in.attributes();
  const Packed<S> packed(in, pass.in, true);
  const FusedChunks chunks(in.graph, launch);
  const EgnnGradients<S> out = pass.out;
  const AtomSums<S> sent(chunks, h, out.sent);
  WeightSums<S> sums(chunks);
  S* EgnnGradients<S>::* const members[] = {&EgnnGradients<S>::first,          &EgnnGradients<S>::second,
                                            &EgnnGradients<S>::second_bias,    &EgnnGradients<S>::attention_weight,
                                            &EgnnGradients<S>::attention_bias, &EgnnGradients<S>::head_weight,
                                            &EgnnGradients<S>::head_bias,      &EgnnGradients<S>::head_last};
  const int64_t rows[] = {h, h, 1, 1, 1, h, 1, 1}, columns[] = {k, h, h, h, 1, h, h, h};
  for (int i = 0; i < 8; ++i) sums.add(out.*members[i], rows[i], columns[i], i == 0);
  sums.allocate();
  chunks.run<S>(kernel.room(pass), [&](int64_t c, S* scratch) {
    Pass own = pass;
    sums.begin(c);
    for (int i = 0; i < 8; ++i) own.out.*members[i] = sums.at(c, i);
    own.out.sent = sent.begin(c);
    chunks.clear_receivers(c, out.received, h);
    chunks.clear_receivers(c, total, h);
    kernel.run(own, {chunks[c].begin, chunks[c].end}, scratch);
  });
  sent.finish();
  sums.finish();
  zero_padding(chunks, in.edges(), k, out.scalars);
  zero_padding(chunks, in.edges(), 1, out.edge_weight);
}

template <class S>
void run(const Problem& in, const Launch& launch, const EgnnBackward<S>& pass) {
  run_gradient<S>(in, launch, kernels(S{}).backward, pass, nullptr);
}

template <class S>
void run(const Problem& in, const Launch& launch, const EgnnDoubleBackward<S>& pass) {
  run_gradient<S>(in, launch, kernels(S{}).double_backward, pass, pass.total);
  if (pass.head != nullptr) {
    const int64_t real = in.graph.starts()[in.atoms()];
    std::memset(pass.head + real, 0, static_cast<size_t>(in.edges() - real) * sizeof(S));
  }
}

#endif

std::tuple<Tensor, Tensor> egnn_message(SYMKERN_EGNN_ARGUMENTS) {
  const Problem in(SYMKERN_EGNN_NAMES);
  const FusedResult total(true, {in.atoms(), in.width()}, in.p), head(in.c1.has_value(), {in.edges()}, in.p);
  const Launch launch(in.p);
  dispatch_float(in.type(), [&](auto zero) {
    using S = decltype(zero);
    run(in, launch, EgnnForward<S>{in.input<S>(), total.data<S>(), head.data<S>()});
  });
  return {total.tensor, head.tensor};
}

using Twelve =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Twelve egnn_message_backward(const OptionalTensor& total_grad, const OptionalTensor& head_grad, SYMKERN_EGNN_ARGUMENTS,
                             int64_t mask) {
  const Problem in(SYMKERN_EGNN_NAMES);
  const OptionalTensor g = in.grad_of_total(total_grad, "total_grad"), s = in.grad_of_head(head_grad, "head_grad");
  const Results results(in, mask);
  const Launch launch(in.p);
  dispatch_float(in.type(), [&](auto zero) {
    using S = decltype(zero);
    run(in, launch, EgnnBackward<S>{in.input<S>(), data_or_null<S>(g), data_or_null<S>(s), results.outputs<S>()});
  });
  return results.tensors();
}

// Adjoint of the backward for directions of its first four results: gradients of its grads, then of all arguments.
auto egnn_message_double_backward(const OptionalTensor& received_along, const OptionalTensor& sent_along,
                                  const OptionalTensor& attributes_along, const OptionalTensor& edge_weight_along,
                                  const OptionalTensor& total_grad, const OptionalTensor& head_grad,
                                  SYMKERN_EGNN_ARGUMENTS, int64_t mask) {
  const Problem in(SYMKERN_EGNN_NAMES);
  const auto direction = [&](const OptionalTensor& t, const char* name, std::initializer_list<int64_t> shape) {
    return fused_argument(t, name, in.p, "received", shape);
  };
  const OptionalTensor along_p = direction(received_along, "received_along", {in.atoms(), in.width()}),
                       along_q = direction(sent_along, "sent_along", {in.atoms(), in.width()}),
                       along_a = direction(attributes_along, "attributes_along", {in.edges(), in.attributes()}),
                       along_u = direction(edge_weight_along, "edge_weight_along", {in.edges()}),
                       g = in.grad_of_total(total_grad, "total_grad"), s = in.grad_of_head(head_grad, "head_grad");
  const FusedResult total((mask & 1) != 0, {in.atoms(), in.width()}, in.p),
      head((mask & 2) != 0 && in.c1.has_value(), {in.edges()}, in.p);
  const Results results(in, mask >> 2);
  const Launch launch(in.p);
  dispatch_float(in.type(), [&](auto zero) {
    using S = decltype(zero);
    run(in, launch,
        EgnnDoubleBackward<S>{in.input<S>(), data_or_null<S>(along_p), data_or_null<S>(along_q),
                              data_or_null<S>(along_a), data_or_null<S>(along_u), data_or_null<S>(g),
                              data_or_null<S>(s), total.data<S>(), head.data<S>(), results.outputs<S>()});
  });
  return std::tuple_cat(std::make_tuple(total.tensor, head.tensor), results.tensors());
}

}  // namespace

#define SYMKERN_EGNN_SCHEMA                                                                        \
  "Tensor received, Tensor sent, Tensor attributes, Tensor? edge_weight, Tensor first_weight, "    \
  "Tensor second_weight, Tensor second_bias, Tensor? attention_weight, Tensor? attention_bias, "   \
  "Tensor? head_weight, Tensor? head_bias, Tensor? head_last, Tensor edge_index, Tensor row_ptr, " \
  "Tensor? sender_order, Tensor? sender_ptr, int precision"
#define SYMKERN_EGNN_GRADIENTS \
  "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

SYMKERN_OP(egnn_message, "(" SYMKERN_EGNN_SCHEMA ") -> (Tensor, Tensor)", egnn_message)
SYMKERN_OP(egnn_message_backward,
           "(Tensor? total_grad, Tensor? head_grad, " SYMKERN_EGNN_SCHEMA ", int mask) -> (" SYMKERN_EGNN_GRADIENTS,
           egnn_message_backward)
SYMKERN_OP(egnn_message_double_backward,
           "(Tensor? received_along, Tensor? sent_along, Tensor? attributes_along, Tensor? edge_weight_along, "
           "Tensor? total_grad, Tensor? head_grad, " SYMKERN_EGNN_SCHEMA
           ", int mask) -> (Tensor, Tensor, " SYMKERN_EGNN_GRADIENTS,
           egnn_message_double_backward)

}  // namespace symkern
