// Host parallelism without naming a thread pool: torch's pool under the torch ops, std::thread under the host module.
// Results never depend on how a range is cut, so any pool with any number of threads gives the same bits.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

namespace symkern {

class Parallel {
 public:
  using Body = void (*)(int64_t begin, int64_t end, void* context);
  using Backend = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

  Parallel(Backend backend, int threads) : backend_(backend), threads_(threads) {}

  int threads() const { return threads_; }

  // f(begin, end) over disjoint ranges that cover [0, n); ranges of at least `grain` run in parallel.
  template <class F>
  void operator()(int64_t n, int64_t grain, const F& f) const {
    if (n <= 0) return;
    if (threads_ <= 1 || n <= grain) {
      f(int64_t{0}, n);
      return;
    }
    Call<F> call{&f, {}, {}, n};
    backend_(0, n, grain, &Call<F>::run, &call);
    if (call.error) std::rethrow_exception(call.error);
  }

 private:
  // Exceptions must not cross a pool that knows nothing of them. The one from the lowest index is kept, so that the
  // error does not depend on the threads either.
  template <class F>
  struct Call {
    const F* f;
    std::mutex mutex;
    std::exception_ptr error;
    int64_t error_at;

    static void run(int64_t begin, int64_t end, void* context) {
      Call& call = *static_cast<Call*>(context);
      try {
        (*call.f)(begin, end);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(call.mutex);
        if (!call.error || begin < call.error_at) call.error = std::current_exception(), call.error_at = begin;
      }
    }
  };

  Backend backend_;
  int threads_;
};

}  // namespace symkern
