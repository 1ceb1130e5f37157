// The only file that names torch types: argument checks, dtype switch, allocation, stream and device guard, loops over
// elements, and registration. Everything goes through the LibTorch stable ABI, so one binary serves torch >= 2.10.
//
// An op's .cpp is compiled twice: by g++ into the CPU library (schema + CPU kernel) and by nvcc into the CUDA library
// (CUDA kernel). Bad input is std::invalid_argument, which reaches Python as ValueError.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"

#if defined(__CUDACC__)
#include "core/gpu.h"
#if defined(__linux__)
#include <dlfcn.h>
#endif
#endif

namespace symkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// ---- checks: once, at the boundary, naming the argument, what it got and what it expected ---------------------------

template <class... Parts>
[[noreturn]] void bad_argument(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream s;
  s << '(';
  for (int64_t d = 0; d < t.dim(); ++d) s << (d ? ", " : "") << t.size(d);
  s << (t.dim() == 1 ? ",)" : ")");
  return s.str();
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    default:
      return "another dtype";
  }
}

// -1 in `shape` stands for any size.
inline void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> shape, const char* expected) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) same = same && (size < 0 || t.size(d) == size), ++d;
  if (!same) bad_argument(name, " must have shape ", expected, ", got ", shape_of(t));
}

inline void check_dtype(const Tensor& t, const char* name, ScalarType type) {
  if (t.scalar_type() != type) {
    bad_argument(name, " must be ", dtype_name(type), ", got ", dtype_name(t.scalar_type()));
  }
}

inline void check_float(const Tensor& t, const char* name) {
  if (t.scalar_type() != ScalarType::Float && t.scalar_type() != ScalarType::Double) {
    bad_argument(name, " must be float32 or float64, got ", dtype_name(t.scalar_type()));
  }
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  if (t.is_cuda() != like.is_cuda() || (t.is_cuda() && t.get_device_index() != like.get_device_index())) {
    const auto where = [](const Tensor& x) {
      return x.is_cuda() ? "cuda:" + std::to_string(x.get_device_index()) : std::string("cpu");
    };
    bad_argument(name, " must be on the device of ", like_name, " (", where(like), "), got ", where(t));
  }
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

template <class T>
const T* data_or_null(const OptionalTensor& t) {
  return t.has_value() ? t->const_data_ptr<T>() : nullptr;
}

// f(T{}) with T = float or double.
template <class F>
void dispatch_float(ScalarType type, const F& f) {
  if (type == ScalarType::Double) {
    f(double{});
  } else {
    f(float{});
  }
}

// ---- allocation
// -------------------------------------------------------------------------------------------------------

inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType type, const Tensor& like) {
  int64_t strides[8], count = 1, d = static_cast<int64_t>(sizes.size());
  for (const int64_t* s = sizes.end(); d > 0;) strides[--d] = count, count *= *--s;
  AtenTensorHandle handle = nullptr;
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, dtype,
                                                  device_type, like.get_device_index(), &handle));
  Tensor t(handle);
  // Fresh pages are most of the cost of a large output (docs/design.md); advice must come before the first write.
  if (!t.is_cuda()) advise_huge_pages(t.mutable_data_ptr(), static_cast<size_t>(count) * t.element_size());
  return t;
}

// ---- where to run
// -----------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)

static_assert(std::is_same_v<decltype(&aoti_torch_get_current_cuda_stream), AOTITorchError (*)(int32_t, void**)>);

// Looked up at run time: the symbol lives in libtorch_cuda, which this library must not link to, so that it also loads
// beside a CPU-only torch.
inline gpu::Stream current_stream(int32_t device) {
  using Lookup = AOTITorchError (*)(int32_t, void**);
  static const Lookup lookup = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    if (symbol == nullptr) symbol = dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
    if (symbol == nullptr) {
      throw std::runtime_error(
          "symkern: found no aoti_torch_get_current_cuda_stream in this torch; expected a CUDA "
          "build of torch >= 2.10");
    }
    return reinterpret_cast<Lookup>(symbol);
  }();
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(lookup(device, &stream));
  return static_cast<gpu::Stream>(stream);
}

// Makes the tensor's device current and finds its current stream, for the scope of one op.
class Launch {
 public:
  explicit Launch(const Tensor& like)
      : guard_(like.get_device_index()), stream_(current_stream(like.get_device_index())) {}
  gpu::Stream stream() const { return stream_; }

  template <class F>
  void for_each(int64_t n, int64_t, const F& f) const;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  gpu::Stream stream_;
};

template <class F>
SYMKERN_KERNEL for_each_kernel(int64_t n, F f) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) f(i);
}

template <class F>
void Launch::for_each(int64_t n, int64_t, const F& f) const {
  gpu::launch(for_each_kernel<F>, gpu::grid_for(n, 256), 256, 0, stream_, n, f);
}

#else

inline Parallel torch_parallel() {
  const auto backend = [](int64_t begin, int64_t end, int64_t grain, Parallel::Body body, void* context) {
    TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
  };
  return Parallel(backend, static_cast<int>(torch::stable::get_num_threads()));
}

class Launch {
 public:
  explicit Launch(const Tensor&) : parallel_(torch_parallel()) {}
  const Parallel& parallel() const { return parallel_; }

  // f(i) for i in [0, n), `grain` at a time per thread at least.
  template <class F>
  void for_each(int64_t n, int64_t grain, const F& f) const {
    parallel_(n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  }

 private:
  Parallel parallel_;
};

#endif

}  // namespace symkern

// Registers `function` as the kernel of symkern::name on the device this file is being compiled for.
#if defined(__CUDACC__)
#define SYMKERN_OP(name, schema, function) \
  STABLE_TORCH_LIBRARY_IMPL(symkern, CUDA, m) { m.impl(#name, TORCH_BOX(&function)); }
#else
#define SYMKERN_OP(name, schema, function)                           \
  STABLE_TORCH_LIBRARY_FRAGMENT(symkern, m) { m.def(#name schema); } \
  STABLE_TORCH_LIBRARY_IMPL(symkern, CPU, m) { m.impl(#name, TORCH_BOX(&function)); }
#endif
