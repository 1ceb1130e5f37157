// Large clouds: targets sorted along a Z-order curve within their structure and type, and boxes around every 32 of
// them, every 32 boxes, and so on. A warp takes 32 queries that are neighbors on the same curve through the tree.
//
// The curve has 42 bits per axis, so clusters, surfaces and outliers up to 10^10 times their spacing away still come
// out in the order of a fine grid; many equal points are one box. The worst case, targets all at the same distance of
// the queries, is all pairs. A first walk finds the smallest filtered distance, a second one the index.
#pragma once

#include "ops/chamfer_curve_cuda.cuh"

namespace symkern::nearest_cuda {

constexpr int kFan = 32;
constexpr int kLevels = 7;  // 32^7 > 2^31 targets
constexpr int64_t kTreePoints = int64_t{1} << 31;

// ---- boxes ----------------------------------------------------------------------------------------------------------

template <class T>
struct Box {
  T low[3], high[3];
};

// The least that filter_sq finds for points of the two boxes: its roundings are monotonic.
template <class T>
SYMKERN_DEVICE T gap_sq(const Box<T>& a, const Box<T>& b) {
  T d[3];
  for (int k = 0; k < 3; ++k) d[k] = fmax(fmax(b.low[k] - a.high[k], a.low[k] - b.high[k]), T(0));
  return filter_sq(d[0], d[1], d[2]);
}

// The same for the definition.
template <class T>
SYMKERN_DEVICE double exact_gap_sq(const Point<T>& x, const Box<T>& b) {
  const double at[3] = {x.x, x.y, x.z};
  double d[3];
  for (int k = 0; k < 3; ++k) d[k] = fmax(fmax(double{b.low[k]} - at[k], at[k] - double{b.high[k]}), 0.0);
  return distance_sq(d[0], d[1], d[2]);
}

template <class T>
struct Level {
  T* sides;        // (6, nodes) low x y z, high x y z
  int32_t* first;  // (nodes) smallest row of a target
  int64_t nodes;

  SYMKERN_DEVICE Box<T> box(int64_t node) const {
    Box<T> b;
    for (int k = 0; k < 3; ++k) b.low[k] = sides[k * nodes + node], b.high[k] = sides[(k + 3) * nodes + node];
    return b;
  }
};

template <class T>
struct Tree {
  const Point<T>* points;  // sorted, with their rows
  int64_t count;
  Level<T> level[kLevels];  // of leaves first
  int levels;
};

// The box of what the lanes hold, by one warp.
template <class T>
SYMKERN_DEVICE void write_node(const Level<T>& level, int64_t node, Box<T> box, int32_t first) {
  for (int k = 0; k < 3; ++k) {
    box.low[k] = gpu::warp_min(box.low[k]), box.high[k] = gpu::warp_max(box.high[k]);
    if (gpu::lane() == 0) level.sides[k * level.nodes + node] = box.low[k];
    if (gpu::lane() == 0) level.sides[(k + 3) * level.nodes + node] = box.high[k];
  }
  first = gpu::reduce_min(gpu::full_mask, first);
  if (gpu::lane() == 0) level.first[node] = first;
}

template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads)
    build_leaves(NearestProblem<T> p, const int32_t* order, Point<T>* points, Level<T> leaves) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t node = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + gpu::warp(); node < leaves.nodes;
       node += warps) {
    const int64_t k = kFan * node + gpu::lane();
    Point<T> y = no_point<T>();
    y.id = kLargest<int32_t>;
    if (k < p.ys.rows) {
      y = load_point(p.y, order[k]);
      y.id = order[k];
      points[k] = y;
    }
    write_node(leaves, node, {{y.x, y.y, y.z}, {y.x, y.y, y.z}}, static_cast<int32_t>(y.id));
  }
}

template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads) build_level(Level<T> below, Level<T> level) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t node = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + gpu::warp(); node < level.nodes;
       node += warps) {
    const int64_t k = kFan * node + gpu::lane();
    Box<T> box{{kNaN<T>, kNaN<T>, kNaN<T>}, {kNaN<T>, kNaN<T>, kNaN<T>}};
    int32_t first = kLargest<int32_t>;
    if (k < below.nodes) box = below.box(k), first = below.first[k];
    write_node(level, node, box, first);
  }
}

// ---- search ---------------------------------------------------------------------------------------------------------

