// The two neighbors that span the local frame of each node, as edges of its row.
#include "ops/nearest_tie.h"
#include "torch/graph.h"

namespace symkern {
namespace {

template <class T>
struct References {
  const T* positions;
  const int64_t* senders;
  const int64_t* row_ptr;
  GraphSize size;
  double tie;
  Guard guard;
  int64_t* out;  // (N, 2)

  // The nearest sender of the row that lies off the line through the origin of `along`, if that is given.
  SYMKERN_HD int64_t nearest(int64_t i, const Vec3* along) const {
    const Vec3 here = load_vec3(positions + 3 * i);
    const int64_t begin = row_ptr[i];
    const int64_t k = nearest_with_ties(row_ptr[i + 1] - begin, tie, [&](int64_t k, double* key) {
      const int64_t j = senders[begin + k];
      if (j == i || !guard.index(j, size.atoms, "edge_index")) return false;
      const Vec3 there = load_vec3(positions + 3 * j), d = there - here;
      Vec3 away = d;
      if (along != nullptr) away = (1 / sqrt(dot(*along, *along))) * cross(*along, d);
      if (!(dot(away, away) > tie * tie)) return false;  // in one place with i, or on the line
      key[0] = sqrt(dot(d, d)), key[1] = there.x, key[2] = there.y, key[3] = there.z;
      return true;
    });
    return k < 0 ? -1 : begin + k;
  }

  SYMKERN_HD void operator()(int64_t i) const {
    out[2 * i] = out[2 * i + 1] = -1;
    if (!guard.range(row_ptr[i], row_ptr[i + 1], size.edges, "row_ptr")) return;
    const int64_t first = nearest(i, nullptr);
    if (first < 0) return;
    const Vec3 along = load_vec3(positions + 3 * senders[first]) - load_vec3(positions + 3 * i);
    const int64_t second = nearest(i, &along);
    if (second < 0) return;
    out[2 * i] = first, out[2 * i + 1] = second;
  }
};

Tensor reference_neighbors(const Tensor& positions, const Tensor& edge_index, const Tensor& row_ptr, double tie) {
  const GraphSize size = check_graph(edge_index, std::nullopt, row_ptr);
  check_float(positions, "positions");
  check_same_device(positions, "positions", edge_index, "edge_index");
  if (positions.dim() != 2 || positions.size(0) != size.atoms || positions.size(1) != 3) {
    bad_argument("positions must have shape (N, 3) with N = ", size.atoms, ", got ", shape_of(positions));
  }
  if (!(tie >= 0 && tie < 1e300)) bad_argument("tie must be finite and not negative, got ", tie);
  const Tensor x = as_contiguous(positions), index = as_contiguous(edge_index), rows = as_contiguous(row_ptr);
  Tensor out = empty({size.atoms, 2}, ScalarType::Long, x);
  GraphGuard guard;
  const Launch launch(x);
  dispatch_float(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(
        size.atoms, 32,
        References<T>{x.const_data_ptr<T>(), index.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>(), size, tie,
                      guard.guard(), out.mutable_data_ptr<int64_t>()});
  });
  guard.check();
  return out;
}

// ---- representatives of classes of atoms ----------------------------------------------------------------------------

// One structure: class after class, the atom nearest to the representatives that are chosen already.
template <class T>
struct Representatives {
  const T* positions;
  const int64_t* members;    // (N) atoms, class by class
  const int64_t* class_ptr;  // (O + 1)
  const int64_t* ptr;        // (B + 1)
  int64_t atoms, classes;
  double tie;
  Guard guard;
  double* reach;  // (N) distance of each member from the representatives so far
  int64_t* out;   // (O)

  SYMKERN_HD void operator()(int64_t b) const {
    const int64_t first = ptr[b], last = ptr[b + 1];
    if (!guard.range(first, last, classes, "ptr")) return;
    for (int64_t c = first; c < last; ++c) {
      out[c] = 0;
      if (!guard.range(class_ptr[c], class_ptr[c + 1], atoms, "class_ptr")) return;
      for (int64_t m = class_ptr[c]; m < class_ptr[c + 1]; ++m) {
        if (!guard.index(members[m], atoms, "members")) return;
        reach[m] = c == first ? 0 : INFINITY;
      }
    }
    for (int64_t c = first; c < last; ++c) {
      const int64_t begin = class_ptr[c],
                    k = nearest_with_ties(class_ptr[c + 1] - begin, tie, [&](int64_t k, double* key) {
                      const Vec3 x = load_vec3(positions + 3 * members[begin + k]);
                      key[0] = reach[begin + k], key[1] = x.x, key[2] = x.y, key[3] = x.z;
                      return true;
                    });
      if (k < 0) {  // an empty class, or a position that is not a number
        guard.fail("class_ptr (or positions that are not finite)");
        continue;
      }
      out[c] = members[begin + k];
      const Vec3 chosen = load_vec3(positions + 3 * out[c]);
      for (int64_t m = class_ptr[c + 1]; m < class_ptr[last]; ++m) {
        const Vec3 d = load_vec3(positions + 3 * members[m]) - chosen;
        const double distance = sqrt(dot(d, d));
        if (distance < reach[m]) reach[m] = distance;
      }
    }
  }
};

Tensor class_representatives(const Tensor& positions, const Tensor& members, const Tensor& class_ptr, const Tensor& ptr,
                             double tie) {
  check_float(positions, "positions");
  check_shape(positions, "positions", {-1, 3}, "(N, 3)");
  const int64_t atoms = positions.size(0);
  check_index(members, "members", positions, atoms);
  if (class_ptr.dim() != 1 || class_ptr.size(0) < 1 || ptr.dim() != 1 || ptr.size(0) < 1) {
    bad_argument("class_ptr and ptr must have shapes (O + 1,) and (B + 1,), got ", shape_of(class_ptr), " and ",
                 shape_of(ptr));
  }
  check_index(class_ptr, "class_ptr", positions, class_ptr.size(0));
  check_index(ptr, "ptr", positions, ptr.size(0));
  if (!(tie >= 0 && tie < 1e300)) bad_argument("tie must be finite and not negative, got ", tie);
  const Tensor x = as_contiguous(positions), m = as_contiguous(members), c = as_contiguous(class_ptr),
               p = as_contiguous(ptr);
  const int64_t classes = c.size(0) - 1;
  Tensor reach = empty({atoms}, ScalarType::Double, x), out = empty({classes}, ScalarType::Long, x);
  GraphGuard guard;
  const Launch launch(x);
  dispatch_float(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(p.size(0) - 1, 16,
                    Representatives<T>{x.const_data_ptr<T>(), m.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>(),
                                       p.const_data_ptr<int64_t>(), atoms, classes, tie, guard.guard(),
                                       reach.mutable_data_ptr<double>(), out.mutable_data_ptr<int64_t>()});
  });
  guard.check();
  return out;
}

}  // namespace

SYMKERN_OP(reference_neighbors, "(Tensor positions, Tensor edge_index, Tensor row_ptr, float tie) -> Tensor",
           reference_neighbors)
SYMKERN_OP(class_representatives,
           "(Tensor positions, Tensor members, Tensor class_ptr, Tensor ptr, float tie) -> Tensor",
           class_representatives)

}  // namespace symkern
