// For host tests of GPU schedules: checks, exact-size buffers, run orders, child processes. The same test, compiled by
// nvcc, runs on a GPU: buffers are then device memory and there is only one order.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/gpu.h"

#ifndef __CUDACC__
#include <sys/wait.h>
#include <unistd.h>
#endif

// Throws, so that the order of the run can be added to the message.
#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) ::symkern::testing::failed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

#define CHECK_EQUAL(a, b)                                                             \
  do {                                                                                \
    const auto check_a = (a);                                                         \
    const auto check_b = (b);                                                         \
    if (!(check_a == check_b)) {                                                      \
      std::ostringstream check_text;                                                  \
      check_text << ": " << check_a << " != " << check_b;                             \
      ::symkern::testing::failed(__FILE__, __LINE__, #a " == " #b, check_text.str()); \
    }                                                                                 \
  } while (false)

namespace symkern::testing {

#if defined(__CUDACC__)
constexpr const char* mode = "cuda";
#elif defined(__SANITIZE_ADDRESS__)
constexpr const char* mode = "asan";
#elif defined(SYMKERN_SIMT_RACE)
constexpr const char* mode = "race";
#else
constexpr const char* mode = "plain";
#endif

[[noreturn]] inline void failed(const char* file, int line, const char* condition, const std::string& values) {
  const char* slash = std::strrchr(file, '/');
  throw std::runtime_error(std::string(slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line) + ": " +
                           condition + values);
}

// Memory of the kernel's side, exactly as large as asked for (ASan sees the first byte beyond) and full of garbage.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t size) : size_(size) {
#ifdef __CUDACC__
    if (size > 0) gpu::check(cudaMalloc(&data_, bytes()), "cudaMalloc");
    gpu::memset_async(data_, 0xa5, bytes(), nullptr);
#else
    data_ = static_cast<T*>(std::malloc(bytes()));
    if (bytes() > 0) std::memset(static_cast<void*>(data_), 0xa5, bytes());
#endif
  }
  Buffer(const std::vector<T>& values) : Buffer(static_cast<std::int64_t>(values.size())) {
    if (values.empty()) return;
#ifdef __CUDACC__
    gpu::check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
#else
    std::memcpy(static_cast<void*>(data_), values.data(), bytes());
#endif
  }
  ~Buffer() {
#ifdef __CUDACC__
    cudaFree(data_);
#else
    std::free(data_);
#endif
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }
  std::vector<T> to_host() const {
    std::vector<T> values(static_cast<std::size_t>(size_));
    gpu::copy_to_host(values.data(), data_, bytes(), nullptr);
    return values;
  }

 private:
  T* data_ = nullptr;
  std::int64_t size_;
};

// Runs a test in forward, reverse and random orders; on a GPU once.
template <class F>
void for_orders(F&& run, [[maybe_unused]] int random_seeds = 5) {
#ifdef __CUDACC__
  run();
#else
  simt::for_orders(run, random_seeds);
#endif
}

// Sizes around one unit of the schedule (a warp, tile or block).
inline std::vector<int> sizes_around(std::initializer_list<int> units) {
  std::vector<int> sizes{0, 1};
  for (int unit : units)
    for (int size : {unit - 1, unit, unit + 1}) sizes.push_back(size);
  return sizes;
}

struct Test {
  const char* name;
  void (*run)();
};

// For main: runs all tests, prints what failed and a summary.
inline int run_tests(const std::vector<Test>& tests) {
  int failures = 0;
  for (const Test& test : tests) {
    try {
      test.run();
    } catch (const std::exception& error) {
      ++failures;
      std::printf("FAILED %s: %s\n", test.name, error.what());
    }
  }
  std::printf("%s: %d of %d tests passed\n", mode, static_cast<int>(tests.size()) - failures,
              static_cast<int>(tests.size()));
  return failures == 0 ? 0 : 1;
}

#ifndef __CUDACC__
struct Outcome {
  bool caught;
  std::string how;  // first line of the message, or how the child ended
};

// Runs something that may crash or hang in a child process. caught: it threw, crashed, was stopped by a sanitizer or by
// the time limit.
template <class F>
Outcome in_child(F&& run, unsigned seconds = 10) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe");
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork");
  if (child == 0) {
    dup2(ends[1], 2);  // reports of sanitizers
    alarm(seconds);
    std::string message;
    try {
      run();
    } catch (const std::exception& error) {
      message = std::string("error: ") + error.what() + "\n";
    }
    if (!message.empty() && write(ends[1], message.data(), message.size()) < 0) _exit(2);
    _exit(message.empty() ? 0 : 1);  // no destructors: the parent's buffers are not ours
  }
  close(ends[1]);
  std::string output;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) output.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {false, ""};
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return {true, "time limit"};
  auto line_with = [&](const char* word) {
    const auto at = output.find(word);
    return at == std::string::npos ? std::string() : output.substr(at, output.find('\n', at) - at);
  };
  for (const char* word : {"error: ", "ERROR: ", "runtime error: "})
    if (std::string line = line_with(word); !line.empty()) return {true, line};
  return {true, WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                    : "exit status " + std::to_string(WEXITSTATUS(status))};
}
#endif

}  // namespace symkern::testing
