// Canonical frames of molecules from their symmetry operations: canonical_frames.h, one molecule per call.
#include "ops/canonical_frames.h"

#include "core/macros.h"
#include "torch/shim.h"
#include "torch/graph.h"

namespace symkern {
namespace {

constexpr int64_t kPerAtom = 14, kPerOperation = 9;  // doubles of work space

template <class T>
struct CanonicalFrames {
  const T* positions;           // (N, 3)
  const int64_t* numbers;       // (N)
  const int64_t* ptr;           // (B + 1)
  const T* operations;          // (G, 3, 3)
  const int64_t* op_ptr;        // (B + 1)
  const int64_t* permutations;  // (P)
  const int64_t* perm_ptr;      // (G + 1)
  const int64_t* orbits;        // (N)
  const int64_t* rank;          // (B)
  const T* axis;                // (B, 3)
  bool proper;
  int64_t num_atoms, num_operations, num_entries;
  double window;
  double *atom_space, *operation_space;  // (N, kPerAtom), (G, kPerOperation)
  T* frames;                             // (B, 3, 3)
  T* gap;                                // (B)
  int64_t* orbit_rank;                   // (N), first used as a list
  Guard guard;

  SYMKERN_HD void operator()(int64_t b) const {
    frames::Frame frame{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    double gap_b = frames::infinity();
    if (!solve(b, frame, gap_b)) {
      frame = frames::undefined();
      gap_b = frame.x.x;
    }
    const Vec3 columns[3] = {frame.x, frame.y, frame.z};
    T* out = frames + 9 * b;
    for (int c = 0; c < 3; ++c) {
      out[c] = static_cast<T>(columns[c].x);
      out[3 + c] = static_cast<T>(columns[c].y);
      out[6 + c] = static_cast<T>(columns[c].z);
    }
    gap[b] = static_cast<T>(gap_b);
  }

  // False where the tensors contradict each other.
  SYMKERN_HD bool solve(int64_t b, frames::Frame& frame, double& gap_b) const {
    const int64_t begin = ptr[b], end = ptr[b + 1], first = op_ptr[b], last = op_ptr[b + 1], n = end - begin;
    if (!guard.range(begin, end, num_atoms, "ptr") || !guard.range(first, last, num_operations, "op_ptr")) return false;
    for (int64_t i = begin; i < end; ++i) orbit_rank[i] = 0;
    if (n == 0) return true;
    const int64_t entries = perm_ptr[first];
    if (first == last) return guard.fail("op_ptr");
    if (!guard.range(entries, entries + (last - first) * n, num_entries, "perm_ptr")) return false;
    for (int64_t e = entries; e < entries + (last - first) * n; ++e) {
      if (!guard.index(permutations[e] - begin, n, "permutations")) return false;
    }
    for (int64_t i = begin; i < end; ++i) {
      if (!guard.index(orbits[i] - begin, n, "orbits")) return false;
      if (orbits[orbits[i]] != orbits[i]) return guard.fail("orbits");
    }
    double* space = atom_space + kPerAtom * begin;
    Vec3* vectors = reinterpret_cast<Vec3*>(space);
    double* scalars = space + 9 * n;
    frames::Molecule mol{begin,
                         n,
                         last - first,
                         numbers + begin,
                         permutations + entries,
                         orbits + begin,
                         reinterpret_cast<Mat3*>(operation_space + kPerOperation * first),
                         vectors,
                         vectors + n,
                         vectors + 2 * n,
                         scalars,
                         scalars + n,
                         scalars + 2 * n,
                         scalars + 3 * n,
                         scalars + 4 * n,
                         orbit_rank + begin,
                         0,
                         0,
                         window,
                         proper,
                         true};
    center(mol);
    for (int64_t g = 0; g < mol.ops; ++g) {
      mol.operations[g] = load_mat3(operations + 9 * (first + g));
      mol.chiral = mol.chiral && frames::det(mol.operations[g]) > 0;
    }
    if (rank[b] >= 2) {
      frames::symmetrize(mol);
      frames::measure_orbits(mol);
      frame = frames::general_frame(mol, gap_b);
    } else if (rank[b] == 1) {
      frame = frames::linear_frame(mol, load_vec3(axis + 3 * b), gap_b);
      frames::measure_orbits(mol);
    } else {
      for (int64_t i = 0; i < n; ++i) mol.y[i] = mol.raw[i];
      frames::measure_orbits(mol);
    }
    frames::rank_orbits(mol, frame, orbit_rank + begin);
    return true;
  }

  SYMKERN_HD void center(frames::Molecule& mol) const {
    const int64_t n = mol.n;
    // about the first atom, so that molecules far from the origin lose nothing
    const Vec3 origin = load_vec3(positions + 3 * mol.begin);
    Vec3 sum{0, 0, 0};
    double electrons = 0;
    for (int64_t i = 0; i < n; ++i) {
      mol.raw[i] = load_vec3(positions + 3 * (mol.begin + i)) - origin;
      sum = sum + mol.raw[i];
      electrons += mol.number(i);
    }
    const Vec3 mean = (1 / static_cast<double>(n)) * sum;
    for (int64_t i = 0; i < n; ++i) {
      mol.raw[i] = mol.raw[i] - mean;
      mol.r_max = fmax(mol.r_max, frames::norm(mol.raw[i]));
    }
    mol.weight = sqrt(electrons);
  }
};

void check_length(const Tensor& t, const char* name, const char* expected, int64_t length, const Tensor& like) {
  check_shape(t, name, {length}, expected);
  check_dtype(t, name, ScalarType::Long);
  check_same_device(t, name, like, "positions");
}

std::tuple<Tensor, Tensor, Tensor> canonical_frames(const Tensor& positions, const Tensor& numbers, const Tensor& ptr,
                                                    const Tensor& operations, const Tensor& op_ptr,
                                                    const Tensor& permutations, const Tensor& perm_ptr,
                                                    const Tensor& orbits, const Tensor& rank, const Tensor& axis,
                                                    bool proper) {
  check_shape(positions, "positions", {-1, 3}, "(N, 3)");
  check_float(positions, "positions");
  check_shape(ptr, "ptr", {-1}, "(B + 1,)");
  if (ptr.size(0) < 1) bad_argument("ptr must have shape (B + 1,) with at least one element, got (0,)");
  check_shape(operations, "operations", {-1, 3, 3}, "(G, 3, 3)");
  const int64_t atoms = positions.size(0), molecules = ptr.size(0) - 1, ops = operations.size(0);
  check_length(ptr, "ptr", "(B + 1,)", molecules + 1, positions);
  check_length(numbers, "numbers", "(N,)", atoms, positions);
  check_length(op_ptr, "op_ptr", "(B + 1,)", molecules + 1, positions);
  check_length(permutations, "permutations", "(P,)", -1, positions);
  check_length(perm_ptr, "perm_ptr", "(G + 1,)", ops + 1, positions);
  check_length(orbits, "orbits", "(N,)", atoms, positions);
  check_length(rank, "rank", "(B,)", molecules, positions);
  check_shape(axis, "axis", {molecules, 3}, "(B, 3)");
  for (const auto& [t, name] : {std::pair{&operations, "operations"}, std::pair{&axis, "axis"}}) {
    check_dtype(*t, name, positions.scalar_type());
    check_same_device(*t, name, positions, "positions");
  }
  const Tensor x = as_contiguous(positions), z = as_contiguous(numbers), starts = as_contiguous(ptr),
               matrices = as_contiguous(operations), first = as_contiguous(op_ptr),
               images = as_contiguous(permutations), image_ptr = as_contiguous(perm_ptr), orbit = as_contiguous(orbits),
               ranks = as_contiguous(rank), axes = as_contiguous(axis);
  Tensor frames = empty({molecules, 3, 3}, x.scalar_type(), x), gap = empty({molecules}, x.scalar_type(), x);
  Tensor orbit_rank = empty({atoms}, ScalarType::Long, x);
  Tensor atom_space = empty({atoms, kPerAtom}, ScalarType::Double, x);
  Tensor operation_space = empty({ops, kPerOperation}, ScalarType::Double, x);
  GraphGuard graph;
  const Launch launch(x);
  dispatch_float(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    // far beyond rounding, far below what positions mean
    const double window = sizeof(T) == 8 ? 1e-9 : 2e-5;
    launch.for_each(molecules, 16,
                    CanonicalFrames<T>{x.const_data_ptr<T>(),
                                       z.const_data_ptr<int64_t>(),
                                       starts.const_data_ptr<int64_t>(),
                                       matrices.const_data_ptr<T>(),
                                       first.const_data_ptr<int64_t>(),
                                       images.const_data_ptr<int64_t>(),
                                       image_ptr.const_data_ptr<int64_t>(),
                                       orbit.const_data_ptr<int64_t>(),
                                       ranks.const_data_ptr<int64_t>(),
                                       axes.const_data_ptr<T>(),
                                       proper,
                                       atoms,
                                       ops,
                                       images.size(0),
                                       window,
                                       atom_space.mutable_data_ptr<double>(),
                                       operation_space.mutable_data_ptr<double>(),
                                       frames.mutable_data_ptr<T>(),
                                       gap.mutable_data_ptr<T>(),
                                       orbit_rank.mutable_data_ptr<int64_t>(),
                                       graph.guard()});
  });
  graph.check();
  return {frames, gap, orbit_rank};
}

}  // namespace

SYMKERN_OP(canonical_frames,
           "(Tensor positions, Tensor numbers, Tensor ptr, Tensor operations, Tensor op_ptr, Tensor permutations, "
           "Tensor perm_ptr, Tensor orbits, Tensor rank, Tensor axis, bool proper) -> (Tensor, Tensor, Tensor)",
           canonical_frames)

}  // namespace symkern
