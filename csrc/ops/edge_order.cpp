// Two views of a receiver-sorted graph: edges by sender, and the reverse of each edge.
#include "core/macros.h"
#include "torch/graph.h"

namespace symkern {
namespace {

// ---- reverse: per atom, its row (sorted by sender, shift) against the edges it sends (sorted by receiver, shift)
// -------

struct ReverseEdge {
  const int64_t* senders;
  const int64_t* receivers;
  const int32_t* shifts;  // (E, 3), or nullptr: all zero
  const int64_t* row_ptr;
  const int64_t* sender_order;
  const int64_t* sender_ptr;
  GraphSize size;
  Guard guard;
  int64_t* out;

  // Sign of shift(a) + shift(b): zero if they are opposite.
  SYMKERN_HD int compare_opposite(int64_t a, int64_t b) const {
    for (int k = 0; shifts != nullptr && k < 3; ++k) {
      const int64_t sum = static_cast<int64_t>(shifts[3 * a + k]) + shifts[3 * b + k];
      if (sum != 0) return sum < 0 ? -1 : 1;
    }
    return 0;
  }

  SYMKERN_HD void operator()(int64_t atom) const {
    if (!guard.range(row_ptr[atom], row_ptr[atom + 1], size.edges, "row_ptr") ||
        !guard.range(sender_ptr[atom], sender_ptr[atom + 1], size.edges, "sender_ptr")) {
      return;
    }
    for (int64_t k = sender_ptr[atom]; k < sender_ptr[atom + 1]; ++k) {
      if (!guard.index(sender_order[k], size.edges, "sender_order")) return;
    }
    int64_t sent = sender_ptr[atom];
    const int64_t row_end = row_ptr[atom + 1], sent_end = sender_ptr[atom + 1];
    for (int64_t e = row_ptr[atom]; e < row_end;) {
      const int64_t other = senders[e];
      while (sent < sent_end && receivers[sender_order[sent]] < other) ++sent;
      int64_t block_end = sent;
      while (block_end < sent_end && receivers[sender_order[block_end]] == other) ++block_end;
      // shifts ascend along both; opposite ones are met by walking the second backwards
      int64_t back = block_end;
      for (; e < row_end && senders[e] == other; ++e) {
        int sign = 1;
        while (back > sent && (sign = compare_opposite(e, sender_order[back - 1])) > 0) --back;
        out[e] = back > sent && sign == 0 ? sender_order[--back] : -1;
      }
      sent = block_end;
    }
  }
};

struct NoReverse {
  const int64_t* row_ptr;
  int64_t num_atoms;
  int64_t* out;
  SYMKERN_HD void operator()(int64_t e) const {
    if (e >= row_ptr[num_atoms]) out[e] = -1;  // padding
  }
};

Tensor reverse_edges(const Tensor& edge_index, const OptionalTensor& shifts, const Tensor& row_ptr,
                     const Tensor& sender_order, const Tensor& sender_ptr) {
  const GraphSize size = check_graph(edge_index, shifts, row_ptr);
  check_index(sender_order, "sender_order", edge_index, size.edges);
  check_index(sender_ptr, "sender_ptr", edge_index, size.atoms + 1);
  const Tensor index = as_contiguous(edge_index), rows = as_contiguous(row_ptr), order = as_contiguous(sender_order),
               start = as_contiguous(sender_ptr);
  const OptionalTensor s = shifts.has_value() ? OptionalTensor(as_contiguous(*shifts)) : std::nullopt;
  const int64_t edges = size.edges, atoms = size.atoms;
  GraphGuard guard;
  Tensor out = empty({edges}, ScalarType::Long, index);
  const int64_t* senders = index.const_data_ptr<int64_t>();
  const Launch launch(index);
  launch.for_each(edges, 65536, NoReverse{rows.const_data_ptr<int64_t>(), atoms, out.mutable_data_ptr<int64_t>()});
  launch.for_each(atoms, 2048,
                  ReverseEdge{senders, senders + edges, data_or_null<int32_t>(s), rows.const_data_ptr<int64_t>(),
                              order.const_data_ptr<int64_t>(), start.const_data_ptr<int64_t>(), size, guard.guard(),
                              out.mutable_data_ptr<int64_t>()});
  guard.check();
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
  const GraphSize size = check_graph(edge_index, std::nullopt, row_ptr);
  const Tensor index = as_contiguous(edge_index), starts = as_contiguous(row_ptr);
  const int64_t edges = size.edges, atoms = size.atoms;
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
  if (real < 0 || real > edges) bad_argument("row_ptr must end within the ", edges, " edges, got ", real);
  for (int64_t i = 0; i <= atoms; ++i) begin[i] = 0;
  for (int64_t e = 0; e < real; ++e) {
    if (static_cast<uint64_t>(senders[e]) >= static_cast<uint64_t>(atoms)) {
      bad_argument("edge_index must lie in 0 .. ", atoms - 1, ", got sender ", senders[e], " of edge ", e);
    }
    ++begin[senders[e] + 1];
  }
  for (int64_t i = 0; i < atoms; ++i) begin[i + 1] += begin[i];
  std::vector<int64_t> next(begin, begin + atoms);
  for (int64_t e = 0; e < real; ++e) out[next[senders[e]]++] = e;
  for (int64_t e = real; e < edges; ++e) out[e] = e;
#endif
  return {order, start};
}

}  // namespace

SYMKERN_OP(reverse_edges,
           "(Tensor edge_index, Tensor? shifts, Tensor row_ptr, Tensor sender_order, Tensor sender_ptr) -> Tensor",
           reverse_edges)
SYMKERN_OP(sender_order, "(Tensor edge_index, Tensor row_ptr) -> (Tensor, Tensor)", sender_order)

}  // namespace symkern
