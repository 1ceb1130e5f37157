// All pairs within a cutoff, for batches of molecules and for large periodic systems. Formula: core/vec3.h
// (pair_distance_sq). Host algorithm: neighbor_list_host.h. CUDA schedule: neighbor_list_cuda.cuh.
#include "ops/neighbor_problem.h"
#include "torch/shim.h"
#include "torch/structures.h"

#include <algorithm>
#include <cmath>

#if defined(__CUDACC__)
#include "ops/neighbor_list_cuda.cuh"
#else
#include "ops/neighbor_list_host.h"
#endif

namespace symkern {
namespace {

struct Edges {
  Tensor edge_index, shifts, row_ptr, ptr;
};

// Everything that can be checked without reading data on the device.
struct Checked {
  int64_t num_atoms, num_structures;  // num_structures < 0: known only from batch
  bool has_cell, cell_per_structure, pbc_per_structure;
};

Checked check_input(const Tensor& positions, double cutoff, const OptionalTensor& batch, const OptionalTensor& ptr,
                    const OptionalTensor& cell, const OptionalTensor& pbc, int64_t max_edges) {
  Checked c{};
  check_float(positions, "positions");
  check_shape(positions, "positions", {-1, 3}, "(N, 3)");
  c.num_atoms = positions.size(0);
  if (!(cutoff > 0 && cutoff * cutoff > 0) || !std::isfinite(cutoff)) {  // its square decides
    bad_argument("cutoff must be positive and finite, got ", cutoff);
  }
  if (max_edges < -1) bad_argument("max_edges must not be negative, got ", max_edges);
  c.num_structures = check_structures(positions, batch, ptr);
  c.has_cell = cell.has_value();
  if (cell.has_value()) {
    check_dtype(*cell, "cell", positions.scalar_type());
    check_same_device(*cell, "cell", positions, "positions");
    const int64_t d = cell->dim();
    if ((d != 2 && d != 3) || cell->size(d - 1) != 3 || cell->size(d - 2) != 3) {
      bad_argument("cell must have shape (3, 3) or (B, 3, 3), got ", shape_of(*cell));
    }
    c.cell_per_structure = d == 3;
    if (c.cell_per_structure) {
      const int64_t b = cell->size(0);
      if (c.num_structures >= 0 && b != c.num_structures) {
        bad_argument("cell must have shape (3, 3) or (B, 3, 3) with B = ", c.num_structures, ", got ", shape_of(*cell));
      }
      c.num_structures = b;  // structures without atoms at the end of a batch are known only from here
    }
  }
  if (pbc.has_value()) {
    if (!cell.has_value()) bad_argument("pbc needs a cell");
    check_dtype(*pbc, "pbc", ScalarType::Bool);
    check_same_device(*pbc, "pbc", positions, "positions");
    const int64_t d = pbc->dim();
    c.pbc_per_structure = d == 2;
    if ((d != 1 && d != 2) || pbc->size(d - 1) != 3 ||
        (d == 2 && c.num_structures >= 0 && pbc->size(0) != c.num_structures)) {
      bad_argument("pbc must have shape (3,) or (B, 3), got ", shape_of(*pbc));
    }
    if (d == 2 && c.num_structures < 0) c.num_structures = pbc->size(0);
  }
  if (c.num_structures == 0 && c.num_atoms > 0) {
    bad_argument(ptr.has_value() ? "ptr" : "cell", " describes no structure, but there are ", c.num_atoms, " atoms");
  }
  if (!batch.has_value() && !ptr.has_value() && c.num_structures != 1 && (c.num_structures > 1 || c.num_atoms > 0)) {
    bad_argument("cell describes ", c.num_structures, " structures, but there is no batch or ptr");
  }
  return c;
}

#if !defined(__CUDACC__)

template <class T>
void find_edges(const Tensor& positions, const Checked& c, double cutoff, const OptionalTensor& cell,
                const OptionalTensor& pbc, int64_t pbc_mask, bool full, bool self_loops, int64_t max_edges,
                Edges& out) {
  const Tensor r = as_contiguous(positions);
  const OptionalTensor h = cell.has_value() ? OptionalTensor(as_contiguous(*cell)) : std::nullopt;
  const OptionalTensor p = pbc.has_value() ? OptionalTensor(as_contiguous(*pbc)) : std::nullopt;
  const NeighborInput<T> input{r.const_data_ptr<T>(),
                               c.num_atoms,
                               out.ptr.const_data_ptr<int64_t>(),
                               c.num_structures,
                               data_or_null<T>(h),
                               c.cell_per_structure,
                               data_or_null<bool>(p),
                               c.pbc_per_structure,
                               static_cast<int>(pbc_mask),
                               cutoff,
                               full,
                               self_loops};
  const Parallel parallel = torch_parallel();
  out.row_ptr = empty({c.num_atoms + 1}, ScalarType::Long, positions);
  NeighborListHost<T> search(input, parallel);
  search.run(out.row_ptr.template mutable_data_ptr<int64_t>(), [&](int64_t found) {
    if (max_edges >= 0 && found > max_edges) throw_problem(Problem::overflow, 0, found, max_edges);
    const int64_t room = max_edges >= 0 ? max_edges : found;
    out.edge_index = empty({2, room}, ScalarType::Long, positions);
    out.shifts = empty({c.has_cell ? room : 0, 3}, ScalarType::Int, positions);
    int64_t* senders = out.edge_index.template mutable_data_ptr<int64_t>();
    int32_t* shifts = c.has_cell ? out.shifts.template mutable_data_ptr<int32_t>() : nullptr;
    // padding: edges from atom 0 to atom 0, behind row_ptr[-1]
    std::fill(senders + found, senders + room, 0);
    std::fill(senders + room + found, senders + 2 * room, 0);
    if (shifts != nullptr) std::fill(shifts + 3 * found, shifts + 3 * room, 0);
    return EdgeOutput{senders, senders + room, shifts};
  });
}

#else

// Problems of calls that did not synchronise wait here for one that does; one per device and process.
__device__ unsigned long long sticky_status = neighbor_cuda::kNoProblem;

int64_t value_at(const Tensor& t, int64_t index, gpu::Stream stream) {
  int64_t value = 0;
  gpu::copy_to_host(&value, t.const_data_ptr<int64_t>() + index, sizeof(value), stream);
  return value;
}

// Reads the values that belong to a problem, and throws it.
[[noreturn]] void explain(unsigned long long status, const Checked& c, const OptionalTensor& batch,
                          const OptionalTensor& ptr, int64_t max_edges, gpu::Stream stream) {
  const auto problem = static_cast<Problem>(status >> 48);
  const int64_t index = static_cast<int64_t>(status & ((1ull << 48) - 1));
  switch (problem) {
    case Problem::ptr_start:
      throw_problem(problem, index, value_at(*ptr, 0, stream));
    case Problem::ptr_decreases:
      throw_problem(problem, index, value_at(*ptr, index, stream), value_at(*ptr, index - 1, stream));
    case Problem::ptr_end:
      throw_problem(problem, index, value_at(*ptr, index, stream), c.num_atoms);
    case Problem::batch_negative:
      throw_problem(problem, index, value_at(*batch, index, stream));
    case Problem::batch_unsorted:
      throw_problem(problem, index, value_at(*batch, index, stream), value_at(*batch, index - 1, stream));
    case Problem::batch_structure:
      throw_problem(problem, index, value_at(*batch, index, stream), c.num_structures);
    case Problem::overflow:
      throw_problem(problem, 0, index, max_edges);
    default:
      throw_problem(problem, index);
  }
}

struct StructureStart {
  const int64_t* batch;  // nullptr: one structure
  int64_t num_atoms;
  int64_t* ptr;
  SYMKERN_HD void operator()(int64_t b) const {
    ptr[b] = batch != nullptr ? neighbor_cuda::bound(batch, num_atoms, b, false) : b == 0 ? 0 : num_atoms;
  }
};

template <class T>
void find_edges(const Tensor& positions, Checked& c, double cutoff, const OptionalTensor& batch_in,
                const OptionalTensor& ptr_in, const OptionalTensor& cell, const OptionalTensor& pbc, int64_t pbc_mask,
                bool full, bool self_loops, int64_t max_edges, Edges& out) {
  const Launch launch(positions);
  const gpu::Stream stream = launch.stream();
  const auto dense = [](const OptionalTensor& t) {
    return t.has_value() ? OptionalTensor(as_contiguous(*t)) : std::nullopt;
  };
  const Tensor r = as_contiguous(positions);
  const OptionalTensor batch = dense(batch_in), ptr = dense(ptr_in), h = dense(cell), p = dense(pbc);
  const neighbor_cuda::Input<T> input{r.const_data_ptr<T>(),
                                      c.num_atoms,
                                      data_or_null<int64_t>(batch),
                                      data_or_null<int64_t>(ptr),
                                      c.num_structures < 0 ? 0 : c.num_structures,
                                      data_or_null<T>(h),
                                      c.cell_per_structure,
                                      data_or_null<bool>(p),
                                      c.pbc_per_structure,
                                      static_cast<int>(pbc_mask),
                                      cutoff,
                                      full,
                                      self_loops};
  std::vector<Tensor> scratch;
  const auto memory = [&](size_t bytes) {
    scratch.push_back(empty({static_cast<int64_t>(bytes)}, ScalarType::Byte, positions));
    return scratch.back().mutable_data_ptr();
  };
  out.row_ptr = empty({c.num_atoms + 1}, ScalarType::Long, positions);
  const auto allocate = [&](int64_t room) {
    out.edge_index = empty({2, room}, ScalarType::Long, positions);
    out.shifts = empty({c.has_cell ? room : 0, 3}, ScalarType::Int, positions);
    int64_t* senders = out.edge_index.template mutable_data_ptr<int64_t>();
    return neighbor_cuda::Output{senders, senders + room,
                                 c.has_cell ? out.shifts.template mutable_data_ptr<int32_t>() : nullptr};
  };
  // Only a batch without ptr hides the number of structures, which is a shape of the result.
  const bool synchronise = max_edges < 0 || c.num_structures < 0;
  auto* sticky = static_cast<unsigned long long*>(gpu::symbol_address(sticky_status));
  const neighbor_cuda::Summary summary =
      neighbor_cuda::find_edges(input, max_edges, synchronise, memory, sticky,
                                out.row_ptr.template mutable_data_ptr<int64_t>(), allocate, stream);
  if (synchronise) {
    if (summary.status != neighbor_cuda::kNoProblem) explain(summary.status, c, batch, ptr, max_edges, stream);
    if (summary.sticky != neighbor_cuda::kNoProblem) {
      try {
        const int64_t index = static_cast<int64_t>(summary.sticky & ((1ull << 48) - 1));
        throw_problem(static_cast<Problem>(summary.sticky >> 48), index, index, -1);
      } catch (const std::invalid_argument& error) {
        bad_argument("an earlier neighbor_list with max_edges, which did not synchronise, failed: ", error.what());
      }
    }
    if (c.num_structures < 0) {
      check_dense(summary.last_structure, c.num_atoms);
      c.num_structures = summary.last_structure + 1;
    }
  }
  if (ptr.has_value()) {
    out.ptr = torch::stable::clone(*ptr);
  } else {
    out.ptr = empty({c.num_structures + 1}, ScalarType::Long, positions);
    launch.for_each(
        c.num_structures + 1, 0,
        StructureStart{data_or_null<int64_t>(batch), c.num_atoms, out.ptr.template mutable_data_ptr<int64_t>()});
  }
}

#endif

// -> edge_index (2, E), shifts (E, 3) or (0, 3) without a cell, row_ptr (N + 1), ptr (B + 1)
std::tuple<Tensor, Tensor, Tensor, Tensor> neighbor_list(const Tensor& positions, double cutoff,
                                                         const OptionalTensor& batch, const OptionalTensor& ptr,
                                                         const OptionalTensor& cell, const OptionalTensor& pbc,
                                                         int64_t pbc_mask, bool full, bool self_loops,
                                                         int64_t max_edges) {
  Checked c = check_input(positions, cutoff, batch, ptr, cell, pbc, max_edges);
  Edges out;
#if !defined(__CUDACC__)
  out.ptr = make_ptr(positions, batch, ptr, c.num_structures);
#endif
  dispatch_float(positions.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
#if defined(__CUDACC__)
    find_edges<T>(positions, c, cutoff, batch, ptr, cell, pbc, pbc_mask, full, self_loops, max_edges, out);
#else
    find_edges<T>(positions, c, cutoff, cell, pbc, pbc_mask, full, self_loops, max_edges, out);
#endif
  });
  return {out.edge_index, out.shifts, out.row_ptr, out.ptr};
}

}  // namespace

SYMKERN_OP(neighbor_list,
           "(Tensor positions, float cutoff, Tensor? batch, Tensor? ptr, Tensor? cell, Tensor? pbc, int pbc_mask, "
           "bool full, bool self_loops, int max_edges) -> (Tensor, Tensor, Tensor, Tensor)",
           neighbor_list)

}  // namespace symkern
