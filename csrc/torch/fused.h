// What the host side of fused message passing shares: chunks of edges that run in parallel, and the sums that cross
// them. See core/edge_chunks.h.
#pragma once

#include <cstring>
#include <numeric>

#include "core/edge_chunks.h"
#include "core/tile.h"
#include "core/workspace.h"
#include "torch/graph.h"

namespace symkern {

// The graph of a fused op, with all that its passes need of it.
struct FusedGraph {
  Tensor edge_index, row_ptr;
  GraphSize size;

  FusedGraph(const Tensor& index, const Tensor& ptr)
      : edge_index(as_contiguous(index)), row_ptr(as_contiguous(ptr)), size(check_graph(index, std::nullopt, ptr)) {}

  const int64_t* senders() const { return edge_index.const_data_ptr<int64_t>(); }
  const int64_t* receivers() const { return senders() + size.edges; }
  const int64_t* starts() const { return row_ptr.const_data_ptr<int64_t>(); }
};

// As the passes want a float argument: contiguous, and on CUDA, where four numbers are loaded at once, aligned to that.
inline Tensor as_rows(const Tensor& t) {
  const Tensor rows = as_contiguous(t);
#if defined(__CUDACC__)
  if (reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 != 0) return torch::stable::clone(rows);
#endif
  return rows;
}

// A float argument of a fused op: on the device of the first, of its dtype, contiguous.
inline Tensor fused_argument(const Tensor& t, const char* name, const Tensor& like, const char* like_name,
                             std::initializer_list<int64_t> shape) {
  check_dtype(t, name, like.scalar_type());
  check_same_device(t, name, like, like_name);
  std::ostringstream expected;
  expected << '(';
  for (const int64_t* s = shape.begin(); s != shape.end(); ++s) expected << (s == shape.begin() ? "" : ", ") << *s;
  check_shape(t, name, shape, (expected.str() + (shape.size() == 1 ? ",)" : ")")).c_str());
  return as_rows(t);
}

inline OptionalTensor fused_argument(const OptionalTensor& t, const char* name, const Tensor& like,
                                     const char* like_name, std::initializer_list<int64_t> shape) {
  if (!t.has_value()) return std::nullopt;
  return fused_argument(*t, name, like, like_name, shape);
}

// A result that may not be asked for: it is then empty, and `data` null.
struct FusedResult {
  Tensor tensor;
  bool asked;

  FusedResult(bool ask, std::initializer_list<int64_t> shape, const Tensor& like)
      : tensor(ask ? empty(shape, like.scalar_type(), like) : empty({0}, like.scalar_type(), like)), asked(ask) {}
  template <class S>
  S* data() const {
    return asked ? tensor.mutable_data_ptr<S>() : nullptr;
  }
};

#if defined(__CUDACC__)

// Memory that lives as long as the call; the allocator gives it to nobody else before the kernels are done.
class FusedMemory {
 public:
  explicit FusedMemory(const Tensor& like) : like_(like) {}
  void* operator()(int64_t bytes) {
    held_.push_back(empty({bytes}, ScalarType::Byte, like_));
    return held_.back().mutable_data_ptr();
  }

 private:
  Tensor like_;
  std::vector<Tensor> held_;
};

#else

// The chunks of a call.
class FusedChunks {
 public:
  FusedChunks(const FusedGraph& graph, const Launch& launch) : parallel_(launch.parallel()), atoms_(graph.size.atoms) {
    const char* bad = nullptr;
    chunks_ =
        edge_chunks({atoms_, graph.size.edges, graph.senders(), graph.receivers(), graph.starts()}, parallel_, bad);
    if (bad != nullptr) bad_argument(bad, " holds an index out of range: the graph is not consistent");
  }

  int64_t count() const { return static_cast<int64_t>(chunks_.size()); }
  int64_t atoms() const { return atoms_; }
  int64_t edges() const { return chunks_.back().end; }  // without padding
  const EdgeChunk& operator[](int64_t c) const { return chunks_[static_cast<size_t>(c)]; }
  const Parallel& parallel() const { return parallel_; }

