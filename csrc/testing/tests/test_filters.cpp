// The passes of cfconv and painn_message on the device Block against the same passes on plain loops in double.
#include "ops/cfconv_cuda.cuh"
#include "ops/painn_message_cuda.cuh"

#include <cmath>

#include "testing/check.h"
#include "testing/tests/tile_graph.h"

using namespace symkern;
using namespace symkern::testing;

namespace {

constexpr double kCutoff = 5;

struct Options {
  int width = 16, basis = 6;
  BasisKind kind = BasisKind::gaussian;
  bool tf32 = false;
};

// Tensors of either op, in double.
struct Sample {
  TestGraph graph;
  Options is;
  std::vector<double> d, p, q, h, first, second, first_bias, second_bias;  // cfconv
  std::vector<double> phi, mu, directions, weight, bias;                   // painn_message
  std::vector<double> grad, grad_mu, along_h, along_d, along_phi, along_mu, along_directions;

  Sample(const TestGraph& g, const Options& o) : graph(g), is(o) {
    const int64_t n = g.atoms, e = g.edges(), w = o.width, k = o.basis;
    RandomNumbers random(static_cast<unsigned>(n + e + w));
    d = random(e), p = random(k), q = o.kind == BasisKind::bessel ? std::vector<double>{} : random(k);
    for (double& x : d) x = static_cast<float>(1.1 * kCutoff * std::fabs(x));
    for (double& x : p) x = 1 + std::fabs(x);
    for (double& x : q) x = 0.5 + std::fabs(x);
    h = random(n * w), first = random(w * k), second = random(w * w, 0.3), first_bias = random(w),
    second_bias = random(w);
    phi = random(3 * n * w), mu = random(3 * n * w), directions = random(3 * e), weight = random(3 * w * k);
    bias = random(3 * w), grad = random(n * w), grad_mu = random(3 * n * w), along_h = random(n * w),
    along_d = random(e);
    along_phi = random(3 * n * w), along_mu = random(3 * n * w), along_directions = random(3 * e);
  }
};

// Arguments in memory of their own, exactly as large.
template <class S>
struct Memory {
  std::deque<Buffer<S>> held;
  std::deque<Buffer<char>> work;

  const S* operator()(const std::vector<double>& from) {
    if (from.empty()) return nullptr;
    return held.emplace_back(std::vector<S>(from.begin(), from.end())).data();
  }
  S* room(int64_t size) { return size == 0 ? nullptr : held.emplace_back(size).data(); }
  void* operator()(int64_t bytes) { return work.emplace_back(bytes).data(); }

  FilterInput<S> graph(const Sample& s, const int64_t* senders, const int64_t* receivers) {
    return {s.graph.atoms, s.is.width,   s.is.basis, (*this)(s.d),
            (*this)(s.p),  (*this)(s.q), s.is.kind,  RadialShape<S>(kCutoff, EnvelopeKind::cosine, 1),
            senders,       receivers,    nullptr,    nullptr};
  }
};

enum Rung { kForward, kBackward, kDoubleBackward };
constexpr int kAll = (1 << 10) - 1;

// Results: out, then gradients of h, d, p, q, first weight and bias, second weight and bias.
struct Cfconv {
  static std::vector<int64_t> sizes(const Sample& s) {
    const int64_t n = s.graph.atoms, w = s.is.width, k = s.is.basis;
    const int64_t widths = s.q.empty() ? 0 : k;
    return {n * w, n * w, s.graph.edges(), k, widths, w * k, w, w * w, w};
  }
  static bool made(Rung rung, int i) { return rung == kForward ? i == 0 : rung == kBackward ? i > 0 : true; }
  static constexpr int kWeight = 5;  // transposed in the pass

