// d = |v| over the last axis with a zero gradient at v = 0, and its first two derivatives as fused ops.
#include "core/macros.h"
#include "torch/shim.h"

#include <cmath>

namespace symkern {
namespace {

// Euclidean norm in double, without overflow or underflow in the squares.
template <class T>
SYMKERN_HD double row_norm(const T* v, int64_t width) {
  double sum = 0;
  for (int64_t c = 0; c < width; ++c) sum += static_cast<double>(v[c]) * static_cast<double>(v[c]);
  if (sum > 1e-280 && sum < 1e300) return sqrt(sum);
  double largest = 0;
  for (int64_t c = 0; c < width; ++c) {
    const double x = fabs(static_cast<double>(v[c]));
    if (!(x <= largest)) largest = x;  // NaN stays
  }
  if (!(largest > 0) || !(largest < 1e308)) return largest;
  sum = 0;
  for (int64_t c = 0; c < width; ++c) sum += (v[c] / largest) * (v[c] / largest);
  return largest * sqrt(sum);
}

template <class T>
struct Norm {
  const T* v;
  int64_t width;
  T* out;
  SYMKERN_HD void operator()(int64_t e) const { out[e] = static_cast<T>(row_norm(v + e * width, width)); }
};

// g v / |v|
template <class T>
struct NormBackward {
  const T* grad;
  const T* v;
  int64_t width;
  T* out;
  SYMKERN_HD void operator()(int64_t e) const {
    const double d = row_norm(v + e * width, width);
    const double g = grad[e];  // after the division: 1 / d overflows for subnormal d
    for (int64_t c = 0; c < width; ++c) out[e * width + c] = static_cast<T>(d > 0 ? g * (v[e * width + c] / d) : 0);
  }
};

// Adjoint of NormBackward for a direction h: with u = v / |v|, (h . u) for g and g (h - u (h . u)) / |v| for v.
template <class T>
struct NormDoubleBackward {
  const T* h;
  const T* grad;
  const T* v;
  int64_t width;
  T* out_grad;
  T* out_v;
  SYMKERN_HD void operator()(int64_t e) const {
    const double d = row_norm(v + e * width, width), inverse = d > 0 ? 1 / d : 0;
    double along = 0;
    for (int64_t c = 0; c < width; ++c) {
      along += h[e * width + c] * (v[e * width + c] * inverse);
    }
    out_grad[e] = static_cast<T>(along);
    for (int64_t c = 0; c < width; ++c) {
      const double across = h[e * width + c] - along * (v[e * width + c] * inverse);
      out_v[e * width + c] = static_cast<T>(grad[e] * inverse * across);
    }
  }
};

void check_rows(const Tensor& vec) {
  check_float(vec, "vec");
  if (vec.dim() != 2) bad_argument("vec must have shape (E, D), got ", shape_of(vec));
}

Tensor safe_norm(const Tensor& vec) {
  check_rows(vec);
  const Tensor v = as_contiguous(vec);
  const int64_t rows = v.size(0), width = v.size(1);
  Tensor out = empty({rows}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(rows, 65536, Norm<T>{v.const_data_ptr<T>(), width, out.mutable_data_ptr<T>()});
  });
  return out;
}

Tensor safe_norm_backward(const Tensor& grad, const Tensor& vec) {
  check_rows(vec);
  check_dtype(grad, "grad", vec.scalar_type());
  const Tensor v = as_contiguous(vec), g = as_contiguous(grad);
  const int64_t rows = v.size(0), width = v.size(1);
  if (g.dim() != 1 || g.size(0) != rows) bad_argument("grad must have shape (", rows, ",), got ", shape_of(g));
  Tensor out = empty({rows, width}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(rows, 65536,
                    NormBackward<T>{g.const_data_ptr<T>(), v.const_data_ptr<T>(), width, out.mutable_data_ptr<T>()});
  });
  return out;
}

std::tuple<Tensor, Tensor> safe_norm_double_backward(const Tensor& direction, const Tensor& grad, const Tensor& vec) {
  check_rows(vec);
  check_dtype(grad, "grad", vec.scalar_type());
  check_dtype(direction, "direction", vec.scalar_type());
  const Tensor v = as_contiguous(vec), g = as_contiguous(grad), h = as_contiguous(direction);
  const int64_t rows = v.size(0), width = v.size(1);
  if (g.dim() != 1 || g.size(0) != rows) bad_argument("grad must have shape (", rows, ",), got ", shape_of(g));
  if (h.dim() != 2 || h.size(0) != rows || h.size(1) != width) {
    bad_argument("direction must have the shape of vec, ", shape_of(v), ", got ", shape_of(h));
  }
  Tensor out_grad = empty({rows}, v.scalar_type(), v);
  Tensor out_v = empty({rows, width}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(rows, 65536,
                    NormDoubleBackward<T>{h.const_data_ptr<T>(), g.const_data_ptr<T>(), v.const_data_ptr<T>(), width,
                                          out_grad.mutable_data_ptr<T>(), out_v.mutable_data_ptr<T>()});
  });
  return {out_grad, out_v};
}

}  // namespace

SYMKERN_OP(safe_norm, "(Tensor vec) -> Tensor", safe_norm)
SYMKERN_OP(safe_norm_backward, "(Tensor grad, Tensor vec) -> Tensor", safe_norm_backward)
SYMKERN_OP(safe_norm_double_backward, "(Tensor direction, Tensor grad, Tensor vec) -> (Tensor, Tensor)",
           safe_norm_double_backward)

}  // namespace symkern
