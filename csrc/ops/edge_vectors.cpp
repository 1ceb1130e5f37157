// Edge vectors v_e = r_j - r_i + shift_e @ cell and their adjoint. The op is linear, so these two are each other's
// derivative, to any order.
#include "core/macros.h"
#include "core/segment_sum.h"
#include "torch/graph.h"

#include <limits>

namespace symkern {
namespace {

template <class T>
struct EdgeVectors {
  const T* positions;    // (N, 3), or nullptr: zero
  const T* cell;         // (3, 3) or (B, 3, 3), or nullptr: zero
  const int64_t* batch;  // (N), or nullptr: one cell for all
  const int64_t* senders;
  const int64_t* receivers;
  const int32_t* shifts;  // (E, 3)
  GraphSize size;
  int64_t num_structures;
  Guard guard;
  T* out;  // (E, 3)

  SYMKERN_HD void operator()(int64_t e) const {
    const int64_t i = receivers[e], j = senders[e];
    if (size.atoms == 0) {  // padding of a graph without atoms
      for (int c = 0; c < 3; ++c) out[3 * e + c] = 0;
      return;
    }
    if (!guard.index(i, size.atoms, "edge_index") || !guard.index(j, size.atoms, "edge_index") ||
        (batch != nullptr && !guard.index(batch[i], num_structures, "batch"))) {
      for (int c = 0; c < 3; ++c) out[3 * e + c] = std::numeric_limits<T>::quiet_NaN();
      return;
    }
    T v[3] = {0, 0, 0};
    if (positions != nullptr) {
      for (int c = 0; c < 3; ++c) v[c] = positions[3 * j + c] - positions[3 * i + c];
    }
    if (cell != nullptr) {
      const T* rows = cell + (batch != nullptr ? 9 * batch[i] : 0);
      for (int k = 0; k < 3; ++k) {
        const T s = static_cast<T>(shifts[3 * e + k]);
        // rows of non-periodic directions have no shift, and may hold anything
        for (int c = 0; c < 3; ++c) v[c] += s != 0 ? s * rows[3 * k + c] : 0;
      }
    }
    for (int c = 0; c < 3; ++c) out[3 * e + c] = v[c];
  }
};

// Gradient of atom i: minus the edges it receives, plus the edges it sends, each in stored order.
template <class T>
struct PositionGradient {
  const T* grad;                // (E, 3)
  const int64_t* row_ptr;       // (N + 1)
  const int64_t* sender_order;  // (E)
  const int64_t* sender_ptr;    // (N + 1)
  int64_t num_edges;
  Guard guard;
  T* out;  // (N, 3)

  SYMKERN_HD void operator()(int64_t i) const {
    double sum[3] = {0, 0, 0};
    if (!guard.range(row_ptr[i], row_ptr[i + 1], num_edges, "row_ptr") ||
        !guard.range(sender_ptr[i], sender_ptr[i + 1], num_edges, "sender_ptr")) {
      for (int c = 0; c < 3; ++c) out[3 * i + c] = std::numeric_limits<T>::quiet_NaN();
      return;
    }
    for (int64_t e = row_ptr[i]; e < row_ptr[i + 1]; ++e) {
      for (int c = 0; c < 3; ++c) sum[c] -= grad[3 * e + c];
    }
    for (int64_t k = sender_ptr[i]; k < sender_ptr[i + 1]; ++k) {
      const int64_t e = sender_order[k];
      if (!guard.index(e, num_edges, "sender_order")) continue;
      for (int c = 0; c < 3; ++c) sum[c] += grad[3 * e + c];
    }
    for (int c = 0; c < 3; ++c) out[3 * i + c] = static_cast<T>(sum[c]);
  }
};

// Sum of shift_e (outer) grad_e over the edges that atom i receives.
template <class T>
struct RowCellGradient {
  const T* grad;
  const int32_t* shifts;
  const int64_t* row_ptr;
  int64_t num_edges;
  Guard guard;
  double* out;  // (N, 9)