  // f(chunk, scratch) for c = 0, 1, ... in parallel, with room for `room` numbers aligned to 64 bytes.
  template <class S, class F>
  void run(int64_t room, const F& f) const {
    parallel_(count(), 1, [&](int64_t begin, int64_t end) {
      Arena arena;
      S* scratch = arena.allocate<S>(static_cast<size_t>(room) + 16);
      scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64 / sizeof(S);
      for (int64_t c = begin; c < end; ++c) f(c, scratch);
    });
  }

  // Zeroes the rows of a chunk's receivers in an output per atom, which no other chunk writes.
  template <class S>
  void clear_receivers(int64_t c, S* out, int64_t width) const {
    if (out == nullptr) return;
    const EdgeChunk& chunk = (*this)[c];
    std::memset(out + chunk.first * width, 0, static_cast<size_t>((chunk.last - chunk.first) * width) * sizeof(S));
  }

 private:
  Parallel parallel_;
  int64_t atoms_;
  std::vector<EdgeChunk> chunks_;
};

// Rows per atom that edges of any chunk add to: each chunk has a window of its own; a single one is the output itself.
template <class S>
class AtomSums {
 public:
  // out (atoms, width), or null where the sums are not asked for
  AtomSums(const FusedChunks& chunks, int64_t width, S* out) : chunks_(chunks), width_(width), out_(out) {
    if (out == nullptr || chunks.count() == 1) return;
    starts_.push_back(0);
    for (int64_t c = 0; c < chunks.count(); ++c) starts_.push_back(starts_.back() + chunks[c].rows() * width);
    windows_ = arena_.allocate<S>(static_cast<size_t>(starts_.back()));
  }

  // For the one who works on chunk c, first of all: zeroes its window. Where the row of atom 0 is, or would be.
  S* begin(int64_t c) const {
    if (out_ == nullptr) return nullptr;
    const EdgeChunk& chunk = chunks_[c];
    if (chunks_.count() == 1) {
      std::memset(out_, 0, static_cast<size_t>(chunks_.atoms() * width_) * sizeof(S));
      return out_;
    }
    S* window = windows_ + starts_[static_cast<size_t>(c)];
    std::memset(window, 0, static_cast<size_t>(chunk.rows() * width_) * sizeof(S));
    return window - chunk.low * width_;
  }

  // After all chunks.
  void finish() const {
    if (out_ == nullptr || chunks_.count() == 1) return;
    chunks_.parallel()(chunks_.atoms(), std::max<int64_t>(1, 65536 / (width_ + 1)), [&](int64_t begin, int64_t end) {
      std::memset(out_ + begin * width_, 0, static_cast<size_t>((end - begin) * width_) * sizeof(S));
      for (int64_t c = 0; c < chunks_.count(); ++c) {
        const EdgeChunk& chunk = chunks_[c];
        const int64_t low = std::max(begin, chunk.low), high = std::min(end, chunk.high);
        if (low >= high) continue;
        const S* from = windows_ + starts_[static_cast<size_t>(c)] + (low - chunk.low) * width_;
        S* to = out_ + low * width_;
        for (int64_t k = 0; k < (high - low) * width_; ++k) to[k] += from[k];
      }
    });
  }

 private:
  const FusedChunks& chunks_;
  int64_t width_;
  S* out_;
  S* windows_ = nullptr;
  std::vector<int64_t> starts_;
  Arena arena_;
};

// Sums over all edges, such as gradients of weights: a set per chunk.
template <class S>
class WeightSums {
 public:
  explicit WeightSums(const FusedChunks& chunks) : chunks_(chunks) {}

  // `out` (rows, columns), or null where the sums are not asked for. Chunks have it transposed if `transposed`.
  // Returns the number that stands for it in at().
  int add(S* out, int64_t rows, int64_t columns, bool transposed = false) {
    slots_.push_back({out, rows, columns, transposed, size_});
    if (out != nullptr) size_ += (rows * columns + 15) / 16 * 16;
    return static_cast<int>(slots_.size()) - 1;
  }