// First place in [low, high) of a type that is not less (or greater, with `above`), in the order of sort_points.
template <class T>
SYMKERN_DEVICE int64_t type_bound(const NearestProblem<T>& p, const Point<T>* points, int64_t low, int64_t high,
                                  int64_t type, bool above) {
  const uint64_t key = static_cast<uint64_t>(type);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const uint64_t here = static_cast<uint64_t>(p.y_type[points[middle].id]);
    if (here < key || (above && here == key)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// GROUPED: there are types or several structures.
template <class T, bool GROUPED>
struct Query {
  Point<T> x;
  int64_t begin, end;  // its targets in the tree
  T smallest, limit;
  Nearest best;

  SYMKERN_DEVICE bool covers(int64_t place) const { return place >= begin && place < end; }

  // Whether the walk has to look into a node.
  template <bool EXACT>
  SYMKERN_DEVICE bool wants(const Level<T>& level, int64_t node, const Box<T>& box, int64_t from, int64_t to) const {
    if (begin >= to || end <= from) return false;
    const T gap = gap_sq({{x.x, x.y, x.z}, {x.x, x.y, x.z}}, box);
    if constexpr (!EXACT) return gap < smallest;
    if (gap > limit) return false;
    return best.loses_to(exact_gap_sq(x, box), level.first[node]);
  }

  template <bool EXACT>
  SYMKERN_DEVICE void look(const Point<T>* leaf, int64_t from) {
    if constexpr (EXACT) {
      SYMKERN_UNROLL_BY(4)
      for (int k = 0; k < kFan; ++k) {
        if (covers(from + k) && !(filter_sq(x, leaf[k]) > limit)) best.offer(exact_sq(x, leaf[k]), leaf[k].id);
      }
    } else {
      SYMKERN_UNROLL_BY(8)
      for (int k = 0; k < kFan; ++k) {
        const T d = filter_sq(x, leaf[k]);
        if (!GROUPED || covers(from + k)) smallest = fmin(smallest, d);
      }
    }
  }
};

// A warp with its queries, and their box.
template <class T>
struct Packet {
  Box<T> box;
  int64_t begin, end;
};

template <bool EXACT, class T, bool GROUPED>
SYMKERN_DEVICE void walk(const Tree<T>& tree, const Packet<T>& packet, Query<T, GROUPED>& query, Point<T>* leaf) {
  Box<T> middle;
  for (int k = 0; k < 3; ++k) middle.low[k] = middle.high[k] = packet.box.low[k] / 2 + packet.box.high[k] / 2;
  const int top = tree.levels - 1, lane = gpu::lane();
  int level = top;
  int64_t group = 0;                            // of 32 nodes of the level
  unsigned rest = gpu::full_mask, waiting = 0;  // nodes to look at; lane l keeps those of level l
  while (true) {
    // each lane one node: the packet as a whole first
    const Level<T>& here = tree.level[level];
    const int64_t node = kFan * group + lane, size = int64_t{kFan} << (5 * level);
    const bool exists = (rest >> lane & 1u) && node < here.nodes;
    Box<T> box{};
    bool wanted = exists && node * size < packet.end && (node + 1) * size > packet.begin;
    unsigned nearness = ~0u;
    T bound = EXACT ? query.limit : query.smallest;  // never NaN
    bound = gpu::warp_max(query.begin < query.end ? bound : T(-1));
    if (wanted) {
      box = here.box(node);
      const T gap = gap_sq(packet.box, box);
      wanted = EXACT ? gap <= bound : gap < bound;
      // from the middle of the packet, for the order; its last digits give way to the lane
      const float distance = static_cast<float>(gap_sq(middle, box));
      unsigned bits;
      memcpy(&bits, &distance, sizeof bits);
      if (wanted) nearness = (bits & ~31u) | static_cast<unsigned>(lane);
    }
    rest = __ballot_sync(gpu::full_mask, wanted);
    if (rest == 0) {
      if (level == top) return;
      ++level, group /= kFan;
      rest = __shfl_sync(gpu::full_mask, waiting, level);
      continue;
    }
    const int child = static_cast<int>(gpu::reduce_min(gpu::full_mask, nearness) & 31u);
    rest &= ~(1u << child);
    Box<T> chosen;
    for (int k = 0; k < 3; ++k) {
      chosen.low[k] = __shfl_sync(gpu::full_mask, box.low[k], child);
      chosen.high[k] = __shfl_sync(gpu::full_mask, box.high[k], child);
    }
    const int64_t at = kFan * group + child;
    const bool any =
        __any_sync(gpu::full_mask, query.template wants<EXACT>(here, at, chosen, at * size, (at + 1) * size));
    if (!any) continue;
    if (level > 0) {
      if (lane == level) waiting = rest;
      --level, group = at, rest = gpu::full_mask;
      continue;
    }
    const int64_t place = kFan * at + lane;
    __syncwarp();
    leaf[lane] = place < tree.count ? tree.points[place] : no_point<T>();
    __syncwarp();
    query.template look<EXACT>(leaf, kFan * at);
  }
}

template <class T, bool GROUPED>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads, sizeof(T) == 4 ? 6 : 4)
    search_tree(NearestProblem<T> p, const int32_t* order, const int32_t* bad, Tree<T> tree) {
  SYMKERN_SHARED(Point<T>, leaves, kThreads);
  Point<T>* leaf = leaves + 32 * gpu::warp();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  // warps go round together, lanes beyond the end ask for nothing
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; k - gpu::lane() < p.xs.rows;
       k += stride) {
    const bool active = k < p.xs.rows;
    const int64_t i = active ? order[k] : 0, s = active ? p.xs.owner(i) : p.xs.count;
    Query<T, GROUPED> query{no_point<T>(), 0, 0, kInfinity<T>, 0, {0, -1}};
    if (s < p.xs.count && bad[s] == 0) {
      const Point<T> x = load_point(p.x, i);
      if (finite(x)) query.x = x, query.begin = p.ys.bound(s), query.end = p.ys.bound(s + 1);
      if (p.x_type != nullptr) {
        query.begin = type_bound(p, tree.points, query.begin, query.end, p.x_type[i], false);
        query.end = type_bound(p, tree.points, query.begin, query.end, p.x_type[i], true);
      }
    }
    Packet<T> packet;
    const T at[3] = {query.x.x, query.x.y, query.x.z};
    for (int c = 0; c < 3; ++c) packet.box.low[c] = gpu::warp_min(at[c]), packet.box.high[c] = gpu::warp_max(at[c]);
    const bool asks = query.begin < query.end;
    packet.begin = asks ? query.begin : tree.count, packet.end = asks ? query.end : 0;
    for (int step = 16; step > 0; step /= 2) {
      const int64_t begin = __shfl_xor_sync(gpu::full_mask, packet.begin, step);
      const int64_t end = __shfl_xor_sync(gpu::full_mask, packet.end, step);
      packet.begin = begin < packet.begin ? begin : packet.begin, packet.end = end > packet.end ? end : packet.end;
    }
    walk<false>(tree, packet, query, leaf);
    query.limit = cut(query.smallest);
    walk<true>(tree, packet, query, leaf);
    if (active) p.index[i] = query.best.index;
  }
}

