// Edges in local frames, and the first two derivatives in the edges' vectors as fused ops. Formulas are in
// local_coordinates.h; here is what they apply to, and how gradients find their way to edges.
#include "ops/local_coordinates.h"

#include "core/macros.h"
#include "core/vec3.h"
#include "torch/graph.h"

#include <limits>

namespace symkern {
namespace {

struct Graph {
  const int64_t* senders;
  const int64_t* receivers;
  const int64_t* row_ptr;
  const int64_t* references;    // (N, 2) edges of each node's row, or -1
  const int64_t* sender_order;  // nullptr in forward passes
  const int64_t* sender_ptr;
  GraphSize size;
  Guard guard;

  SYMKERN_HD bool padding(int64_t e) const { return e >= row_ptr[size.atoms]; }

  SYMKERN_HD bool valid_node(int64_t i) const {
    if (!guard.index(i, size.atoms, "edge_index") || !guard.range(row_ptr[i], row_ptr[i + 1], size.edges, "row_ptr")) {
      return false;
    }
    const int64_t first = references[2 * i], second = references[2 * i + 1];
    if (first == -1 && second == -1) return true;
    const bool in = first >= row_ptr[i] && first < row_ptr[i + 1] && second >= row_ptr[i] && second < row_ptr[i + 1];
    return (in && first != second) || guard.fail("references");
  }
  SYMKERN_HD bool valid(int64_t e) const { return valid_node(receivers[e]) && valid_node(senders[e]); }

  // Which reference of the edge's receiver (sender) the dihedral takes: the first, unless that is the edge itself
  // (its reverse).
  SYMKERN_HD int slot_i(int64_t e) const { return references[2 * receivers[e]] == e ? 1 : 0; }
  SYMKERN_HD int slot_j(int64_t e) const { return senders[references[2 * senders[e]]] == receivers[e] ? 1 : 0; }
};

SYMKERN_HD VecOf<double> vector_of(double, Vec3 v, Vec3) { return {v.x, v.y, v.z}; }
SYMKERN_HD VecOf<Dual> vector_of(Dual, Vec3 v, Vec3 d) { return {{v.x, d.x}, {v.y, d.y}, {v.z, d.z}}; }

// The vectors of edge e, and whether its frame is the fixed one.
template <class T, class N>
struct Edge {
  LocalVectors<N> in;
  bool fixed;

  // `direction` is where Dual numbers take their change from
  SYMKERN_HD Edge(const Graph& graph, const T* vec, const T* direction, int64_t e) {
    const auto load = [&](int64_t k) {
      return vector_of(N(), load_vec3(vec + 3 * k),
                       direction != nullptr ? load_vec3(direction + 3 * k) : Vec3{0, 0, 0});
    };
    const VecOf<N> x{N(1), N(0), N(0)}, z{N(0), N(0), N(1)};
    const int64_t i = graph.receivers[e], j = graph.senders[e];
    const int64_t *own = graph.references + 2 * i, *theirs = graph.references + 2 * j;
    in.a = load(e);
    in.s = own[0] >= 0 ? load(own[graph.slot_i(e)]) : z;
    in.t = theirs[0] >= 0 ? load(theirs[graph.slot_j(e)]) : z;
    fixed = own[0] < 0;
    if (!fixed) {
      in.p = load(own[0]), in.q = load(own[1]);
      const VecOf<N> c = cross(in.p, in.q);
      const double p2 = value_of(dot(in.p, in.p)), q2 = value_of(dot(in.q, in.q));
      fixed = !(value_of(dot(c, c)) > noise() * noise() * p2 * q2);
    }
    if (fixed) in.p = z, in.q = x;
  }
  SYMKERN_HD static constexpr double noise() { return sizeof(T) == 8 ? 2e-15 : 1e-6; }  // 8 ulp
};

template <class T>
struct Forward {
  Graph graph;
  const T* vec;
  T* local;  // (E, 3)
  T* tau;    // (E)

