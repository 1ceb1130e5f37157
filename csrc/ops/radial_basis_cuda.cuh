// Schedules of radial bases on the device; the formulas are those of the host. Torch-free: raw pointers and gpu.h, so
// that the same kernels run under the SIMT shim.
//
// A block takes one tile of rows. What depends on the distance alone is computed once per row into shared memory.
//   forward     threads over the elements of the tile in the order of memory.
//   derivative  a warp owns 32 rows and goes through them with its lanes over the parameters, 32 at a time: sums over
//               parameters end in the lane that has the row's number, sums over rows stay in the lane of the parameter.
// Distances that are negative or not finite make their row NaN: an error would need the host to wait.
#pragma once

#include "core/gpu.h"
#include "ops/radial_basis.h"

namespace symkern::radial_cuda {

constexpr int kThreads = 128;
static_assert(kThreads == kRadialTile, "one thread per row, 32 rows per warp");

enum Bug { kNone, kNoBarrierAfterRows, kNoBarrierBeforeSums, kNoBarrierAfterSums };

// Field by field: the race checker does not see the copy of a whole struct.
template <BasisKind kind, class S>
SYMKERN_DEVICE void put_row(RadialRow<S>& to, const RadialInput<S>& in, int64_t row) {
  const S d = in.d[row];
  const RadialRow<S> made = radial_row(in.shape, kind, d >= 0 && d - d == 0 ? d : static_cast<S>(NAN));
  to.d = made.d;
  to.t.f = made.t.f, to.t.d1 = made.t.d1, to.t.d2 = made.t.d2;
  to.u.f = made.u.f, to.u.d1 = made.u.d1, to.u.d2 = made.u.d2;
}

template <class S>
SYMKERN_DEVICE S value_or_zero(const S* p, int64_t k) {
  return p != nullptr ? p[k] : S(0);
}

template <BasisKind kind, int BUG, class S>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads) forward(RadialInput<S> in, S* out) {
  SYMKERN_SHARED(RadialRow<S>, rows, kThreads);
  const int64_t begin = blockIdx.x * kRadialTile, left = in.rows - begin;
  const int thread = static_cast<int>(threadIdx.x), count = static_cast<int>(left < kThreads ? left : kThreads);
  if (thread < count) put_row<kind>(rows[thread], in, begin + thread);
  if (BUG != kNoBarrierAfterRows) __syncthreads();
  const int columns = static_cast<int>(in.count);
  for (int i = thread; i < count * columns; i += kThreads) {
    const int r = i / columns, k = i - r * columns;
    out[begin * in.count + i] = radial<kind>(in.shape, rows[r], in.p[k], value_or_zero(in.q, k)).f;
  }
}

template <BasisKind kind, int order, bool params, int BUG, class S>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads) derivative(RadialInput<S> in, RadialDerivative<S> io) {
  SYMKERN_SHARED(RadialRow<S>, rows, kThreads);
  SYMKERN_SHARED(S, sums, params ? 2 * kThreads : 1);
  const int64_t begin = blockIdx.x * kRadialTile, left = in.rows - begin;
  const int thread = static_cast<int>(threadIdx.x), count = static_cast<int>(left < kThreads ? left : kThreads);
  if (thread < count) put_row<kind>(rows[thread], in, begin + thread);
  if (BUG != kNoBarrierAfterRows) __syncthreads();
  const int first = 32 * gpu::warp(), last = first + 32 < count ? first + 32 : count;
  S total = 0;  // of row `thread`
  for (int64_t base = 0; base < in.count; base += 32) {
    const int64_t k = base + gpu::lane();
    const bool real = k < in.count;
    const S p = real ? in.p[k] : S(0), q = real ? value_or_zero(in.q, k) : S(0);
    const S along_p = real ? value_or_zero(io.along_p, k) : S(0), along_q = real ? value_or_zero(io.along_q, k) : S(0);
    S sum_p = 0, sum_q = 0;
    for (int r = first; r < last; ++r) {
      const int64_t at = (begin + r) * in.count + k;
      S part = 0;
      if (real) {
        const RadialShare<S> share = radial_share<order, params>(
            radial<kind>(in.shape, rows[r], p, q), value_or_zero(io.along_d, begin + r), along_p, along_q);
        if (order == 2 && io.value != nullptr) io.value[at] = share.value;
        const S grad = io.grad[at];
        part = grad * share.d, sum_p += grad * share.p, sum_q += grad * share.q;
      }
      if (io.d != nullptr) {
        part = gpu::warp_sum(part);
        if (gpu::lane() == r - first) total += part;
      }
    }
    if constexpr (params) {
      sums[thread] = sum_p, sums[kThreads + thread] = sum_q;
      if (BUG != kNoBarrierBeforeSums) __syncthreads();
      // the first warp adds up p, the second q
      double* to = gpu::warp() == 0 ? io.sums_p : gpu::warp() == 1 ? io.sums_q : nullptr;
      if (to != nullptr && real) {
        double sum = 0;
        for (int w = 0; w < kThreads / 32; ++w) sum += sums[gpu::warp() * kThreads + 32 * w + gpu::lane()];
        to[blockIdx.x * in.count + k] = sum;
      }
      if (BUG != kNoBarrierAfterSums) __syncthreads();
    }
  }
  if (io.d != nullptr && thread < count) io.d[begin + thread] = total;
}

template <int BUG = kNone, class S>
void launch_forward(BasisKind kind, const RadialInput<S>& in, S* out, gpu::Stream stream) {
  const auto kernel = kind == BasisKind::gaussian ? forward<BasisKind::gaussian, BUG, S>
                      : kind == BasisKind::bessel ? forward<BasisKind::bessel, BUG, S>
                                                  : forward<BasisKind::expnorm, BUG, S>;
  gpu::launch(kernel, radial_tiles(in.rows), kThreads, 0, stream, in, out);
}

template <int order, bool params, int BUG, class S>
void launch_for(BasisKind kind, const RadialInput<S>& in, const RadialDerivative<S>& io, gpu::Stream stream) {
  const auto kernel = kind == BasisKind::gaussian ? derivative<BasisKind::gaussian, order, params, BUG, S>
                      : kind == BasisKind::bessel ? derivative<BasisKind::bessel, order, params, BUG, S>
                                                  : derivative<BasisKind::expnorm, order, params, BUG, S>;
  gpu::launch(kernel, radial_tiles(in.rows), kThreads, 0, stream, in, io);
}

template <int BUG = kNone, class S>
void launch_derivative(BasisKind kind, int order, bool params, const RadialInput<S>& in, const RadialDerivative<S>& io,
                       gpu::Stream stream) {
  if (order == 1) {
    params ? launch_for<1, true, BUG>(kind, in, io, stream) : launch_for<1, false, BUG>(kind, in, io, stream);
  } else {
    params ? launch_for<2, true, BUG>(kind, in, io, stream) : launch_for<2, false, BUG>(kind, in, io, stream);
  }
}

}  // namespace symkern::radial_cuda
