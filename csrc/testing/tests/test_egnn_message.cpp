// EGNN's passes on the device Block against the same passes on plain loops in double.
#include "ops/egnn_message_cuda.cuh"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "testing/check.h"
#include "testing/tests/tile_graph.h"

using namespace symkern;
using namespace symkern::testing;

namespace {

struct Options {
  int width = 16, attributes = 1;
  bool gated = true, headed = true, weighted = true, tf32 = false;
};

// All tensors of a call, in double.
struct Sample {
  TestGraph graph;
  Options is;
  std::vector<double> received, sent, scalars, edge_weight, w1, w2, b2, wa, ba, c1, d1, c2;
  std::vector<double> total_grad, head_grad, received_along, sent_along, scalars_along, edge_weight_along;

  Sample(const TestGraph& g, const Options& o) : graph(g), is(o) {
    const int64_t n = g.atoms, e = g.edges(), h = o.width, k = o.attributes;
    RandomNumbers random(static_cast<unsigned>(n + e + h));
    received = random(n * h), sent = random(n * h), scalars = random(e * k), w1 = random(h * k);
    w2 = random(h * h, 0.3), b2 = random(h), total_grad = random(n * h);
    received_along = random(n * h), sent_along = random(n * h), scalars_along = random(e * k);
    if (o.weighted) edge_weight = random(e), edge_weight_along = random(e);
    if (o.gated) wa = random(h), ba = random(1);
    if (o.headed) c1 = random(h * h, 0.3), d1 = random(h), c2 = random(h), head_grad = random(e);
  }
};

// The tensors as numbers of one type in memory of their own, exactly as large, and a pass's arguments that point there.
template <class S>
struct Memory {
  std::deque<Buffer<S>> held;
  std::deque<Buffer<char>> work;

  const S* operator()(const std::vector<double>& from) {
    if (from.empty()) return nullptr;
    return held.emplace_back(std::vector<S>(from.begin(), from.end())).data();
  }
  S* room(int64_t size) { return held.emplace_back(size).data(); }
  void* operator()(int64_t bytes) { return work.emplace_back(bytes).data(); }

  EgnnInput<S> input(const Sample& s, const int64_t* senders, const int64_t* receivers) {
    EgnnInput<S> in{};
    in.atoms = s.graph.atoms, in.edges = s.graph.edges(), in.width = s.is.width, in.attributes = s.is.attributes;
    in.received = (*this)(s.received), in.sent = (*this)(s.sent), in.scalars = (*this)(s.scalars);
    in.edge_weight = (*this)(s.edge_weight), in.second_bias = (*this)(s.b2), in.attention_weight = (*this)(s.wa);
    in.attention_bias = (*this)(s.ba), in.head_bias = (*this)(s.d1), in.head_last = (*this)(s.c2);
    in.senders = senders, in.receivers = receivers;
    return in;
  }
};

// Results one after the other, in the order of the op: total, head, then the gradients of twelve arguments.
std::vector<int64_t> sizes(const Sample& s) {
  const int64_t n = s.graph.atoms, e = s.graph.edges(), h = s.is.width, k = s.is.attributes, gate = s.is.gated ? 1 : 0,
                head = s.is.headed ? 1 : 0;
  return {n * h,    e * head, n * h,        n * h,    e * k,   s.is.weighted ? e : 0, h * k, h * h, h,
          gate * h, gate,     head * h * h, head * h, head * h};
}

enum Rung { kForward, kBackward, kDoubleBackward };

// Which of the 14 results are asked for.
using Mask = int;
constexpr Mask kAll = (1 << 14) - 1;

template <class S>
struct Results {
  std::vector<S*> at;

  Results(Rung rung, Mask mask, const Sample& s, Memory<S>& memory) {
    const auto size = sizes(s);
    for (int i = 0; i < 14; ++i) {
      const bool made = rung == kForward ? i < 2 : rung == kBackward ? i >= 2 : true;
      at.push_back(made && ((mask >> i & 1) || (rung == kForward && i == 0)) && size[i] > 0 ? memory.room(size[i])
                                                                                            : nullptr);
    }
  }
  EgnnGradients<S> gradients() const {
    return {at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9], at[10], at[11], at[12], at[13]};
  }
};

