// Sums over the edges of atoms with filters from a table, and products along edges: each other's derivatives, to any
// order, as the table knows its filters' derivatives in d.
#include "ops/filter_table_simd.h"
#include "torch/graph.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace symkern {
namespace {

#if defined(__CUDACC__)

// One channel of an atom: neighboring threads read neighboring channels.
template <class S>
struct SumChannel {
  FilterSum<S> io;
  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t width = io.table.width, n = i / width, f = i % width;
    S sum = 0;
    const int64_t begin = io.ptr[n], end = io.ptr[n + 1];
    if (begin < 0 || end > io.edges) {
      io.out[i] = static_cast<S>(NAN);
      return;
    }
    for (int64_t k = begin; k < end; ++k) {
      const int64_t e = io.order != nullptr ? io.order[k] : k;
      const bool inside = e >= 0 && e < io.edges && io.other[e] >= 0 && io.other[e] < io.atoms;
      const S* row = nullptr;
      S w[6];
      if (!inside) {
        sum = static_cast<S>(NAN);
      } else if (io.table.find(e, row, w)) {
        const S c = io.factor != nullptr ? io.factor[e] : S(1);
        const S filter = io.table.template combine<OneLane<S> >(row, w, f, [](const S* p) { return *p; });
        sum = multiply_add(c * filter, io.x[io.other[e] * width + f], sum);
      }
    }
    io.out[i] = sum;
  }
};

#else

template <class S>
const FilterKernels<S>& kernels() {
  const FilterLevel* level = symkern_filter_kernels_baseline();
#if defined(SYMKERN_ISA_DISPATCH)
  if (active_isa() == Isa::avx2) level = symkern_filter_kernels_avx2();
  if (active_isa() == Isa::avx512) level = symkern_filter_kernels_avx512();
#endif
  if constexpr (std::is_same_v<S, float>) {
    return level->fp32;
  } else {
    return level->fp64;
  }
}

template <class S>
void check_distances(const Launch& launch, const S* d, int64_t edges) {
  launch.for_each((edges + 1023) / 1024, 64, [&](int64_t tile) {
    const int64_t end = std::min<int64_t>(edges, 1024 * (tile + 1));
    for (int64_t e = 1024 * tile; e < end; ++e) {
      if (!(d[e] >= 0 && d[e] <= std::numeric_limits<S>::max())) {
        bad_argument("d must be finite and not negative, but d[", e, "] = ", d[e]);
      }
    }
  });
}

#endif

struct Sizes {
  GraphSize graph;
  int64_t knots, width;
};

Sizes check(const Tensor& x, const char* name, const Tensor& d, const Tensor& table, const Tensor& edge_index,
            const Tensor& row_ptr, double cutoff, int64_t derivative) {
  const GraphSize graph = check_graph(edge_index, std::nullopt, row_ptr);
  check_float(x, name);
  check_shape(x, name, {graph.atoms, -1}, "(N, F)");
  check_shape(d, "d", {graph.edges}, "(E,)");
  check_shape(table, "table", {-1, 3, x.size(1)}, "(knots, 3, F)");
  if (table.size(0) < 2) bad_argument("table must have at least 2 knots, got ", table.size(0));
  for (const Tensor* t : {&d, &table}) check_dtype(*t, t == &d ? "d" : "table", x.scalar_type());
  for (const Tensor* t : {&d, &table, &edge_index}) {
    check_same_device(*t, t == &d ? "d" : t == &table ? "table" : "edge_index", x, name);
  }
  if (!(cutoff > 0 && cutoff < 1e300)) bad_argument("cutoff must be positive and finite, got ", cutoff);
  if (derivative < 0) bad_argument("derivative must not be negative, got ", derivative);
  return {graph, table.size(0), x.size(1)};
}

template <class S>
FilterTable<S> table_of(const Tensor& table, const Tensor& d, const Sizes& size, double cutoff, int64_t derivative) {
  const double scale = static_cast<double>(size.knots - 1) / cutoff;
  return {table.const_data_ptr<S>(),
          d.const_data_ptr<S>(),
          size.knots,
          size.width,
          static_cast<S>(cutoff),
          static_cast<S>(scale),
          filter_weights<S>(derivative, scale)};
}

