// What the ops over filters (cfconv, painn_message) share: their arguments, and on the host the rows of filters.
#pragma once

#include <limits>

#include "ops/edge_filter.h"
#include "torch/fused.h"

#if defined(__CUDACC__)
#include "core/tile_call.cuh"
#endif

namespace symkern {

// The arguments that describe the graph, its distances and the basis.
struct FilterArguments {
  FusedGraph graph;
  Tensor d, p;
  OptionalTensor q, reverse, order, start;
  double cutoff;
  BasisKind kind;
  int precision;

  FilterArguments(const Tensor& distances, const Tensor& first, const OptionalTensor& second, const Tensor& edge_index,
                  const Tensor& row_ptr, const OptionalTensor& reversed, const OptionalTensor& sender_order,
                  const OptionalTensor& sender_ptr, double rc, int64_t basis, int64_t tf32)
      : graph(edge_index, row_ptr),
        d(distances),
        p(first),
        cutoff(rc),
        kind(static_cast<BasisKind>(basis)),
        precision(static_cast<int>(tf32)) {
    check_float(d, "d");
    check_same_device(d, "d", edge_index, "edge_index");
    d = fused_argument(d, "d", d, "d", {edges()});
    if (basis < 0 || basis > 2) bad_argument("kind must be 0, 1 or 2, got ", basis);
    if (!(rc > 0 && rc < 1e300)) bad_argument("cutoff must be positive and finite, got ", rc);
    const bool bessel = kind == BasisKind::bessel;
    const char* name = bessel ? "frequencies" : "centers";
    if (p.dim() != 1 || p.size(0) < 1) bad_argument(name, " must have shape (K,) with K > 0, got ", shape_of(p));
    p = fused_argument(p, name, d, "d", {functions()});
    if (second.has_value() == bessel) bad_argument("gamma must be given for every kind but bessel");
    q = fused_argument(second, "gamma", d, "d", {functions()});
    const auto index = [&](const OptionalTensor& t, const char* what, int64_t size) -> OptionalTensor {
      if (!t.has_value()) return std::nullopt;
      check_index(*t, what, edge_index, size);
      return as_contiguous(*t);
    };
    reverse = index(reversed, "reverse", edges());
    order = index(sender_order, "sender_order", edges());
    start = index(sender_ptr, "sender_ptr", atoms() + 1);
#if defined(__CUDACC__)
    if (!order.has_value() || !start.has_value()) bad_argument("sender_order and sender_ptr must be given on CUDA");
#endif
  }

  int64_t edges() const { return graph.size.edges; }
  int64_t atoms() const { return graph.size.atoms; }
  int64_t functions() const { return p.size(0); }