  SYMKERN_HD void operator()(int64_t i) const {
    double sum[9] = {};
    const bool ok = guard.range(row_ptr[i], row_ptr[i + 1], num_edges, "row_ptr");
    for (int64_t e = row_ptr[i]; ok && e < row_ptr[i + 1]; ++e) {
      for (int k = 0; k < 3; ++k) {
        const double s = shifts[3 * e + k];
        for (int c = 0; c < 3; ++c) sum[3 * k + c] += s * static_cast<double>(grad[3 * e + c]);
      }
    }
    for (int c = 0; c < 9; ++c) out[9 * i + c] = sum[c];
  }
};

int64_t count_structures(const Tensor& ptr, const Tensor& edge_index) {
  if (ptr.dim() != 1 || ptr.size(0) < 1) bad_argument("ptr must have shape (B + 1,), got ", shape_of(ptr));
  check_index(ptr, "ptr", edge_index, ptr.size(0));
  return ptr.size(0) - 1;
}

void check_batch(const OptionalTensor& batch, const Tensor& edge_index, int64_t atoms, bool needed) {
  if (!needed) return;
  if (!batch.has_value()) bad_argument("batch is needed where cell has one matrix per structure");
  check_index(*batch, "batch", edge_index, atoms);
}

// positions and cell are optional because either may be absent from a derivative; edge_index may end in padding.
Tensor edge_vectors(const OptionalTensor& positions, const OptionalTensor& cell, const Tensor& edge_index,
                    const OptionalTensor& shifts, const Tensor& row_ptr, const Tensor& ptr, const OptionalTensor& batch,
                    const OptionalTensor&, const OptionalTensor&) {
  const GraphSize size = check_graph(edge_index, shifts, row_ptr);
  const int64_t structures = count_structures(ptr, edge_index);
  if (!positions.has_value() && !cell.has_value()) bad_argument("positions or cell must be given");
  const ScalarType type = positions.has_value() ? positions->scalar_type() : cell->scalar_type();
  bool per_structure = false;
  if (positions.has_value()) {
    check_float(*positions, "positions");
    check_same_device(*positions, "positions", edge_index, "edge_index");
    if (positions->dim() != 2 || positions->size(0) != size.atoms || positions->size(1) != 3) {
      bad_argument("positions must have shape (N, 3) with N = ", size.atoms, ", got ", shape_of(*positions));
    }
  }
  if (cell.has_value()) {
    check_dtype(*cell, "cell", type);
    check_float(*cell, "cell");
    check_same_device(*cell, "cell", edge_index, "edge_index");
    per_structure = cell->dim() == 3;
    const int64_t d = cell->dim();
    if ((d != 2 && d != 3) || cell->size(d - 1) != 3 || cell->size(d - 2) != 3 ||
        (per_structure && cell->size(0) != structures)) {
      bad_argument("cell must have shape (3, 3) or (B, 3, 3) with B = ", structures, ", got ", shape_of(*cell));
    }
    if (!shifts.has_value()) bad_argument("shifts are needed with a cell; build the neighbor list with the cell too");
    check_batch(batch, edge_index, size.atoms, per_structure);
  }
  Tensor out = empty({size.edges, 3}, type, edge_index);
  const Launch launch(edge_index);
  GraphGuard guard;
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const OptionalTensor r = positions.has_value() ? OptionalTensor(as_contiguous(*positions)) : std::nullopt;
    const OptionalTensor h = cell.has_value() ? OptionalTensor(as_contiguous(*cell)) : std::nullopt;
    const OptionalTensor s = cell.has_value() ? OptionalTensor(as_contiguous(*shifts)) : std::nullopt;
    const OptionalTensor b = per_structure ? OptionalTensor(as_contiguous(*batch)) : std::nullopt;
    const Tensor index = as_contiguous(edge_index);
    const int64_t* senders = index.const_data_ptr<int64_t>();
    launch.for_each(
        size.edges, 65536,
        EdgeVectors<T>{data_or_null<T>(r), data_or_null<T>(h), data_or_null<int64_t>(b), senders, senders + size.edges,
                       data_or_null<int32_t>(s), size, structures, guard.guard(), out.mutable_data_ptr<T>()});
  });
  guard.check();
  return out;
}