  template <class S, class Run>
  static void with_pass(Rung rung, const Sample& s, Memory<S>& m, const FilterInput<S>& graph,
                        const std::vector<S*>& out, const Run& run) {
    const CfconvInput<S> in{graph, m(s.h), {}, {}, {}, {}, m(s.first_bias), m(s.second_bias)};
    const FilterSums<S> sums{out[5], out[6], out[7], out[8], out[3], out[4]};
    if (rung == kForward) run(CfconvForward<S>{in, out[0]});
    if (rung == kBackward) run(CfconvBackward<S>{in, m(s.grad), out[1], out[2], sums});
    if (rung == kDoubleBackward) {
      run(CfconvDoubleBackward<S>{in, m(s.along_h), m(s.along_d), m(s.grad), out[0], out[1], out[2], sums});
    }
  }
  template <class Pass>
  static void with_weights(const Sample& s, Pass& pass, std::vector<double> (&packed)[4]) {
    const int w = s.is.width, k = s.is.basis;
    pass.in.first = plain_weight(s.first, w, k, false, packed[0]),
    pass.in.first_t = plain_weight(s.first, w, k, true, packed[1]);
    pass.in.second = plain_weight(s.second, w, w, false, packed[2]),
    pass.in.second_t = plain_weight(s.second, w, w, true, packed[3]);
  }
  template <class S, class Pass>
  static void run(const Sample& s, const Pass& pass, const TileGraph& graph, Memory<S>& m) {
    cfconv_cuda::run(pass, CfconvWeights<S>{m(s.first), m(s.second)}, graph, s.is.tf32, m, nullptr);
  }
};

// Results: dq, dmu, then gradients of phi, mu, d, directions, p, q, weight and bias.
struct Painn {
  static std::vector<int64_t> sizes(const Sample& s) {
    const int64_t n = s.graph.atoms, e = s.graph.edges(), w = s.is.width, k = s.is.basis;
    const int64_t widths = s.q.empty() ? 0 : k;
    return {n * w, 3 * n * w, 3 * n * w, 3 * n * w, e, 3 * e, k, widths, 3 * w * k, 3 * w};
  }
  static bool made(Rung rung, int i) { return rung == kForward ? i < 2 : rung == kBackward ? i >= 2 : true; }
  static constexpr int kWeight = 8;