  SYMKERN_HD void operator()(int64_t e) const {
    T fill = 0;
    if (!graph.padding(e)) {
      if (graph.valid(e)) {
        const Edge<T, double> edge(graph, vec, nullptr, e);
        const VecOf<double> x = local_vector(edge.in);
        local[3 * e] = static_cast<T>(x.x), local[3 * e + 1] = static_cast<T>(x.y),
                  local[3 * e + 2] = static_cast<T>(x.z);
        tau[e] = static_cast<T>(Dihedral<double>(edge.in, edge.noise()).angle(edge.in));
        return;
      }
      fill = std::numeric_limits<T>::quiet_NaN();
    }
    local[3 * e] = local[3 * e + 1] = local[3 * e + 2] = tau[e] = fill;
  }
};

// ---- derivatives: each edge's shares of the gradients of its vectors, then their sums -------------------------------

constexpr int kShares = 5;  // a, p, q, s, t

SYMKERN_HD void store_share(double* to, VecOf<double> v) { to[0] = v.x, to[1] = v.y, to[2] = v.z; }
SYMKERN_HD void store_share(double* to, VecOf<Dual> v) { to[0] = v.x.d, to[1] = v.y.d, to[2] = v.z.d; }

// With N = double the gradients of sum(grad * outputs), with N = Dual their change along `direction`, and that of the
// outputs.
template <class T, class N>
struct Shares {
  Graph graph;
  const T* vec;
  const T* direction;   // (E, 3), or nullptr
  const T* grad_local;  // (E, 3)
  const T* grad_tau;    // (E)
  double* shares;       // (E, kShares, 3)
  T* change_local;      // (E, 3), or nullptr
  T* change_tau;        // (E)

  SYMKERN_HD void operator()(int64_t e) const {
    double* to = shares + 3 * kShares * e;
    const bool padding = graph.padding(e);
    if (padding || !graph.valid(e)) {
      const double fill = padding ? 0 : std::numeric_limits<double>::quiet_NaN();
      for (int k = 0; k < 3 * kShares; ++k) to[k] = fill;
      if (change_local != nullptr) {
        change_local[3 * e] = change_local[3 * e + 1] = change_local[3 * e + 2] = change_tau[e] = static_cast<T>(fill);
      }
      return;
    }
    const Edge<T, N> edge(graph, vec, direction, e);
    const Dihedral<N> dihedral(edge.in, edge.noise());
    const VecOf<N> zero{N(0), N(0), N(0)};
    LocalVectors<N> out{zero, zero, zero, zero, zero};
    const T* g = grad_local + 3 * e;
    add_local_gradient(edge.in, VecOf<N>{N(g[0]), N(g[1]), N(g[2])}, edge.fixed, out);
    dihedral.add_gradient(edge.in, N(grad_tau[e]), out);
    store_share(to, out.a), store_share(to + 3, out.p), store_share(to + 6, out.q), store_share(to + 9, out.s);
    store_share(to + 12, out.t);
    if (change_local != nullptr) {
      double change[3];
      store_share(change, local_vector(edge.in));
      for (int k = 0; k < 3; ++k) change_local[3 * e + k] = static_cast<T>(change[k]);
      store_share(change, VecOf<N>{dihedral.angle(edge.in), N(0), N(0)});
      change_tau[e] = static_cast<T>(change[0]);
    }
  }
};

// Gradient of the vector of edge e: its own share; and if it is a reference of its receiver, those of the edges that
// its receiver receives and sends, in stored order.
template <class T>
struct SumShares {
  Graph graph;
  const double* shares;
  T* out;  // (E, 3)

