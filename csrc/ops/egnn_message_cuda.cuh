// EGNN's messages on the device: the passes of egnn_message*.h, once in order of receivers and, for what is summed at
// senders, once more in order of senders. Two launches cost less than a sum over rows per edge in memory would.
#pragma once

#include "core/tile_call.cuh"
#include "ops/egnn_message.h"
#include "ops/egnn_message_backward.h"
#include "ops/egnn_message_double_backward.h"

namespace symkern {

// Of nn.Linear, as given: (H, K), (H, H), (H, H) or null.
template <class S>
struct EgnnWeights {
  const S *first, *second, *head;
};

namespace egnn_cuda {

template <class S, class Memory>
void pack(TileCall<S, Memory>& call, const EgnnWeights<S>& w, bool gradient, EgnnInput<S>& in) {
  const int64_t h = in.width, k = in.attributes;
  in.first = call.packed(w.first, h, k), in.second = call.packed(w.second, h, h);
  in.head = call.packed(w.head, h, h);
  if (!in.wide()) in.first_rows = call.rows(w.first, h, k);
  if (!gradient) return;
  in.second_t = call.transposed(w.second, h, h), in.head_t = call.transposed(w.head, h, h);
  if (in.wide()) in.first_t = call.transposed(w.first, h, k);
}

template <class S, class Memory>
void run(EgnnForward<S> pass, const EgnnWeights<S>& weights, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  with_block<S, 64, 2>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    pack(call, weights, false, pass.in);
    call.clear(pass.total, graph.atoms * pass.in.width);
    call.clear(pass.head, graph.edges);
    call.template run<B>(pass, graph);
  });
}

// total, head: members of the pass that are results as well, or null.
template <int fit, class S, class Memory, class Pass>
void run_gradient(Pass pass, S* Pass::* total, S* Pass::* head, const EgnnWeights<S>& weights, const TileGraph& graph,
                  bool tf32, Memory& memory, gpu::Stream stream) {
  with_block<S, 32, fit>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    pack(call, weights, true, pass.in);
    EgnnGradients<S>& out = pass.out;
    const int64_t h = pass.in.width, k = pass.in.attributes;
    call.clear(out.received, graph.atoms * h);
    call.clear(out.sent, graph.atoms * h);
    call.clear(out.scalars, graph.edges * k);
    call.clear(out.edge_weight, graph.edges);
    bool others = out.received != nullptr || out.scalars != nullptr || out.edge_weight != nullptr;
    if (total != nullptr) {
      call.clear(pass.*total, graph.atoms * h);
      call.clear(pass.*head, graph.edges);
      others = others || pass.*total != nullptr || pass.*head != nullptr;
    }
    Pass first = pass;
    EgnnGradients<S>& own = first.out;
    own.sent = nullptr;
    const std::vector<TileSum<S>> sums{{&own.first, h, k, true},           {&own.second, h, h, false},
                                       {&own.second_bias, 1, h, false},    {&own.attention_weight, 1, h, false},
                                       {&own.attention_bias, 1, 1, false}, {&own.head_weight, h, h, false},
                                       {&own.head_bias, 1, h, false},      {&own.head_last, 1, h, false}};
    for (const auto& sum : sums) others = others || *sum.where != nullptr;
    if (others) call.template run<B>(first, graph, sums, graph.edges * h);
    if (out.sent == nullptr) return;
    S* const sent = out.sent;
    out = EgnnGradients<S>{};
    out.sent = sent;
    if (total != nullptr) pass.*total = nullptr, pass.*head = nullptr;
    call.template run_by_sender<B>(pass, pass.in.order, graph);
  });
}

template <class S, class Memory>
void run(const EgnnBackward<S>& pass, const EgnnWeights<S>& weights, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  run_gradient<2, S, Memory, EgnnBackward<S>>(pass, nullptr, nullptr, weights, graph, tf32, memory, stream);
}

template <class S, class Memory>
void run(const EgnnDoubleBackward<S>& pass, const EgnnWeights<S>& weights, const TileGraph& graph, bool tf32,
         Memory& memory, gpu::Stream stream) {
  run_gradient<1>(pass, &EgnnDoubleBackward<S>::total, &EgnnDoubleBackward<S>::head, weights, graph, tf32, memory,
                  stream);
}

}  // namespace egnn_cuda
}  // namespace symkern