  template <class S, class Run>
  static void with_pass(Rung rung, const Sample& s, Memory<S>& m, const FilterInput<S>& graph,
                        const std::vector<S*>& out, const Run& run) {
    const PainnInput<S> in{graph, m(s.phi), m(s.mu), m(s.directions), {}, {}, m(s.bias)};
    const FilterSums<S> sums{out[8], out[9], nullptr, nullptr, out[6], out[7]};
    if (rung == kForward) run(PainnForward<S>{in, out[0], out[1]});
    if (rung == kBackward) {
      run(PainnBackward<S>{in, m(s.grad), m(s.grad_mu), out[2], out[3], out[4], out[5], sums});
    }
    if (rung == kDoubleBackward) {
      run(PainnDoubleBackward<S>{in, m(s.along_phi), m(s.along_mu), m(s.along_d), m(s.along_directions), m(s.grad),
                                 m(s.grad_mu), out[0], out[1], out[2], out[3], out[4], out[5], sums});
    }
  }
  template <class Pass>
  static void with_weights(const Sample& s, Pass& pass, std::vector<double> (&packed)[4]) {
    const int w = 3 * s.is.width, k = s.is.basis;
    pass.in.weight = plain_weight(s.weight, w, k, false, packed[0]);
    pass.in.weight_t = plain_weight(s.weight, w, k, true, packed[1]);
  }
  template <class S, class Pass>
  static void run(const Sample& s, const Pass& pass, const TileGraph& graph, Memory<S>& m) {
    painn_cuda::run(pass, m(s.weight), graph, s.is.tf32, m, nullptr);
  }
};

template <class Op>
std::vector<std::vector<double>> expected(Rung rung, int mask, const Sample& s) {
  Memory<double> memory;
  const auto size = Op::sizes(s);
  std::vector<std::vector<double>> found(size.size());
  std::vector<double*> out;
  for (size_t i = 0; i < size.size(); ++i) {
    const bool asked = Op::made(rung, static_cast<int>(i)) && (mask >> i & 1) && size[i] > 0;
    found[i].assign(asked ? size[i] + 16 : 0, 0.0);  // sums over parameters come in multiples of 16
    out.push_back(asked ? found[i].data() : nullptr);
  }
  const auto graph = memory.graph(s, s.graph.senders.data(), s.graph.receivers.data());
  Op::with_pass(rung, s, memory, graph, out, [&](auto pass) {
    std::vector<double> packed[4];
    Op::with_weights(s, pass, packed);
    PlainBlock<double> block;
    pass(block, {0, s.graph.real()});
  });
  for (size_t i = 0; i < size.size(); ++i) {
    if (out[i] != nullptr) found[i].resize(size[i]);
  }
  std::vector<double>& weight = found[Op::kWeight];
  const std::vector<double> columns = weight;
  const int64_t k = s.is.basis, rows = static_cast<int64_t>(weight.size()) / k;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = columns[i % k * rows + i / k];
  return found;
}

template <class Op, class S>
std::vector<std::vector<S>> on_device(Rung rung, int mask, const Sample& s) {
  Memory<S> memory;
  const Buffer<int64_t> senders(s.graph.senders), receivers(s.graph.receivers), row_ptr(s.graph.row_ptr),
      order(s.graph.sender_order), sender_ptr(s.graph.sender_ptr);
  const auto size = Op::sizes(s);
  std::vector<S*> out;
  for (size_t i = 0; i < size.size(); ++i) {
    out.push_back(Op::made(rung, static_cast<int>(i)) && (mask >> i & 1) ? memory.room(size[i]) : nullptr);
  }
  const TileGraph graph{s.graph.atoms, s.graph.edges(), row_ptr.data(), order.data(), sender_ptr.data()};
  Op::with_pass(rung, s, memory, memory.graph(s, senders.data(), receivers.data()), out,
                [&](const auto& pass) { Op::run(s, pass, graph, memory); });
  std::vector<std::vector<S>> found(size.size());
  for (size_t i = 0; i < size.size(); ++i) {
    if (out[i] == nullptr) continue;
    found[i].resize(size[i]);
    gpu::copy_to_host(found[i].data(), out[i], found[i].size() * sizeof(S), nullptr);
  }
  return found;
}

template <class Op, class S>
void check(const TestGraph& graph, const Options& options, int mask = kAll) {
  const Sample s(graph, options);
  for (const Rung rung : {kForward, kBackward, kDoubleBackward}) {
    if (rung == kForward && mask != kAll) continue;
    const auto expect = expected<Op>(rung, mask, s);
    const auto got = on_device<Op, S>(rung, mask, s);
    const double allowed = options.tf32 ? 5e-3 : 100 * std::numeric_limits<S>::epsilon();
    for (size_t i = 0; i < got.size(); ++i) check_close(got[i], expect[i], allowed);
  }
}

template <class Op>
void test_graphs() {
  for (const TestGraph& graph : test_graphs_around({32, 64})) {
    check<Op, float>(graph, {});
  }
}

template <class Op>
void test_options() {
  const TestGraph graph = random_graph(7, 40, 0);
  for (const BasisKind kind : {BasisKind::gaussian, BasisKind::bessel, BasisKind::expnorm}) {
    for (const int basis : {5, 20}) check<Op, float>(graph, {16, basis, kind, false});
    check<Op, double>(graph, {16, 7, kind, false});
  }
  check<Op, float>(graph, {48, 6, BasisKind::gaussian, false});
  check<Op, float>(graph, {32, 6, BasisKind::gaussian, true});
}

template <class Op>
void test_masks() {
  for (int i = 0; i < 10; ++i) check<Op, float>(random_graph(6, 17, 1), {}, 1 << i);
}

template <class Op>
void test_little_shared() {
#ifndef __CUDACC__
  for (const std::size_t limit : {9, 16, 30, 64}) {
    simt::Config config = simt::config();
    config.shared_limit = limit * 1024 + 512;
    simt::with(config, [] { check<Op, float>(random_graph(8, 80, 0), {32, 8, BasisKind::expnorm, false}); });
  }
#endif
}

template <class Op>
void test_wrong_indices() {
  for (const int64_t wrong : {int64_t{-1}, int64_t{8}, int64_t{1} << 60}) {
    TestGraph graph = random_graph(8, 40, 0);
    graph.senders[11] = wrong;
    Sample s(graph, {});
    s.d[12] = -1;
    const auto got = on_device<Op, float>(kForward, kAll, s);
    for (const int e : {11, 12}) CHECK(std::isnan(got[0][graph.receivers[e] * 16]));
    graph.receivers[11] = wrong, graph.sender_order[3] = wrong, graph.row_ptr[2] = wrong, graph.sender_ptr[4] = wrong;
    for (const Rung rung : {kForward, kBackward, kDoubleBackward}) {
      on_device<Op, float>(rung, kAll, Sample(graph, {}));
    }
  }
}

template <class Op>
void test_deterministic() {
  const Sample s(random_graph(9, 100, 0), {});
  for (const Rung rung : {kForward, kBackward, kDoubleBackward}) {
    const auto first = on_device<Op, float>(rung, kAll, s);
    for_orders([&] { CHECK((on_device<Op, float>(rung, kAll, s) == first)); }, 2);
  }
}

}  // namespace

int main() {
  return run_tests({{"cfconv: graphs", test_graphs<Cfconv>},
                    {"cfconv: options", test_options<Cfconv>},
                    {"cfconv: masks", test_masks<Cfconv>},
                    {"cfconv: little shared memory", test_little_shared<Cfconv>},
                    {"cfconv: wrong indices", test_wrong_indices<Cfconv>},
                    {"cfconv: deterministic", test_deterministic<Cfconv>},
                    {"painn: graphs", test_graphs<Painn>},
                    {"painn: options", test_options<Painn>},
                    {"painn: masks", test_masks<Painn>},
                    {"painn: little shared memory", test_little_shared<Painn>},
                    {"painn: wrong indices", test_wrong_indices<Painn>},
                    {"painn: deterministic", test_deterministic<Painn>}});
}
