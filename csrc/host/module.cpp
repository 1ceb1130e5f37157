// symkern._host: the same core for NumPy users, without torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "core/isa.h"
#include "ops/neighbor_list_host.h"
#include "ops/stabilizers_host.h"

namespace py = pybind11;
namespace symkern {
namespace {

// Plain threads: the host module must not depend on which OpenMP runtime torch brings along.
void run_threads(int64_t begin, int64_t end, int64_t grain, Parallel::Body body, void* context, int threads) {
  const int64_t chunks = std::min<int64_t>(threads, (end - begin + grain - 1) / grain);
  const int64_t step = (end - begin + chunks - 1) / chunks;
  const auto run = [&](int64_t c) {
    const int64_t from = begin + c * step, to = std::min(end, from + step);
    if (from < to) body(from, to, context);
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<size_t>(chunks));
  int64_t started = 1;  // the first chunk is the caller's
  try {
    for (; started < chunks; ++started) pool.emplace_back(run, started);
  } catch (const std::system_error&) {
    // no more threads to be had: the caller does the rest
  }
  run(0);
  for (int64_t c = started; c < chunks; ++c) run(c);
  for (std::thread& t : pool) t.join();
}

thread_local int requested_threads = 1;

Parallel host_parallel(int threads) {
  requested_threads = threads;
  return Parallel([](int64_t begin, int64_t end, int64_t grain, Parallel::Body body,
                     void* context) { run_threads(begin, end, grain, body, context, requested_threads); },
                  threads);
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

py::tuple neighbor_list(const Array<double>& positions, double cutoff, const Array<int64_t>& ptr,
                        const std::optional<Array<double>>& cell, const std::optional<Array<bool>>& pbc, bool full,
                        bool self_loops, int threads) {
  const int64_t atoms = positions.shape(0), structures = ptr.shape(0) - 1;
  // symkern/host.py has checked and explained; this only keeps memory safe
  const int64_t* starts = ptr.data();
  if (structures < 0 || starts[0] != 0 || starts[structures] != atoms ||
      !std::is_sorted(starts, starts + structures + 1)) {
    throw std::invalid_argument("ptr must rise from 0 to the number of atoms");
  }
  const NeighborInput<double> input{positions.data(),
                                    atoms,
                                    ptr.data(),
                                    structures,
                                    cell ? cell->data() : nullptr,
                                    cell && cell->ndim() == 3,
                                    pbc ? pbc->data() : nullptr,
                                    pbc && pbc->ndim() == 2,
                                    7,
                                    cutoff,
                                    full,
                                    self_loops};
  Array<int64_t> row_ptr(atoms + 1), edge_index;
  Array<int32_t> shifts;
  int64_t* rows = row_ptr.mutable_data();
  const Parallel parallel = host_parallel(threads);
  {
    const py::gil_scoped_release release;
    NeighborListHost<double> search(input, parallel);
    search.run(rows, [&](int64_t found) {
      const py::gil_scoped_acquire acquire;
      edge_index = Array<int64_t>({int64_t{2}, found});
      shifts = Array<int32_t>({cell ? found : 0, int64_t{3}});
      int64_t* senders = edge_index.mutable_data();
      advise_huge_pages(senders, 2 * found * sizeof(int64_t));
      if (cell) advise_huge_pages(shifts.mutable_data(), 3 * found * sizeof(int32_t));
      return EdgeOutput{senders, senders + found, cell ? shifts.mutable_data() : nullptr};
    });
  }
  return py::make_tuple(edge_index, shifts, row_ptr);
}

// Everything of one batch, in the order of the torch op's outputs up to `ambiguous`.
py::tuple stabilizers(const Array<double>& positions, const Array<int64_t>& numbers, const Array<int64_t>& ptr,
                      double tolerance, int policy, int64_t samples, int threads) {
  const int64_t atoms = positions.shape(0), molecules = ptr.shape(0) - 1;
  // symkern/host.py has checked and explained; this only keeps memory safe
  const int64_t* starts = ptr.data();
  if (molecules < 0 || starts[0] != 0 || starts[molecules] != atoms || numbers.shape(0) != atoms ||
      !std::is_sorted(starts, starts + molecules + 1)) {
    throw std::invalid_argument("ptr must rise from 0 to the number of atoms");
  }
  const StabilizersInput input{positions.data(), true,   numbers.data(), starts, molecules,
                               tolerance,        policy, samples,        false};
  Array<int64_t> op_ptr(molecules + 1), orbits(atoms), order(molecules), group(molecules), rank(molecules);
  Array<double> centroid({molecules, int64_t{3}}), axis({molecules, int64_t{3}}), margin(molecules);
  Array<bool> closed(molecules), ambiguous(molecules);
  const StabilizersFixed<double> fixed{op_ptr.mutable_data(),   orbits.mutable_data(), order.mutable_data(),
                                       group.mutable_data(),    rank.mutable_data(),   centroid.mutable_data(),
                                       axis.mutable_data(),     margin.mutable_data(), closed.mutable_data(),
                                       ambiguous.mutable_data()};
  Array<double> operations, residuals;
  Array<int64_t> permutations, perm_ptr;
  const Parallel parallel = host_parallel(threads);
  {
    const py::gil_scoped_release release;
    find_stabilizers<double>(input, parallel, fixed, [&](int64_t count, int64_t entries) {
      const py::gil_scoped_acquire acquire;
      operations = Array<double>({count, int64_t{3}, int64_t{3}});
      residuals = Array<double>(count);
      permutations = Array<int64_t>(entries);
      perm_ptr = Array<int64_t>(count + 1);
      return StabilizersRagged<double>{operations.mutable_data(), residuals.mutable_data(), permutations.mutable_data(),
                                       perm_ptr.mutable_data()};
    });
  }
  return py::make_tuple(operations, op_ptr, permutations, perm_ptr, residuals, centroid, orbits, order, group, rank,
                        axis, closed, margin, ambiguous);
}

py::dict build_info() {
  py::dict info;
  info["version"] = SYMKERN_VERSION;
  info["compiler"] = __VERSION__;
  info["isa"] = isa_name(active_isa());
  info["isa_detected"] = isa_name(detect_isa());
  info["huge_pages"] = huge_pages_enabled();
  return info;
}

}  // namespace
}  // namespace symkern

PYBIND11_MODULE(_host, m) {
  m.doc() = "Torch-free host kernels of symkern; use symkern.host.";
  m.def("neighbor_list", &symkern::neighbor_list, py::arg("positions"), py::arg("cutoff"), py::arg("ptr"),
        py::arg("cell"), py::arg("pbc"), py::arg("full"), py::arg("self_loops"), py::arg("threads"));
  m.def("stabilizers", &symkern::stabilizers, py::arg("positions"), py::arg("numbers"), py::arg("ptr"),
        py::arg("tolerance"), py::arg("policy"), py::arg("samples"), py::arg("threads"));
  m.def("build_info", &symkern::build_info);
}