template <class S, class Run>
void with_pass(Rung rung, const Sample& s, Memory<S>& memory, const EgnnInput<S>& in, const Results<S>& out,
               const Run& run) {
  const S *g = memory(s.total_grad), *q = memory(s.head_grad);
  if (rung == kForward) {
    run(EgnnForward<S>{in, out.at[0], out.at[1]});
  } else if (rung == kBackward) {
    run(EgnnBackward<S>{in, g, q, out.gradients()});
  } else {
    run(EgnnDoubleBackward<S>{in, memory(s.received_along), memory(s.sent_along), memory(s.scalars_along),
                              memory(s.edge_weight_along), g, q, out.at[0], out.at[1], out.gradients()});
  }
}

std::vector<std::vector<double>> expected(Rung rung, Mask mask, const Sample& s) {
  Memory<double> memory;
  const int64_t e = s.graph.real(), h = s.is.width, k = s.is.attributes;
  EgnnInput<double> in = memory.input(s, s.graph.senders.data(), s.graph.receivers.data());
  std::vector<double> packed[6], rows;
  const int wide = static_cast<int>(h), few = static_cast<int>(k);
  in.first = plain_weight(s.w1, wide, few, false, packed[0]),
  in.first_t = plain_weight(s.w1, wide, few, true, packed[1]);
  in.second = plain_weight(s.w2, wide, wide, false, packed[2]);
  in.second_t = plain_weight(s.w2, wide, wide, true, packed[3]);
  in.head = plain_weight(s.c1, wide, wide, false, packed[4]),
  in.head_t = plain_weight(s.c1, wide, wide, true, packed[5]);
  in.first_rows = packed[0].data();
  const Results<double> out(rung, mask, s, memory);
  const auto size = sizes(s);
  std::vector<double> bias(16);  // attention's is a sum of 16 equal numbers
  std::vector<std::vector<double>> found(14);
  for (int i = 0; i < 14; ++i) {
    if (out.at[i] != nullptr) std::fill_n(out.at[i], size[i], 0.0);
  }
  Results<double> given = out;
  if (given.at[10] != nullptr) given.at[10] = bias.data();
  with_pass(rung, s, memory, in, given, [&](const auto& pass) {
    PlainBlock<double> block;
    pass(block, {0, e});
  });
  if (out.at[10] != nullptr) out.at[10][0] = bias[0];
  for (int i = 0; i < 14; ++i) {
    if (out.at[i] == nullptr) continue;
    found[i].assign(out.at[i], out.at[i] + size[i]);
    if (i != 6) continue;  // W_1 is transposed in the pass
    for (int64_t r = 0; r < h; ++r) {
      for (int64_t c = 0; c < k; ++c) found[i][r * k + c] = out.at[i][c * h + r];
    }
  }
  return found;
}

template <class S>
std::vector<std::vector<S>> on_device(Rung rung, Mask mask, const Sample& s) {
  Memory<S> memory;
  const Buffer<int64_t> senders(s.graph.senders), receivers(s.graph.receivers), row_ptr(s.graph.row_ptr),
      order(s.graph.sender_order), sender_ptr(s.graph.sender_ptr);
  const EgnnInput<S> in = memory.input(s, senders.data(), receivers.data());
  const EgnnWeights<S> weights{memory(s.w1), memory(s.w2), memory(s.c1)};
  const Results<S> out(rung, mask, s, memory);
  const TileGraph graph{s.graph.atoms, s.graph.edges(), row_ptr.data(), order.data(), sender_ptr.data()};
  with_pass(rung, s, memory, in, out,
            [&](const auto& pass) { egnn_cuda::run(pass, weights, graph, s.is.tf32, memory, nullptr); });
  std::vector<std::vector<S>> found(14);
  const auto size = sizes(s);
  for (int i = 0; i < 14; ++i) {
    if (out.at[i] == nullptr) continue;
    found[i].resize(size[i]);
    gpu::copy_to_host(found[i].data(), out.at[i], found[i].size() * sizeof(S), nullptr);
  }
  return found;
}