  SYMKERN_HD void operator()(int64_t e) const {
    double sum[3] = {0, 0, 0};
    const auto add = [&](int64_t other, int share) {
      const double* from = shares + 3 * (kShares * other + share);
      for (int c = 0; c < 3; ++c) sum[c] += from[c];
    };
    if (!graph.padding(e) && graph.valid(e)) {
      const int64_t i = graph.receivers[e];
      const int64_t* own = graph.references + 2 * i;
      add(e, 0);
      if (own[0] == e || own[1] == e) {
        const int slot = own[0] == e ? 0 : 1;
        for (int64_t k = graph.row_ptr[i]; k < graph.row_ptr[i + 1]; ++k) {
          add(k, 1 + slot);
          if (graph.slot_i(k) == slot) add(k, 3);
        }
        const int64_t begin = graph.sender_ptr[i], end = graph.sender_ptr[i + 1];
        for (int64_t m = begin; graph.guard.range(begin, end, graph.size.edges, "sender_ptr") && m < end; ++m) {
          const int64_t k = graph.sender_order[m];
          if (!graph.guard.index(k, graph.size.edges, "sender_order")) break;
          if (graph.senders[k] != i) break;
          if (graph.slot_j(k) == slot) add(k, 4);
        }
      }
    } else if (!graph.padding(e)) {
      sum[0] = sum[1] = sum[2] = std::numeric_limits<double>::quiet_NaN();
    }
    for (int c = 0; c < 3; ++c) out[3 * e + c] = static_cast<T>(sum[c]);
  }
};

// ---- ops ------------------------------------------------------------------------------------------------------------

void check_rows(const Tensor& t, const char* name, const Tensor& like, int64_t edges, int64_t width) {
  check_dtype(t, name, like.scalar_type());
  check_same_device(t, name, like, "vec");
  const bool same =
      width == 1 ? t.dim() == 1 && t.size(0) == edges : t.dim() == 2 && t.size(0) == edges && t.size(1) == width;
  if (!same) {
    bad_argument(name, " must have shape (E", width == 1 ? ",)" : ", 3)", " with E = ", edges, ", got ", shape_of(t));
  }
}

// The arguments that all orders share, checked.
struct Problem {
  Tensor vec, index, rows, references;
  OptionalTensor order, start;
  GraphSize size;
  GraphGuard guard;

  Problem(const Tensor& v, const Tensor& refs, const Tensor& edge_index, const Tensor& row_ptr,
          const OptionalTensor& sender_order, const OptionalTensor& sender_ptr)
      : vec(as_contiguous(v)),
        index(as_contiguous(edge_index)),
        rows(as_contiguous(row_ptr)),
        references(as_contiguous(refs)),
        size(check_graph(edge_index, std::nullopt, row_ptr)) {
    check_float(vec, "vec");
    check_same_device(vec, "vec", index, "edge_index");
    check_rows(vec, "vec", vec, size.edges, 3);
    check_dtype(references, "references", ScalarType::Long);
    check_same_device(references, "references", index, "edge_index");
    if (references.dim() != 2 || references.size(0) != size.atoms || references.size(1) != 2) {
      bad_argument("references must have shape (N, 2) with N = ", size.atoms, ", got ", shape_of(references));
    }
    if (sender_order.has_value()) {
      check_index(*sender_order, "sender_order", index, size.edges);
      order = as_contiguous(*sender_order);
    }
    if (sender_ptr.has_value()) {
      check_index(*sender_ptr, "sender_ptr", index, size.atoms + 1);
      start = as_contiguous(*sender_ptr);
    }
  }

