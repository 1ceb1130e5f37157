// Pairs of edges k->j, j->i of a receiver-sorted graph: counted, scanned and filled, so that the order never depends on
// threads or device.
#include "core/macros.h"
#include "torch/graph.h"

#include <algorithm>

namespace symkern {
namespace {

struct Graph {
  const int64_t* senders;
  const int64_t* receivers;
  const int32_t* shifts;  // (E, 3), or nullptr: all zero
  const int64_t* row_ptr;
  GraphSize size;
  Guard guard;

  SYMKERN_HD bool self_loop(int64_t e) const {
    bool loop = senders[e] == receivers[e];
    for (int k = 0; shifts != nullptr && k < 3; ++k) loop = loop && shifts[3 * e + k] == 0;
    return loop;
  }

  // Does `kj` start at the very image of the atom at which `ji` ends?
  SYMKERN_HD bool returns(int64_t kj, int64_t ji) const {
    bool same = senders[kj] == receivers[ji];
    for (int k = 0; shifts != nullptr && k < 3; ++k) same = same && shifts[3 * kj + k] + shifts[3 * ji + k] == 0;
    return same;
  }

  // visit(kj) for the triplets of edge ji, in stored order
  template <class F>
  SYMKERN_HD void each(int64_t ji, const F& visit) const {
    if (ji >= row_ptr[size.atoms] || self_loop(ji)) return;  // padding and self loops have none
    const int64_t j = senders[ji];
    if (!guard.index(j, size.atoms, "edge_index") || !guard.range(row_ptr[j], row_ptr[j + 1], size.edges, "row_ptr")) {
      return;
    }
    for (int64_t kj = row_ptr[j]; kj < row_ptr[j + 1]; ++kj) {
      if (!returns(kj, ji) && !self_loop(kj)) visit(kj);
    }
  }
};

struct Count {
  Graph graph;
  int64_t num_edges;
  int64_t* out;  // (E + 1), the last is zero

  SYMKERN_HD void operator()(int64_t e) const {
    int64_t count = 0;
    if (e < num_edges) graph.each(e, [&](int64_t) { ++count; });
    out[e] = count;
  }
};

struct Fill {
  Graph graph;
  const int64_t* ptr;
  int64_t* kj;
  int64_t* ji;

  SYMKERN_HD void operator()(int64_t e) const {
    int64_t t = ptr[e];
    graph.each(e, [&](int64_t other) { kj[t] = other, ji[t] = e, ++t; });
  }
};

struct Pad {
  int64_t* kj;
  int64_t* ji;
  SYMKERN_HD void operator()(int64_t t) const { kj[t] = ji[t] = 0; }
};

// Starts from counts; returns the number of triplets. The only synchronisation: it decides the output's size.
int64_t scan(const Launch& launch, const Tensor& counts, Tensor& ptr) {
  const int64_t* in = counts.const_data_ptr<int64_t>();
  int64_t* out = ptr.mutable_data_ptr<int64_t>();
  const int64_t n = counts.size(0);
#if defined(__CUDACC__)
  size_t bytes = 0;
  gpu::exclusive_sum(nullptr, bytes, in, out, n, launch.stream());
  Tensor scratch = empty({static_cast<int64_t>(bytes)}, ScalarType::Byte, counts);
  gpu::exclusive_sum(scratch.mutable_data_ptr(), bytes, in, out, n, launch.stream());
  int64_t total = 0;
  gpu::copy_to_host(&total, out + n - 1, sizeof(total), launch.stream());
  return total;
#else
  (void)launch;
  int64_t total = 0;
  for (int64_t e = 0; e < n; ++e) out[e] = total, total += in[e];
  return total;
#endif
}

// (2, T): kj and ji; and (E + 1): the triplets of edge ji are ptr[ji] .. ptr[ji + 1].
std::tuple<Tensor, Tensor> triplets(const Tensor& edge_index, const OptionalTensor& shifts, const Tensor& row_ptr,
                                    int64_t max_triplets) {
  const GraphSize size = check_graph(edge_index, shifts, row_ptr);
  const int64_t edges = size.edges;
  const Tensor index = as_contiguous(edge_index), rows = as_contiguous(row_ptr);
  const OptionalTensor s = shifts.has_value() ? OptionalTensor(as_contiguous(*shifts)) : std::nullopt;
  const int64_t* senders = index.const_data_ptr<int64_t>();
  GraphGuard guard;
  const Graph graph{senders, senders + edges, data_or_null<int32_t>(s), rows.const_data_ptr<int64_t>(),
                    size,    guard.guard()};
  Tensor counts = empty({edges + 1}, ScalarType::Long, index), ptr = empty({edges + 1}, ScalarType::Long, index);
  const Launch launch(index);
  launch.for_each(edges + 1, 1024, Count{graph, edges, counts.mutable_data_ptr<int64_t>()});
  guard.check();
  const int64_t found = scan(launch, counts, ptr), room = max_triplets >= 0 ? max_triplets : found;
  if (found > room) bad_argument("max_triplets must be at least the number of triplets, ", found, ", got ", room);
  Tensor out = empty({2, room}, ScalarType::Long, index);
  int64_t* kj = out.mutable_data_ptr<int64_t>();
  launch.for_each(edges, 512, Fill{graph, ptr.const_data_ptr<int64_t>(), kj, kj + room});
  launch.for_each(room - found, 16384, Pad{kj + found, kj + room + found});
  return {out, ptr};
}

}  // namespace

SYMKERN_OP(triplets, "(Tensor edge_index, Tensor? shifts, Tensor row_ptr, int max_triplets) -> (Tensor, Tensor)",
           triplets)

}  // namespace symkern