Tensor filter_table_sum(const Tensor& x, const Tensor& d, const OptionalTensor& factor, const Tensor& table,
                        const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor& sender_order,
                        const OptionalTensor& sender_ptr, double cutoff, int64_t derivative, bool to_senders) {
  const Sizes size = check(x, "x", d, table, edge_index, row_ptr, cutoff, derivative);
  const int64_t edges = size.graph.edges, atoms = size.graph.atoms;
  if (factor.has_value()) {
    check_shape(*factor, "factor", {edges}, "(E,)");
    check_dtype(*factor, "factor", x.scalar_type());
    check_same_device(*factor, "factor", x, "x");
  }
  if (to_senders && !(sender_order.has_value() && sender_ptr.has_value())) {
    bad_argument("sender_order and sender_ptr must be given where sums go to senders");
  }
  const Tensor v = as_contiguous(x), r = as_contiguous(d), rows = as_contiguous(table);
  const Tensor index = as_contiguous(edge_index), starts = as_contiguous(to_senders ? *sender_ptr : row_ptr);
  OptionalTensor order, c;
  if (to_senders) {
    check_index(*sender_order, "sender_order", edge_index, edges);
    check_index(*sender_ptr, "sender_ptr", edge_index, atoms + 1);
    order = as_contiguous(*sender_order);
  }
  if (factor.has_value()) c = as_contiguous(*factor);
  Tensor out = empty({atoms, size.width}, x.scalar_type(), x);
  const int64_t* ends = index.const_data_ptr<int64_t>();
  const Launch launch(x);
  dispatch_float(x.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const FilterSum<S> io{table_of<S>(rows, r, size, cutoff, derivative),
                          v.const_data_ptr<S>(),
                          data_or_null<S>(c),
                          starts.const_data_ptr<int64_t>(),
                          data_or_null<int64_t>(order),
                          to_senders ? ends + edges : ends,
                          atoms,
                          edges,
                          out.mutable_data_ptr<S>()};
#if defined(__CUDACC__)
    launch.for_each(atoms * size.width, 0, SumChannel<S>{io});
#else
    check_distances(launch, io.table.d, edges);
    GraphGuard guard;
    const Guard look = guard.guard();
    const auto kernel = kernels<S>().sum;
    const int64_t* own = to_senders ? ends : ends + edges;
    launch.for_each(atoms, 16, [&](int64_t n) {
      const char* name = to_senders ? "sender_ptr" : "row_ptr";
      bool good = look.range(io.ptr[n], io.ptr[n + 1], edges, name) && (n > 0 || io.ptr[0] == 0 || look.fail(name));
      for (int64_t k = io.ptr[n]; good && k < io.ptr[n + 1]; ++k) {
        const int64_t e = io.order != nullptr ? io.order[k] : k;
        good = look.index(e, edges, "sender_order") && look.index(io.other[e], atoms, "edge_index") &&
               (own[e] == n || look.fail("edge_index"));
      }
      if (good) kernel(io, n);
    });
    guard.check();
#endif
  });
  return out;
}

// One edge; padding is zero.
template <class S>
struct DotEdge {
  FilterDot<S> io;
  const int64_t* row_ptr;
  int64_t atoms;
  Guard guard;
  void (*kernel)(const FilterDot<S>& io, int64_t e);

  SYMKERN_HD void operator()(int64_t e) const {
    if (e >= row_ptr[atoms]) {
      io.out[e] = 0;
    } else if (!guard.index(io.receivers[e], atoms, "edge_index") || !guard.index(io.senders[e], atoms, "edge_index")) {
      io.out[e] = static_cast<S>(NAN);
    } else {
#if defined(__CUDACC__)
      FilterRows<OneLane<S> >::dot(io, e);
#else
      kernel(io, e);
#endif
    }
  }
};

Tensor filter_table_dot(const Tensor& received, const Tensor& sent, const Tensor& d, const Tensor& table,
                        const Tensor& edge_index, const Tensor& row_ptr, const OptionalTensor&, const OptionalTensor&,
                        double cutoff, int64_t derivative) {
  const Sizes size = check(received, "received", d, table, edge_index, row_ptr, cutoff, derivative);
  const int64_t edges = size.graph.edges;
  check_shape(sent, "sent", {size.graph.atoms, size.width}, "(N, F)");
  check_dtype(sent, "sent", received.scalar_type());
  check_same_device(sent, "sent", received, "received");
  const Tensor a = as_contiguous(received), b = as_contiguous(sent), r = as_contiguous(d), rows = as_contiguous(table);
  const Tensor index = as_contiguous(edge_index), starts = as_contiguous(row_ptr);
  Tensor out = empty({edges}, received.scalar_type(), received);
  const int64_t* ends = index.const_data_ptr<int64_t>();
  const Launch launch(received);
  GraphGuard guard;
  dispatch_float(received.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const FilterDot<S> io{table_of<S>(rows, r, size, cutoff, derivative),
                          a.const_data_ptr<S>(),
                          b.const_data_ptr<S>(),
                          ends + edges,
                          ends,
                          out.mutable_data_ptr<S>()};
#if defined(__CUDACC__)
    void (*kernel)(const FilterDot<S>&, int64_t) = nullptr;
#else
    check_distances(launch, io.table.d, edges);
    const auto kernel = kernels<S>().dot;
#endif
    launch.for_each(edges, 256,
                    DotEdge<S>{io, starts.const_data_ptr<int64_t>(), size.graph.atoms, guard.guard(), kernel});
  });
  guard.check();
  return out;
}

}  // namespace

SYMKERN_OP(filter_table_sum,
           "(Tensor x, Tensor d, Tensor? factor, Tensor table, Tensor edge_index, Tensor row_ptr, Tensor? "
           "sender_order, Tensor? sender_ptr, float cutoff, int derivative, bool to_senders) -> Tensor",
           filter_table_sum)
SYMKERN_OP(filter_table_dot,
           "(Tensor received, Tensor sent, Tensor d, Tensor table, Tensor edge_index, Tensor row_ptr, Tensor? "
           "sender_order, Tensor? sender_ptr, float cutoff, int derivative) -> Tensor",
           filter_table_dot)

}  // namespace symkern
