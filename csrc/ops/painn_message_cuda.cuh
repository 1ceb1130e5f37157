// PaiNN's messages on the device: the passes of painn_message.h, one filter per edge, in order of receivers and, for
// what is summed at senders, once more in order of senders.
#pragma once

#include "ops/edge_filter_cuda.cuh"
#include "ops/painn_message.h"

namespace symkern::painn_cuda {

// weight: (3 F, K)
template <class S, class Memory>
void pack(TileCall<S, Memory>& call, const S* weight, bool gradient, PainnInput<S>& in) {
  const int64_t w = 3 * int64_t{in.filter.width}, k = in.filter.basis;
  in.weight = call.packed(weight, w, k);
  if (gradient) in.weight_t = call.transposed(weight, w, k);
}

template <class S, class Memory>
void run(PainnForward<S> pass, const S* weight, const TileGraph& graph, bool tf32, Memory& memory, gpu::Stream stream) {
  with_block<S, 64, 2>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    const int64_t w = pass.in.filter.width;
    pack(call, weight, false, pass.in);
    call.clear(pass.dq, graph.atoms * w);
    call.clear(pass.dmu, graph.atoms * 3 * w);
    call.template run<B>(pass, graph);
  });
}

template <class S, class Memory>
void run(PainnBackward<S> pass, const S* weight, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  with_block<S, 32, 2>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    const int64_t w = pass.in.filter.width;
    pack(call, weight, true, pass.in);
    call.clear(pass.phi, graph.atoms * 3 * w);
    call.clear(pass.mu, graph.atoms * 3 * w);
    call.clear(pass.d, graph.edges);
    call.clear(pass.directions, graph.edges * 3);
    PainnBackward<S> first = pass;
    first.phi = first.mu = nullptr;
    if (first.d != nullptr || first.directions != nullptr || first.sums.any()) {
      call.template run<B>(first, graph, filter_cuda::sums_of(first.sums, 3 * w, pass.in.filter.basis),
                           graph.edges * w);
    }
    if (pass.phi == nullptr && pass.mu == nullptr) return;
    pass.d = pass.directions = nullptr, pass.sums = {};
    call.template run_by_sender<B>(pass, pass.in.filter.order, graph);
  });
}

template <class S, class Memory>
void run(PainnDoubleBackward<S> pass, const S* weight, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  with_block<S, 32, 1>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    const int64_t w = pass.in.filter.width;
    pack(call, weight, true, pass.in);
    call.clear(pass.out_q, graph.atoms * w);
    call.clear(pass.out_mu, graph.atoms * 3 * w);
    call.clear(pass.phi, graph.atoms * 3 * w);
    call.clear(pass.mu, graph.atoms * 3 * w);
    call.clear(pass.d, graph.edges);
    call.clear(pass.directions, graph.edges * 3);
    PainnDoubleBackward<S> first = pass;
    first.phi = first.mu = nullptr;
    if (first.out_q != nullptr || first.out_mu != nullptr || first.d != nullptr || first.directions != nullptr ||
        first.sums.any()) {
      call.template run<B>(first, graph, filter_cuda::sums_of(first.sums, 3 * w, pass.in.filter.basis),
                           graph.edges * w);
    }
    if (pass.phi == nullptr && pass.mu == nullptr) return;
    pass.out_q = pass.out_mu = pass.d = pass.directions = nullptr, pass.sums = {};
    call.template run_by_sender<B>(pass, pass.in.filter.order, graph);
  });
}

}  // namespace symkern::painn_cuda