template <class T, class Memory>
void tree_search(const NearestProblem<T>& p, const Memory& memory, gpu::Stream stream) {
  const int64_t n = p.xs.rows, m = p.ys.rows;
  if (std::max(n, m) >= kTreePoints) {
    throw std::invalid_argument("large clouds must have fewer than 2^31 points on CUDA, got " + std::to_string(n) +
                                " and " + std::to_string(m));
  }
  const auto array = [&](auto* type, int64_t count) {
    using Item = std::remove_pointer_t<decltype(type)>;
    return static_cast<Item*>(memory(static_cast<size_t>(count) * sizeof(Item)));
  };
  auto* box = array(static_cast<unsigned long long*>(nullptr), 6);
  auto* bad = array(static_cast<int32_t*>(nullptr), p.ys.count);
  gpu::memset_async(box, 0xff, 6 * sizeof(*box), stream);
  gpu::memset_async(bad, 0, static_cast<size_t>(p.ys.count) * sizeof(*bad), stream);
  gpu::launch(bound_targets<T>, gpu::grid_for(m, kThreads, 512), kThreads, 0, stream, p, box, bad);
  const int32_t* y_order = sort_points(Side<T>{p.y, p.ys, p.y_type}, box, memory, stream);
  const int32_t* x_order = sort_points(Side<T>{p.x, p.xs, p.x_type}, box, memory, stream);

  Tree<T> tree{};
  auto* points = array(static_cast<Point<T>*>(nullptr), m);
  tree.points = points, tree.count = m;
  int64_t nodes = m;
  do {
    nodes = (nodes + kFan - 1) / kFan;
    Level<T>& level = tree.level[tree.levels++];
    level = {array(static_cast<T*>(nullptr), 6 * nodes), array(static_cast<int32_t*>(nullptr), nodes), nodes};
    const int64_t blocks = gpu::grid_for(32 * nodes, kThreads);
    if (tree.levels == 1) {
      gpu::launch(build_leaves<T>, blocks, kThreads, 0, stream, p, y_order, points, level);
    } else {
      gpu::launch(build_level<T>, blocks, kThreads, 0, stream, tree.level[tree.levels - 2], level);
    }
  } while (nodes > kFan);
  const bool grouped = p.x_type != nullptr || p.xs.count > 1;
  gpu::launch(grouped ? search_tree<T, true> : search_tree<T, false>, gpu::grid_for(n, kThreads), kThreads, 0, stream,
              p, x_order, bad, tree);
}

}  // namespace symkern::nearest_cuda