template <class S>
void check(Rung rung, const Sample& s, Mask mask = kAll) {
  const auto expect = expected(rung, mask, s);
  const auto got = on_device<S>(rung, mask, s);
  for (int i = 0; i < 14; ++i)
    check_close(got[i], expect[i], s.is.tf32 ? 3e-3 : 40 * std::numeric_limits<S>::epsilon());
}

template <class S>
void check_rungs(const TestGraph& graph, const Options& options, Mask mask = kAll) {
  const Sample s(graph, options);
  for (const Rung rung : {kForward, kBackward, kDoubleBackward}) check<S>(rung, s, mask);
}

void test_graphs() {
  for (const TestGraph& graph : test_graphs_around({32, 64})) {
    check_rungs<float>(graph, {});
  }
}

void test_double() { check_rungs<double>(random_graph(9, 70, 3), {16, 6, true, true, true, false}); }

void test_options() {
  const TestGraph graph = random_graph(7, 40, 0);
  for (const int attributes : {0, 1, 5, 17, 20})
    check_rungs<float>(graph, {16, attributes, false, false, false, false});
  for (const bool gated : {false, true}) {
    for (const bool headed : {false, true}) {
      for (const bool weighted : {false, true}) check_rungs<float>(graph, {48, 3, gated, headed, weighted, false});
    }
  }
  check_rungs<float>(graph, {32, 2, true, true, true, true});
}

// One result at a time: those that are null are not computed, and nobody needs them.
void test_masks() {
  const TestGraph graph = random_graph(6, 17, 1);
  for (int i = 0; i < 14; ++i) {
    const Sample s(graph, {16, i % 2 == 0 ? 2 : 6, true, true, true, false});
    check<float>(kDoubleBackward, s, 1 << i);
    if (i >= 2) check<float>(kBackward, s, 1 << i);
  }
}

void test_little_shared() {
#ifndef __CUDACC__
  for (const std::size_t limit : {9, 16, 30, 64}) {
    simt::Config config = simt::config();
    config.shared_limit = limit * 1024 + 512;
    simt::with(config, [] { check_rungs<float>(random_graph(8, 80, 0), {32, 2, true, true, true, false}); });
  }
#endif
}

// Nothing outside is touched, and what the edge belongs to is NaN.
void test_wrong_indices() {
  for (const int64_t wrong : {int64_t{-1}, int64_t{8}, int64_t{1} << 60}) {
    TestGraph graph = random_graph(8, 40, 0);
    graph.senders[11] = wrong;
    const auto got = on_device<float>(kForward, kAll, Sample(graph, {}));
    CHECK(std::isnan(got[0][graph.receivers[11] * 16]) && std::isnan(got[1][11]));
    CHECK(!std::isnan(got[1][10]));
    graph = random_graph(8, 40, 0);
    const int64_t receiver = graph.receivers[11];
    graph.receivers[11] = wrong;
    CHECK(std::isnan(on_device<float>(kForward, kAll, Sample(graph, {}))[0][receiver * 16]));
    std::swap(graph.receivers[3], graph.receivers[30]);
    graph.sender_order[3] = wrong, graph.row_ptr[2] = wrong, graph.sender_ptr[4] = wrong;
    for (const Rung rung : {kForward, kBackward, kDoubleBackward}) on_device<float>(rung, kAll, Sample(graph, {}));
  }
}

// The same bits every time.
void test_deterministic() {
  const Sample s(random_graph(9, 100, 0), {});
  for (const Rung rung : {kForward, kBackward, kDoubleBackward}) {
    const auto first = on_device<float>(rung, kAll, s);
    for_orders([&] { CHECK(on_device<float>(rung, kAll, s) == first); }, 2);
  }
}

}  // namespace

int main() {
  return run_tests({{"graphs", test_graphs},
                    {"double", test_double},
                    {"options", test_options},
                    {"masks", test_masks},
                    {"little shared memory", test_little_shared},
                    {"wrong indices", test_wrong_indices},
                    {"deterministic", test_deterministic}});
}
