// Symmetry operations of molecules. Decisions: stabilizers.h. Host schedule: stabilizers_host.h and
// stabilizers_simd.cpp. CUDA schedule: stabilizers_cuda.cuh.
#include "torch/shim.h"
#include "torch/structures.h"

#include <cmath>

#include "ops/stabilizers_host.h"
#if defined(__CUDACC__)
#include "ops/stabilizers_cuda.cuh"
#endif

namespace symkern {
namespace {

struct Found {
  Tensor operations, op_ptr, permutations, perm_ptr, residuals, centroid, orbits, order, group, rank, axis, closed,
      margin, ambiguous, ptr;
};

int64_t check_input(const Tensor& positions, const Tensor& numbers, const OptionalTensor& batch,
                    const OptionalTensor& ptr, double tolerance, int64_t policy, int64_t samples) {
  check_float(positions, "positions");
  check_shape(positions, "positions", {-1, 3}, "(N, 3)");
  check_dtype(numbers, "numbers", ScalarType::Long);
  check_same_device(numbers, "numbers", positions, "positions");
  const int64_t n = positions.size(0);
  if (numbers.dim() != 1 || numbers.size(0) != n) {
    bad_argument("numbers must have shape (N,) with N = ", n, ", got ", shape_of(numbers));
  }
  if (!(tolerance > 0) || !std::isfinite(tolerance)) {
    bad_argument("tolerance must be positive and finite, got ", tolerance);
  }
  if (tolerance < 1e-45 || tolerance > 1e45) bad_argument("tolerance must be 1e-45 .. 1e45, got ", tolerance);
  if (policy < 0 || policy > 2) bad_argument("policy must be 0 (closed), 1 (raw) or 2 (generate), got ", policy);
  if (samples < 0 || samples > 100'000) bad_argument("samples must be 0 .. 100000, got ", samples);
  const int64_t structures = check_structures(positions, batch, ptr);
  if (structures == 0 && n > 0) bad_argument("ptr describes no structure, but there are ", n, " atoms");
  return structures;
}

// What has a size that is known beforehand.
void allocate_fixed(const Tensor& positions, int64_t molecules, Found& out) {
  const ScalarType type = positions.scalar_type();
  out.op_ptr = empty({molecules + 1}, ScalarType::Long, positions);
  out.orbits = empty({positions.size(0)}, ScalarType::Long, positions);
  for (Tensor* t : {&out.order, &out.group, &out.rank}) *t = empty({molecules}, ScalarType::Long, positions);
  for (Tensor* t : {&out.closed, &out.ambiguous}) *t = empty({molecules}, ScalarType::Bool, positions);
  for (Tensor* t : {&out.centroid, &out.axis}) *t = empty({molecules, 3}, type, positions);
  out.margin = empty({molecules}, type, positions);
}

void allocate_ragged(const Tensor& positions, int64_t operations, int64_t entries, Found& out) {
  out.operations = empty({operations, 3, 3}, positions.scalar_type(), positions);
  out.residuals = empty({operations}, positions.scalar_type(), positions);
  out.permutations = empty({entries}, ScalarType::Long, positions);
  out.perm_ptr = empty({operations + 1}, ScalarType::Long, positions);
}

#if !defined(__CUDACC__)

template <class T>
void find(const Tensor& positions, const Tensor& numbers, const OptionalTensor& batch, const OptionalTensor& ptr,
          int64_t molecules, double tolerance, int64_t policy, int64_t samples, bool exhaustive, Found& out) {
  const Tensor x = as_contiguous(positions), z = as_contiguous(numbers);
  out.ptr = make_ptr(positions, batch, ptr, molecules);
  allocate_fixed(positions, molecules, out);
  const StabilizersInput input{x.const_data_ptr<T>(),
                               positions.scalar_type() == ScalarType::Double,
                               z.const_data_ptr<int64_t>(),
                               out.ptr.const_data_ptr<int64_t>(),
                               molecules,
                               tolerance,
                               static_cast<int>(policy),
                               samples,
                               exhaustive};
  const StabilizersFixed<T> fixed{
      out.op_ptr.template mutable_data_ptr<int64_t>(), out.orbits.template mutable_data_ptr<int64_t>(),
      out.order.template mutable_data_ptr<int64_t>(),  out.group.template mutable_data_ptr<int64_t>(),
      out.rank.template mutable_data_ptr<int64_t>(),   out.centroid.template mutable_data_ptr<T>(),
      out.axis.template mutable_data_ptr<T>(),         out.margin.template mutable_data_ptr<T>(),
      out.closed.template mutable_data_ptr<bool>(),    out.ambiguous.template mutable_data_ptr<bool>()};
  find_stabilizers<T>(input, torch_parallel(), fixed, [&](int64_t operations, int64_t entries) {
    allocate_ragged(positions, operations, entries, out);
    return StabilizersRagged<T>{
        out.operations.template mutable_data_ptr<T>(), out.residuals.template mutable_data_ptr<T>(),
        out.permutations.template mutable_data_ptr<int64_t>(), out.perm_ptr.template mutable_data_ptr<int64_t>()};
  });
}

#else

template <class T>
void find(const Tensor& positions, const Tensor& numbers, const OptionalTensor& batch, const OptionalTensor& ptr,
          int64_t molecules, double tolerance, int64_t policy, int64_t samples, bool exhaustive, Found& out) {
  namespace cuda = stabilizers_cuda;
  const Launch launch(positions);
  const Tensor x = as_contiguous(positions), z = as_contiguous(numbers);
  int64_t largest = 0;
  out.ptr = make_device_ptr(positions, batch, ptr, molecules, largest, launch);
  allocate_fixed(positions, molecules, out);
  const cuda::Input<T> input{x.const_data_ptr<T>(),
                             z.const_data_ptr<int64_t>(),
                             out.ptr.const_data_ptr<int64_t>(),
                             molecules,
                             tolerance,
                             static_cast<int>(policy),
                             samples,
                             exhaustive};
  cuda::Fixed<T> fixed{};
  fixed.orbits = out.orbits.template mutable_data_ptr<int64_t>();
  fixed.order = out.order.template mutable_data_ptr<int64_t>();
  fixed.group = out.group.template mutable_data_ptr<int64_t>();
  fixed.rank = out.rank.template mutable_data_ptr<int64_t>();
  fixed.centroid = out.centroid.template mutable_data_ptr<T>();
  fixed.axis = out.axis.template mutable_data_ptr<T>();
  fixed.margin = out.margin.template mutable_data_ptr<T>();
  fixed.closed = out.closed.template mutable_data_ptr<bool>();
  fixed.ambiguous = out.ambiguous.template mutable_data_ptr<bool>();
  std::vector<Tensor> scratch;
  const auto memory = [&](size_t bytes) {
    scratch.push_back(empty({static_cast<int64_t>(bytes)}, ScalarType::Byte, positions));
    return scratch.back().mutable_data_ptr();
  };
  const auto allocate = [&](int64_t operations, int64_t entries) {
    allocate_ragged(positions, operations, entries, out);
    cuda::Ragged<T> ragged{};
    ragged.operations = out.operations.template mutable_data_ptr<T>();
    ragged.residuals = out.residuals.template mutable_data_ptr<T>();
    ragged.permutations = out.permutations.template mutable_data_ptr<int64_t>();
    ragged.perm_ptr = out.perm_ptr.template mutable_data_ptr<int64_t>();
    return ragged;
  };
  int64_t* op_ptr = out.op_ptr.template mutable_data_ptr<int64_t>();
  const cuda::Summary found =
      cuda::find_stabilizers<cuda::kNone>(input, largest, fixed, op_ptr, memory, allocate, launch.stream());
  if (found.status == cuda::kNoProblem) return;
  const auto value_at = [&](const int64_t* p) {
    int64_t value = 0;
    gpu::copy_to_host(&value, p, sizeof(value), launch.stream());
    return value;
  };
  const auto molecule = static_cast<int64_t>(found.status / 8);
  const auto problem = static_cast<SymmetryProblem>(found.status % 8);
  const int64_t value = value_at(fixed.problem_value + molecule);
  if (problem != SymmetryProblem::not_finite && problem != SymmetryProblem::number) {
    throw_symmetry_problem(problem, molecule, value);
  }
  const int64_t atom = value_at(input.ptr + molecule) + value;
  throw_symmetry_problem(problem, atom, value_at(input.numbers + atom));
}

#endif

// `exhaustive` tests every candidate instead of inferring products: the same result, for tests of just that.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
           Tensor, Tensor>
stabilizers(const Tensor& positions, const Tensor& numbers, const OptionalTensor& batch, const OptionalTensor& ptr,
            double tolerance, int64_t policy, int64_t samples, bool exhaustive) {
  const int64_t molecules = check_input(positions, numbers, batch, ptr, tolerance, policy, samples);
  Found out;
  dispatch_float(positions.scalar_type(), [&](auto zero) {
    find<decltype(zero)>(positions, numbers, batch, ptr, molecules, tolerance, policy, samples, exhaustive, out);
  });
  return {out.operations, out.op_ptr, out.permutations, out.perm_ptr,  out.residuals,
          out.centroid,   out.orbits, out.order,        out.group,     out.rank,
          out.axis,       out.closed, out.margin,       out.ambiguous, out.ptr};
}

}  // namespace

SYMKERN_OP(stabilizers,
           "(Tensor positions, Tensor numbers, Tensor? batch, Tensor? ptr, float tolerance, int policy, int samples, "
           "bool exhaustive) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
           "Tensor, Tensor, Tensor, Tensor, Tensor)",
           stabilizers)

}  // namespace symkern