  template <class S>
  FilterInput<S> input(int64_t width) const {
    return {atoms(),
            static_cast<int>(width),
            static_cast<int>(functions()),
            d.const_data_ptr<S>(),
            p.const_data_ptr<S>(),
            data_or_null<S>(q),
            kind,
            RadialShape<S>(cutoff, EnvelopeKind::cosine, 1),
            graph.senders(),
            graph.receivers(),
            nullptr,
            nullptr};
  }
};

inline int64_t check_features(const Tensor& t, const char* name, int64_t width) {
  if (width < 16 || width % 16 != 0) {
    bad_argument(name, " must have a positive multiple of 16 channels, got ", shape_of(t));
  }
  return width;
}

// `t`, or zeros of that shape: a gradient or direction that is not given.
inline Tensor or_zeros(const OptionalTensor& t, std::initializer_list<int64_t> shape, const Tensor& like) {
  if (t.has_value()) return *t;
  return torch::stable::new_zeros(like, {shape.begin(), shape.size()});
}

#if defined(__CUDACC__)

// f(graph, memory) for the schedules of a device.
template <class F>
void on_device(const FilterArguments& in, const F& f) {
  FusedMemory memory(in.d);
  f(TileGraph{in.atoms(), in.edges(), in.graph.starts(), in.order->const_data_ptr<int64_t>(),
              in.start->const_data_ptr<int64_t>()},
    memory);
}

#else

template <class S>
void check_distances(const FilterArguments& in, const FusedChunks& chunks) {
  const S* d = in.d.const_data_ptr<S>();
  constexpr S largest = std::numeric_limits<S>::max();
  chunks.parallel()(chunks.edges(), 16384, [&](int64_t begin, int64_t end) {
    int good = 1;
    for (int64_t e = begin; e < end; ++e) good &= (d[e] >= 0) & (d[e] <= largest);
    for (int64_t e = begin; !good && e < end; ++e) {
      if (!(d[e] >= 0 && d[e] <= largest)) {
        bad_argument("d must be finite and not negative, but d[", e, "] = ", d[e]);
      }
    }
  });
}

// The filters of a chunk: first those that serve an edge and its reverse, which may lie in another chunk, then those of
// single edges. Two edges share a filter where each is the other's reverse and their distances are the same number.
class FilterRows {
 public:
  template <class S>
  FilterRows(const FilterInput<S>& in, const int64_t* reverse, int64_t edges, const EdgeChunk& chunk)
      : rows_(static_cast<size_t>(2 * (chunk.end - chunk.begin))) {
    const int64_t count = chunk.end - chunk.begin;
    int64_t *first = rows_.data(), *second = first + count;
    int64_t pairs = 0, singles = count;
    for (int64_t e = chunk.begin; e < chunk.end; ++e) {
      const int64_t r = reverse != nullptr ? reverse[e] : -1;
      const bool shared = r >= 0 && r < edges && r != e && reverse[r] == e && in.d[r] == in.d[e] &&
                          in.senders[r] == in.receivers[e] && in.receivers[r] == in.senders[e];
      if (!shared) {
        first[--singles] = e;
      } else if (e < r) {
        first[pairs] = e, second[pairs] = r, ++pairs;
      }
    }
    std::reverse(first + singles, first + count);  // in the order of the edges
    pairs_ = pairs, singles_ = count - singles;
  }

  // f(pass, range) for both kinds of rows of `pass`
  template <class Pass, class F>
  void run(Pass pass, const F& f) const {
    const int64_t half = static_cast<int64_t>(rows_.size()) / 2;
    pass.in.filter.order = rows_.data(), pass.in.filter.reverse = rows_.data() + half;
    if (pairs_ > 0) f(pass, TileRange{0, pairs_});
    pass.in.filter.order = rows_.data() + half - singles_, pass.in.filter.reverse = nullptr;
    if (singles_ > 0) f(pass, TileRange{0, singles_});
  }

 private:
  std::vector<int64_t> rows_;
  int64_t pairs_, singles_;
};

// Runs a pass over all filters. make(chunk) zeroes the sums of a chunk, and is the pass that adds to them; `sums` are
// those over all edges, or null: they are folded every ten tiles.
template <class S, class Pass, class Make>
void run_filters(const FilterArguments& in, const FusedChunks& chunks, const TileKernel<Pass>& kernel,
                 const WeightSums<S>* sums, const Make& make) {
  constexpr int64_t kStretch = 480;
  const int64_t* reverse = data_or_null<int64_t>(in.reverse);
  chunks.run<S>(kernel.room(make(0)), [&](int64_t c, S* scratch) {
    const Pass pass = make(c);
    const FilterRows rows(pass.in.filter, reverse, chunks.edges(), chunks[c]);
    rows.run(pass, [&](const Pass& part, TileRange range) {
      if (sums == nullptr) return kernel.run(part, range, scratch);
      for (int64_t begin = range.begin; begin < range.end; begin += kStretch) {
        kernel.run(part, {begin, std::min(begin + kStretch, range.end)}, scratch);
        sums->fold(c);
      }
    });
  });
}

// Zeroes what belongs to padding edges in an output per edge.
template <class S>
void clear_padding(const FilterArguments& in, const FusedChunks& chunks, S* out, int64_t width) {
  if (out != nullptr) std::fill(out + chunks.edges() * width, out + in.edges() * width, S(0));
}

#endif

}  // namespace symkern