  // After the last add(). `folded`: a chunk is summed in short stretches, each ended by fold(). Rounding then grows
  // with the root of a stretch and of their number, and no longer with that of their product.
  void allocate(bool folded = false) {
    const int64_t all = size_ * chunks_.count();
    sums_ = arena_.allocate<S>(static_cast<size_t>(folded ? 2 * all : all));
    now_ = folded ? sums_ + all : sums_;
  }

  // For the one who works on chunk c, first of all.
  void begin(int64_t c) const {
    for (S* set : {sums_, now_}) std::memset(set + c * size_, 0, static_cast<size_t>(size_) * sizeof(S));
  }
  S* at(int64_t c, int slot) const {
    const Slot& s = slots_[static_cast<size_t>(slot)];
    return s.out == nullptr ? nullptr : now_ + c * size_ + s.start;
  }

  // Ends a stretch of chunk c.
  void fold(int64_t c) const {
    S *to = sums_ + c * size_, *from = now_ + c * size_;
    for (int64_t i = 0; i < size_; ++i) to[i] += from[i], from[i] = 0;
  }

  // After all chunks.
  void finish() const {
    for (const Slot& s : slots_) {
      if (s.out == nullptr) continue;
      chunks_.parallel()(s.rows * s.columns, 16384, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t from = s.transposed ? i % s.columns * s.rows + i / s.columns : i;
          double sum = 0;
          for (int64_t c = 0; c < chunks_.count(); ++c) sum += sums_[c * size_ + s.start + from];
          s.out[i] = static_cast<S>(sum);
        }
      });
    }
  }

 private:
  struct Slot {
    S* out;
    int64_t rows, columns;
    bool transposed;
    int64_t start;
  };
  const FusedChunks& chunks_;
  std::vector<Slot> slots_;
  int64_t size_ = 0;
  S *sums_ = nullptr, *now_ = nullptr;
  Arena arena_;
};

// Weights of nn.Linear (outputs, inputs) as right sides of products, in the layout of an instruction set's Block.
template <class S>
class PackedWeights {
 public:
  using Pack = void (*)(const S* from, int64_t row_stride, int64_t column_stride, int k, int n, S* to);
  explicit PackedWeights(Pack pack) : pack_(pack) {}

  // rows (n, inputs) -> (n, outputs), and the transpose of that; null for null. Columns are padded to 16 with zeros.
  TileWeight<S> operator()(const S* weight, int64_t outputs, int64_t inputs) {
    return make(weight, 1, inputs, inputs, outputs);
  }
  TileWeight<S> transposed(const S* weight, int64_t outputs, int64_t inputs) {
    return make(weight, inputs, 1, outputs, inputs);
  }

  // The plain transpose (inputs, outputs).
  const S* rows(const S* weight, int64_t outputs, int64_t inputs) {
    S* to = arena_.allocate<S>(static_cast<size_t>(inputs * outputs));
    for (int64_t i = 0; i < inputs * outputs; ++i) to[i] = weight[i % outputs * inputs + i / outputs];
    return to;
  }

 private:
  TileWeight<S> make(const S* from, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n) {
    if (from == nullptr && k > 0) return {nullptr, 0, 0};  // weights of no inputs are null too
    const int64_t padded = (n + 15) / 16 * 16;
    if (padded != n) {
      S* copy = arena_.allocate<S>(static_cast<size_t>(k * padded));
      for (int64_t r = 0; r < k; ++r) {
        for (int64_t c = 0; c < padded; ++c) {
          copy[r * padded + c] = c < n ? from[r * row_stride + c * column_stride] : S(0);
        }
      }
      from = copy, row_stride = padded, column_stride = 1;
    }
    S* to = arena_.allocate<S>(static_cast<size_t>(k * padded));
    pack_(from, row_stride, column_stride, static_cast<int>(k), static_cast<int>(padded), to);
    return {to, static_cast<int>(k), static_cast<int>(padded)};
  }

  Pack pack_;
  Arena arena_;
};

#endif

}  // namespace symkern
