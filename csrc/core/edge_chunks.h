// How the edges of a graph are shared out on the host: contiguous ranges of whole receivers, and how many depends on
// the graph alone. So what is summed at receivers has one owner, and all other sums (at senders, over all edges) are
// made per chunk and added up in the order of the chunks: threads never change a bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel.h"

namespace symkern {

constexpr int64_t kChunkEdges = 4096;  // at least, on average
constexpr int64_t kChunks = 64;        // at most

// A graph sorted by receiver: the edges of receiver i are row_ptr[i] .. row_ptr[i + 1], padding comes after the last.
struct EdgeGraph {
  int64_t atoms, edges;
  const int64_t *senders, *receivers, *row_ptr;
};

struct EdgeChunk {
  int64_t begin, end;   // edges
  int64_t first, last;  // receivers
  int64_t low, high;    // the window: atoms at either end of these edges, empty without edges

  int64_t rows() const { return high - low; }
};

// What is wrong with the indices of a chunk: the name of an argument, or null. Finds its window.
inline const char* look_at_edges(const EdgeGraph& graph, EdgeChunk& chunk) {
  int64_t low = graph.atoms, high = -1, wrong = 0;
  for (int64_t e = chunk.begin; e < chunk.end; ++e) {
    const int64_t j = graph.senders[e];
    low = j < low ? j : low, high = j > high ? j : high;
  }
  for (int64_t i = chunk.first; i < chunk.last; ++i) {
    for (int64_t e = graph.row_ptr[i]; e < graph.row_ptr[i + 1]; ++e) wrong |= graph.receivers[e] ^ i;
  }
  if (wrong != 0 || (chunk.begin < chunk.end && (low < 0 || high >= graph.atoms))) return "edge_index";
  chunk.low = chunk.high = 0;
  if (chunk.begin == chunk.end) return nullptr;
  chunk.low = std::min(low, graph.receivers[chunk.begin]);
  chunk.high = std::max(high, graph.receivers[chunk.end - 1]) + 1;
  return nullptr;
}

// The chunks of a graph, at least one. All indices are looked at; `bad` becomes the name of the argument that holds a
// wrong one, if any does.
inline std::vector<EdgeChunk> edge_chunks(const EdgeGraph& graph, const Parallel& parallel, const char*& bad) {
  const int64_t* ptr = graph.row_ptr;
  bad = ptr[0] != 0 || ptr[graph.atoms] > graph.edges ? "row_ptr" : nullptr;
  for (int64_t i = 0; i < graph.atoms; ++i) bad = ptr[i] > ptr[i + 1] ? "row_ptr" : bad;
  if (bad != nullptr) return {};
  const int64_t edges = ptr[graph.atoms], count = std::clamp<int64_t>(edges / kChunkEdges, 1, kChunks);
  std::vector<EdgeChunk> chunks(static_cast<size_t>(count));
  for (int64_t c = 0, first = 0; c < count; ++c) {
    EdgeChunk& chunk = chunks[static_cast<size_t>(c)];
    const int64_t last =
        c + 1 == count ? graph.atoms : std::lower_bound(ptr + first, ptr + graph.atoms, (c + 1) * edges / count) - ptr;
    chunk = {ptr[first], ptr[last], first, last, 0, 0};
    first = last;
  }
  std::vector<const char*> wrong(chunks.size(), nullptr);
  parallel(count, 2, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      wrong[static_cast<size_t>(c)] = look_at_edges(graph, chunks[static_cast<size_t>(c)]);
    }
  });
  for (const char* name : wrong) bad = bad == nullptr ? name : bad;
  if (bad != nullptr) return {};
  // edges between distant atoms make wide windows: then fewer chunks, so that memory stays in proportion to the atoms
  while (chunks.size() > 1) {
    int64_t rows = 0;
    for (const EdgeChunk& chunk : chunks) rows += chunk.rows();
    if (rows <= 4 * graph.atoms) break;
    size_t kept = 0;
    for (size_t c = 0; c < chunks.size(); c += 2, ++kept) {
      EdgeChunk merged = chunks[c];
      if (c + 1 < chunks.size()) {
        const EdgeChunk& next = chunks[c + 1];
        if (merged.rows() == 0) merged.low = next.low, merged.high = next.high;
        if (next.rows() > 0)
          merged.low = std::min(merged.low, next.low), merged.high = std::max(merged.high, next.high);
        merged.end = next.end, merged.last = next.last;
      }
      chunks[kept] = merged;
    }
    chunks.resize(kept);
  }
  return chunks;
}

}  // namespace symkern