std::tuple<Tensor, Tensor> edge_vectors_backward(const Tensor& grad, const Tensor& edge_index,
                                                 const OptionalTensor& shifts, const Tensor& row_ptr, const Tensor& ptr,
                                                 const OptionalTensor& batch, const OptionalTensor& sender_order,
                                                 const OptionalTensor& sender_ptr, bool need_positions, bool need_cell,
                                                 bool cell_per_structure) {
  const GraphSize size = check_graph(edge_index, shifts, row_ptr);
  const int64_t structures = count_structures(ptr, edge_index);
  check_float(grad, "grad");
  check_same_device(grad, "grad", edge_index, "edge_index");
  if (grad.dim() != 2 || grad.size(0) != size.edges || grad.size(1) != 3) {
    bad_argument("grad must have shape (E, 3) with E = ", size.edges, ", got ", shape_of(grad));
  }
  check_batch(batch, edge_index, size.atoms, cell_per_structure);
  if (need_positions && (!sender_order.has_value() || !sender_ptr.has_value())) {
    bad_argument("sender_order and sender_ptr are needed for the gradient of positions");
  }
  if (need_positions) {
    check_index(*sender_order, "sender_order", edge_index, size.edges);
    check_index(*sender_ptr, "sender_ptr", edge_index, size.atoms + 1);
  }
  if (need_cell && !shifts.has_value()) bad_argument("shifts are needed for the gradient of cell");
  const ScalarType type = grad.scalar_type();
  Tensor grad_positions = empty({need_positions ? size.atoms : 0, 3}, type, grad);
  const int64_t cells = !need_cell ? 0 : cell_per_structure ? structures : 1;
  Tensor grad_cell = empty({cells, 3, 3}, type, grad);
  const Launch launch(grad);
  const Tensor g = as_contiguous(grad), starts = as_contiguous(row_ptr), owners = as_contiguous(ptr);
  GraphGuard guard;
  const int64_t* rows = starts.const_data_ptr<int64_t>();
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const T* edges = g.const_data_ptr<T>();
    if (need_positions) {
      const Tensor order = as_contiguous(*sender_order), begin = as_contiguous(*sender_ptr);
      launch.for_each(size.atoms, 1024,
                      PositionGradient<T>{edges, rows, order.const_data_ptr<int64_t>(), begin.const_data_ptr<int64_t>(),
                                          size.edges, guard.guard(), grad_positions.mutable_data_ptr<T>()});
    }
    if (need_cell) {
      const int64_t n = size.atoms;
      Tensor per_atom = empty({n, 9}, ScalarType::Double, grad);
      Tensor per_tile = empty({(n + kSumTile - 1) / kSumTile, 9}, ScalarType::Double, grad);
      double* items = per_atom.mutable_data_ptr<double>();
      double* tiles = per_tile.mutable_data_ptr<double>();
      const Tensor s = as_contiguous(*shifts);
      launch.for_each(n, 1024,
                      RowCellGradient<T>{edges, s.const_data_ptr<int32_t>(), rows, size.edges, guard.guard(), items});
      launch.for_each((n + kSumTile - 1) / kSumTile, 64, TileSum<9>{items, tiles, n});
      if (cell_per_structure) {
        launch.for_each(
            cells, 64,
            SegmentSum<9, T>{items, tiles, owners.const_data_ptr<int64_t>(), n, grad_cell.mutable_data_ptr<T>()});
      } else {
        launch.for_each(1, 1, WholeSum<9, T>{items, tiles, n, grad_cell.mutable_data_ptr<T>()});
      }
    }
  });
  guard.check();
  return {grad_positions, grad_cell};
}

}  // namespace

SYMKERN_OP(edge_vectors,
           "(Tensor? positions, Tensor? cell, Tensor edge_index, Tensor? shifts, Tensor row_ptr, Tensor ptr, "
           "Tensor? batch, Tensor? sender_order, Tensor? sender_ptr) -> Tensor",
           edge_vectors)
SYMKERN_OP(edge_vectors_backward,
           "(Tensor grad, Tensor edge_index, Tensor? shifts, Tensor row_ptr, Tensor ptr, Tensor? batch, "
           "Tensor? sender_order, Tensor? sender_ptr, bool need_positions, bool need_cell, bool cell_per_structure) -> "
           "(Tensor, Tensor)",
           edge_vectors_backward)

}  // namespace symkern