  Graph graph() {
    const int64_t* senders = index.const_data_ptr<int64_t>();
    return {senders,
            senders + size.edges,
            rows.const_data_ptr<int64_t>(),
            references.const_data_ptr<int64_t>(),
            data_or_null<int64_t>(order),
            data_or_null<int64_t>(start),
            size,
            guard.guard()};
  }
};

std::tuple<Tensor, Tensor> local_coordinates(const Tensor& vec, const Tensor& references, const Tensor& edge_index,
                                             const Tensor& row_ptr, const OptionalTensor&, const OptionalTensor&) {
  Problem p(vec, references, edge_index, row_ptr, std::nullopt, std::nullopt);
  Tensor local = empty({p.size.edges, 3}, p.vec.scalar_type(), p.vec);
  Tensor tau = empty({p.size.edges}, p.vec.scalar_type(), p.vec);
  const Launch launch(p.vec);
  dispatch_float(p.vec.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(
        p.size.edges, 1024,
        Forward<T>{p.graph(), p.vec.const_data_ptr<T>(), local.mutable_data_ptr<T>(), tau.mutable_data_ptr<T>()});
  });
  p.guard.check();
  return {local, tau};
}

// The gradient (with N = double), or its change and that of the outputs (with N = Dual and a direction).
template <template <class> class Number>
void derivative(Problem& p, const Tensor& grad_local, const Tensor& grad_tau, const OptionalTensor& direction,
                Tensor& out, Tensor* change_local, Tensor* change_tau) {
  check_rows(grad_local, "grad_local", p.vec, p.size.edges, 3);
  check_rows(grad_tau, "grad_tau", p.vec, p.size.edges, 1);
  if (direction.has_value()) check_rows(*direction, "direction", p.vec, p.size.edges, 3);
  const Tensor gl = as_contiguous(grad_local), gt = as_contiguous(grad_tau);
  const OptionalTensor h = direction.has_value() ? OptionalTensor(as_contiguous(*direction)) : std::nullopt;
  Tensor shares = empty({p.size.edges, 3 * kShares}, ScalarType::Double, p.vec);
  const Launch launch(p.vec);
  dispatch_float(p.vec.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    double* each = shares.mutable_data_ptr<double>();
    launch.for_each(p.size.edges, 512,
                    Shares<T, typename Number<T>::Type>{p.graph(), p.vec.const_data_ptr<T>(), data_or_null<T>(h),
                                                        gl.const_data_ptr<T>(), gt.const_data_ptr<T>(), each,
                                                        change_local ? change_local->mutable_data_ptr<T>() : nullptr,
                                                        change_tau ? change_tau->mutable_data_ptr<T>() : nullptr});
    launch.for_each(p.size.edges, 1024, SumShares<T>{p.graph(), each, out.mutable_data_ptr<T>()});
  });
  p.guard.check();
}

template <class>
struct Plain {
  using Type = double;
};
template <class>
struct Changing {
  using Type = Dual;
};

Tensor local_coordinates_backward(const Tensor& grad_local, const Tensor& grad_tau, const Tensor& vec,
                                  const Tensor& references, const Tensor& edge_index, const Tensor& row_ptr,
                                  const Tensor& sender_order, const Tensor& sender_ptr) {
  Problem p(vec, references, edge_index, row_ptr, sender_order, sender_ptr);
  Tensor out = empty({p.size.edges, 3}, p.vec.scalar_type(), p.vec);
  derivative<Plain>(p, grad_local, grad_tau, std::nullopt, out, nullptr, nullptr);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> local_coordinates_double_backward(const Tensor& direction, const Tensor& grad_local,
                                                                     const Tensor& grad_tau, const Tensor& vec,
                                                                     const Tensor& references, const Tensor& edge_index,
                                                                     const Tensor& row_ptr, const Tensor& sender_order,
                                                                     const Tensor& sender_ptr) {
  Problem p(vec, references, edge_index, row_ptr, sender_order, sender_ptr);
  const auto rows = [&] { return empty({p.size.edges, 3}, p.vec.scalar_type(), p.vec); };
  Tensor out = rows(), change_local = rows(), change_tau = empty({p.size.edges}, p.vec.scalar_type(), p.vec);
  derivative<Changing>(p, grad_local, grad_tau, direction, out, &change_local, &change_tau);
  return {change_local, change_tau, out};
}

}  // namespace

SYMKERN_OP(local_coordinates,
           "(Tensor vec, Tensor references, Tensor edge_index, Tensor row_ptr, Tensor? sender_order, "
           "Tensor? sender_ptr) -> (Tensor, Tensor)",
           local_coordinates)
SYMKERN_OP(local_coordinates_backward,
           "(Tensor grad_local, Tensor grad_tau, Tensor vec, Tensor references, Tensor edge_index, Tensor row_ptr, "
           "Tensor sender_order, Tensor sender_ptr) -> Tensor",
           local_coordinates_backward)
SYMKERN_OP(local_coordinates_double_backward,
           "(Tensor direction, Tensor grad_local, Tensor grad_tau, Tensor vec, Tensor references, Tensor edge_index, "
           "Tensor row_ptr, Tensor sender_order, Tensor sender_ptr) -> (Tensor, Tensor, Tensor)",
           local_coordinates_double_backward)

}  // namespace symkern
