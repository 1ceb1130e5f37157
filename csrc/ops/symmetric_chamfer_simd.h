// The symmetric Chamfer search of one molecule on the host, one pair of kernels per instruction-set level
// (symmetric_chamfer_simd.cpp is compiled once for each). Raw pointers and plain structs only: nothing here may emit a
// symbol that two levels would share.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace symkern {

constexpr int64_t kSymmetricPad = 128;  // readable numbers behind each array of the kernels

// One side of a molecule, coordinate after coordinate. Arrays are `kSymmetricPad` longer than `count`.
struct SymmetricPoints {
  const float* f[3];
  const double* d[3];
};

// Queries are rotated, targets stay. Types are small integers, or nullptr.
struct SymmetricSearch {
  SymmetricPoints pred, target;
  int64_t count;
  const float* types_f;
  const double* types_d;
};

// The first five have room for operations * count + kSymmetricPad, the others for count + kSymmetricPad.
struct SymmetricScratch {
  float* queries[3];
  float* types;  // of the queries
  float* least;
  float* half_square;  // of the targets
  double* rotated[3];
};

struct SymmetricKernels {
  // For each matrix the sum over the queries of min over the targets of |t|^2 / 2 - q.t, where q is M^T pred (or with
  // `back` M target): the Chamfer distance, less the squares of the queries, halved. In fp32, for a first sifting.
  void (*sift)(const SymmetricSearch& in, const float* matrices, int64_t operations, bool back,
               const SymmetricScratch& scratch, float* sums);
  // The exact squared distances and places of the nearest atoms under one matrix, as nearest_rotated.
  void (*nearest)(const SymmetricSearch& in, const double* matrix, bool back, const SymmetricScratch& scratch,
                  double* squares, double* places);
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const SymmetricKernels* symkern_symmetric_kernels_baseline();
extern "C" const SymmetricKernels* symkern_symmetric_kernels_avx2();
extern "C" const SymmetricKernels* symkern_symmetric_kernels_avx512();

}  // namespace symkern
