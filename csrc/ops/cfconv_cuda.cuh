// SchNet's convolution on the device: the passes of cfconv.h, one filter per edge, in order of receivers and, for what
// is summed at senders, once more in order of senders.
#pragma once

#include "ops/cfconv.h"
#include "ops/edge_filter_cuda.cuh"

namespace symkern {

// Of nn.Linear, as given: (F, K), (F, F).
template <class S>
struct CfconvWeights {
  const S *first, *second;
};

namespace cfconv_cuda {

template <class S, class Memory>
void pack(TileCall<S, Memory>& call, const CfconvWeights<S>& weights, bool gradient, CfconvInput<S>& in) {
  const int64_t w = in.filter.width, k = in.filter.basis;
  in.first = call.packed(weights.first, w, k), in.second = call.packed(weights.second, w, w);
  if (!gradient) return;
  in.first_t = call.transposed(weights.first, w, k);
  in.second_t = call.transposed(weights.second, w, w);
}

template <class S, class Memory>
void run(CfconvForward<S> pass, const CfconvWeights<S>& weights, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  with_block<S, 64, 2>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    pack(call, weights, false, pass.in);
    call.clear(pass.out, graph.atoms * pass.in.filter.width);
    call.template run<B>(pass, graph);
  });
}

template <class S, class Memory>
void run(CfconvBackward<S> pass, const CfconvWeights<S>& weights, const TileGraph& graph, bool tf32, Memory& memory,
         gpu::Stream stream) {
  with_block<S, 32, 1>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    const int64_t w = pass.in.filter.width;
    pack(call, weights, true, pass.in);
    call.clear(pass.h, graph.atoms * w);
    call.clear(pass.d, graph.edges);
    CfconvBackward<S> first = pass;
    first.h = nullptr;
    if (first.d != nullptr || first.sums.any()) {
      call.template run<B>(first, graph, filter_cuda::sums_of(first.sums, w, pass.in.filter.basis), graph.edges * w);
    }
    if (pass.h == nullptr) return;
    pass.d = nullptr, pass.sums = {};
    call.template run_by_sender<B>(pass, pass.in.filter.order, graph);
  });
}

template <class S, class Memory>
void run(CfconvDoubleBackward<S> pass, const CfconvWeights<S>& weights, const TileGraph& graph, bool tf32,
         Memory& memory, gpu::Stream stream) {
  with_block<S, 32, 1>(tf32, [&](auto block) {
    using B = typename decltype(block)::type;
    TileCall<S, Memory> call(memory, stream);
    const int64_t w = pass.in.filter.width;
    pack(call, weights, true, pass.in);
    call.clear(pass.out, graph.atoms * w);
    call.clear(pass.h, graph.atoms * w);
    call.clear(pass.d, graph.edges);
    CfconvDoubleBackward<S> first = pass;
    first.h = nullptr;
    if (first.out != nullptr || first.d != nullptr || first.sums.any()) {
      call.template run<B>(first, graph, filter_cuda::sums_of(first.sums, w, pass.in.filter.basis), graph.edges * w);
    }
    if (pass.h == nullptr || pass.along_d == nullptr) return;
    pass.out = nullptr, pass.d = nullptr, pass.sums = {};
    call.template run_by_sender<B>(pass, pass.in.filter.order, graph);
  });
}

}  // namespace cfconv_cuda
}  // namespace symkern
