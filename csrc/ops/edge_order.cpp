// Two views of a receiver-sorted graph: edges by sender, and the reverse of each edge.
#include "core/macros.h"
#include "torch/shim.h"

namespace symkern {
namespace {

// ---- reverse: binary search in the sorted row of the sender
// -----------------------------------------------------------

struct ReverseEdge {
  const int64_t* senders;
  const int64_t* receivers;
  const int32_t* shifts;  // (E, 3), or nullptr: all zero
  const int64_t* row_ptr;
  int64_t num_atoms;
  int64_t* out;

  // Is (sender, shift) of edge e before (j, sign * shift of edge `other`)?
  SYMKERN_HD bool before(int64_t e, int64_t j, int64_t other, int sign) const {
    if (senders[e] != j) return senders[e] < j;
    if (shifts == nullptr) return false;
    for (int k = 0; k < 3; ++k) {
      const int32_t a = shifts[3 * e + k], b = sign * shifts[3 * other + k];
      if (a != b) return a < b;
    }
    return false;
  }
  SYMKERN_HD bool same(int64_t e, int64_t j, int64_t other, int sign) const {
    if (senders[e] != j) return false;
    for (int k = 0; shifts != nullptr && k < 3; ++k) {
      if (shifts[3 * e + k] != sign * shifts[3 * other + k]) return false;
    }
    return true;
  }
  // First edge of row i that is not before (j, sign * shift of `other`).
  SYMKERN_HD int64_t lower_bound(int64_t i, int64_t j, int64_t other, int sign) const {
    int64_t low = row_ptr[i], high = row_ptr[i + 1];
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (before(middle, j, other, sign)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  SYMKERN_HD void operator()(int64_t e) const {
    const int64_t i = receivers[e], j = senders[e];
    if (e >= row_ptr[num_atoms]) {  // padding
      out[e] = -1;
      return;
    }
    // Equal edges may occur more than once; the k-th of them is the reverse of the k-th.
    const int64_t k = e - lower_bound(i, j, e, 1);
    const int64_t other = lower_bound(j, i, e, -1) + k;
    out[e] = other < row_ptr[j + 1] && same(other, i, e, -1) ? other : -1;
  }
};

Tensor reverse_edges(const Tensor& edge_index, const OptionalTensor& shifts, const Tensor& row_ptr) {
  check_shape(edge_index, "edge_index", {2, -1}, "(2, E)");
  check_dtype(edge_index, "edge_index", ScalarType::Long);
  check_dtype(row_ptr, "row_ptr", ScalarType::Long);
  if (shifts.has_value()) check_dtype(*shifts, "shifts", ScalarType::Int);
  const Tensor index = as_contiguous(edge_index), starts = as_contiguous(row_ptr);
  const OptionalTensor s = shifts.has_value() ? OptionalTensor(as_contiguous(*shifts)) : std::nullopt;
  const int64_t edges = index.size(1);
  Tensor out = empty({edges}, ScalarType::Long, index);
  const int64_t* senders = index.const_data_ptr<int64_t>();
  const Launch launch(index);
  launch.for_each(edges, 2048,
                  ReverseEdge{senders, senders + edges, data_or_null<int32_t>(s), starts.const_data_ptr<int64_t>(),
                              row_ptr.size(0) - 1, out.mutable_data_ptr<int64_t>()});
  return out;
}

// ---- edges by sender: a stable counting sort on the host, a stable radix sort on the device
// ---------------------------

#if defined(__CUDACC__)

struct SenderKey {
  const int64_t* senders;
  const int64_t* row_ptr;
  int64_t num_atoms;
  uint32_t* key;
  int64_t* index;
  SYMKERN_HD void operator()(int64_t e) const {
    // padding sorts behind every atom
    key[e] = static_cast<uint32_t>(e < row_ptr[num_atoms] ? senders[e] : num_atoms);
    index[e] = e;
  }
};

struct SenderStart {
  const uint32_t* key;  // sorted
  int64_t num_edges;
  int64_t* sender_ptr;
  SYMKERN_HD void operator()(int64_t atom) const {
    int64_t low = 0, high = num_edges;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (key[middle] < atom) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    sender_ptr[atom] = low;
  }
};

#endif

std::tuple<Tensor, Tensor> sender_order(const Tensor& edge_index, const Tensor& row_ptr) {
  check_shape(edge_index, "edge_index", {2, -1}, "(2, E)");
  check_dtype(edge_index, "edge_index", ScalarType::Long);
  check_dtype(row_ptr, "row_ptr", ScalarType::Long);
  const Tensor index = as_contiguous(edge_index), starts = as_contiguous(row_ptr);
  const int64_t edges = index.size(1), atoms = row_ptr.size(0) - 1;
  Tensor order = empty({edges}, ScalarType::Long, index), start = empty({atoms + 1}, ScalarType::Long, index);
  const int64_t* senders = index.const_data_ptr<int64_t>();
  const int64_t* rows = starts.const_data_ptr<int64_t>();
  int64_t* out = order.mutable_data_ptr<int64_t>();
  int64_t* begin = start.mutable_data_ptr<int64_t>();
  const Launch launch(index);
#if defined(__CUDACC__)
  if (atoms >= INT64_C(0xffffffff)) bad_argument("row_ptr must describe fewer than 2^32 - 1 atoms, got ", atoms);
  Tensor keys = empty({2, edges}, ScalarType::Int, index), values = empty({edges}, ScalarType::Long, index);
  uint32_t* key = reinterpret_cast<uint32_t*>(keys.mutable_data_ptr<int32_t>());
  int64_t* value = values.mutable_data_ptr<int64_t>();
  launch.for_each(edges, 0, SenderKey{senders, rows, atoms, key, value});
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) <= atoms) ++bits;
  size_t bytes = 0;
  gpu::sort_pairs(nullptr, bytes, key, key + edges, value, out, edges, 0, bits, launch.stream());
  Tensor scratch = empty({static_cast<int64_t>(bytes)}, ScalarType::Byte, index);
  gpu::sort_pairs(scratch.mutable_data_ptr(), bytes, key, key + edges, value, out, edges, 0, bits, launch.stream());
  launch.for_each(atoms + 1, 0, SenderStart{key + edges, edges, begin});
#else
  const int64_t real = rows[atoms];
  for (int64_t i = 0; i <= atoms; ++i) begin[i] = 0;
  for (int64_t e = 0; e < real; ++e) ++begin[senders[e] + 1];
  for (int64_t i = 0; i < atoms; ++i) begin[i + 1] += begin[i];
  std::vector<int64_t> next(begin, begin + atoms);
  for (int64_t e = 0; e < real; ++e) out[next[senders[e]]++] = e;
  for (int64_t e = real; e < edges; ++e) out[e] = e;
#endif
  return {order, start};
}

}  // namespace

SYMKERN_OP(reverse_edges, "(Tensor edge_index, Tensor? shifts, Tensor row_ptr) -> Tensor", reverse_edges)
SYMKERN_OP(sender_order, "(Tensor edge_index, Tensor row_ptr) -> (Tensor, Tensor)", sender_order)

}  // namespace symkern
