// Nearest points on the host, one set of kernels per instruction-set level (chamfer_simd.cpp is compiled once for
// each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include <cstdint>

namespace symkern {

// A tree of boxes over points in spatial order: kFan points to a leaf, kFan nodes to a node of the level above.
template <class T>
struct PointTree {
  static constexpr int kFan = 16;
  static constexpr int kMaxLevels = 8;  // 16^8 leaves are more than 2^31 points have

  // Coordinates one after the other; absent points are infinitely far.
  struct Leaf {
    T r[3][kFan];
  };

  // The nodes of one level that share a parent; absent ones are infinitely far.
  struct Group {
    T low[3][kFan], high[3][kFan];
    int32_t first_id[kFan];  // lowest id below the node
  };

  const Leaf* leaf;
  const int32_t* id;  // (n), in the order of the leaves
  int64_t n;
  int levels;  // the highest has one group
  const Group* level[kMaxLevels];
};

template <class T>
struct NearestKernels {
  // For each of n queries the index of the nearest of m > 0 targets. x has `readable` >= n finite points.
  void (*all_pairs)(const T* x, int64_t n, int64_t readable, const T* y, int64_t m, int32_t* index);
  // The same for the id of the nearest point of a tree. Queries that follow each other should be close.
  void (*in_tree)(const PointTree<T>& tree, const T* x, int64_t n, int32_t* id);
};

struct NearestLevel {
  NearestKernels<float> fp32;
  NearestKernels<double> fp64;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const NearestLevel* symkern_chamfer_kernels_baseline();
extern "C" const NearestLevel* symkern_chamfer_kernels_avx2();
extern "C" const NearestLevel* symkern_chamfer_kernels_avx512();

}  // namespace symkern
