// The runtime of simt.h: fibers, their scheduler, the life of a block. One host thread runs everything.
#include "testing/simt.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>
#include <utility>

#include "testing/runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef SYMKERN_SIMT_UCONTEXT
asm(R"(
.text
.type symkern_simt_switch, @function
.globl symkern_simt_switch
symkern_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size symkern_simt_switch, .-symkern_simt_switch
)");
#endif

namespace symkern::simt {

bool in_runtime = true;

State& state() {
  static State* const s = new State;  // never destroyed: fibers may be left in the middle
  return *s;
}

std::uint64_t draw() {
  std::uint64_t& x = state().random;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return x * 0x2545f4914f6cdd1dull >> 16;
}

bool one_in(unsigned n) { return config().order == Order::random && draw() % n == 0; }

// ---------- reports

std::string text(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line()) + ":" + std::to_string(where.column());
}

std::string hex(unsigned mask) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "0x%08x", mask);
  return buffer;
}

std::string name(const Fiber& fiber) {
  return "block " + std::to_string(fiber.block->index) + " thread " + std::to_string(fiber.thread);
}

namespace {

std::string deadlock_report() {
  std::map<std::tuple<std::int64_t, std::string, std::string>, std::pair<int, unsigned>> groups;
  for (const Block& block : state().blocks) {
    if (block.index < 0) continue;
    for (const Fiber& fiber : block.fibers) {
      if (fiber.waits_at == nullptr) continue;
      std::string what = fiber.waits_at;
      if (fiber.waits_mask != 0) what += " (mask " + hex(fiber.waits_mask) + ")";
      auto& [count, first] = groups[{block.index, what, text(fiber.where)}];
      if (count++ == 0) first = fiber.thread;
    }
  }
  std::string report = "deadlock: no thread can go on";
  for (const auto& [key, value] : groups)
    report += "\n  block " + std::to_string(std::get<0>(key)) + ": " + std::to_string(value.first) + " waiting at " +
              std::get<1>(key) + ", " + std::get<2>(key) + ", first is thread " + std::to_string(value.second);
  return report;
}

}  // namespace

// ---------- switching

void to_scheduler(bool for_good) {
  State& s = state();
  Fiber& self = *s.running;
  (void)for_good;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self.asan_stack, s.scheduler_stack, s.scheduler_stack_bytes);
#endif
  switch_context(self.context, s.scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(self.asan_stack, nullptr, nullptr);
#endif
}

void yield() {
  state().ready.push_back(state().running);
  to_scheduler();
}

void release(Block& block, unsigned begin, unsigned count, unsigned mask) {
  for (unsigned i = 0; i < count; ++i) {
    const unsigned lane = config().order == Order::reverse ? count - 1 - i : i;
    if (count == 32 && (mask >> lane & 1u) == 0) continue;
    block.fibers[begin + lane].waits_at = nullptr;
    state().ready.push_back(&block.fibers[begin + lane]);
  }
}

namespace {

void resume(Fiber& fiber) {
  State& s = state();
  s.running = &fiber;
  threadIdx.x = fiber.thread;
  blockIdx.x = static_cast<unsigned>(fiber.block->index);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&s.asan_stack, fiber.stack, stack_bytes);
#endif
  switch_context(s.scheduler, fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(s.asan_stack, nullptr, nullptr);
#endif
  s.running = nullptr;
}

// Forward and reverse: queues, filled in ascending or descending order. Even seeds: any thread. Odd seeds: mostly the
// one that became ready last, so that some warps and blocks run far ahead of others.
Fiber* next() {
  auto& ready = state().ready;
  if (config().order != Order::random) {
    Fiber* fiber = ready.front();
    ready.pop_front();
    return fiber;
  }
  if (config().seed % 2 == 0 || draw() % 8 == 0) std::swap(ready[draw() % ready.size()], ready.back());
  Fiber* fiber = ready.back();
  ready.pop_back();
  return fiber;
}

// ---------- life of a block

void fill(void* data, std::size_t bytes) {
  const Config& c = config();
  const unsigned pattern = c.order == Order::forward ? 0 : c.order == Order::reverse ? 1 : c.seed % 4;
  auto* p = static_cast<unsigned char*>(data);
  // NaN, zero, a large finite number, noise: each hides some bugs (NaN alone is hidden by comparisons and fmin).
  for (std::size_t i = 0; i < bytes; ++i) {
    constexpr unsigned char byte[] = {0xff, 0x00, 0x7f};
    p[i] = pattern < 3 ? byte[pattern] : static_cast<unsigned char>(draw());
  }
}

void free_shared(Block& block) {
  for (const Shared& one : block.shared) {
    race::shared_ends(one.data, one.bytes);
    std::free(one.data);
  }
  block.shared.clear();
}

void thread_exits(Fiber& self) {
  Block& block = *self.block;
  if (!self.copies.empty())
    fail(name(self) + ": exits with " + std::to_string(self.copies.size()) + " async copies it never waited for, " +
         text(self.copies[0].where));
  if (block.arrived > 0)
    fail(name(self) + ": exits while " + std::to_string(block.arrived) + " threads wait for it at " + block.barrier +
         ", " + text(block.where));
  Warp& warp = block.warps[self.thread / 32];
  const unsigned lane = self.thread % 32;
  for (const Meeting& meeting : warp.open)
    if (meeting.mask >> lane & 1u)
      fail(name(self) + ": exits while " + std::to_string(__builtin_popcount(meeting.arrived)) +
           " lanes wait for it at " + meeting.what + " (mask " + hex(meeting.mask) + "), " + text(meeting.where));
  warp.exited |= 1u << lane;
  if (--block.alive == 0) {
    race::block_ends(static_cast<unsigned>(block.index));
    free_shared(block);
    block.index = -1;
  }
}

void fiber_main() {
  State& s = state();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &s.scheduler_stack, &s.scheduler_stack_bytes);
#endif
  Fiber& self = *s.running;
  try {
    in_runtime = false;
    s.run(s.kernel);
    in_runtime = true;
  } catch (...) {
    in_runtime = true;
    s.exception = std::current_exception();
  }
  if (s.exception == nullptr) thread_exits(self);
  to_scheduler(true);
  std::abort();  // nobody resumes it
}

void start_block(int slot, std::int64_t index) {
  State& s = state();
  Block& block = s.blocks[slot];
  block.index = index;
  block.alive = s.threads;
  block.arrived = 0;
  block.shared_bytes = 0;
  block.fibers.resize(s.threads);
  block.slots.assign(s.threads, nullptr);
  block.warps.assign(s.threads / 32, Warp{});
  race::block_begins(static_cast<unsigned>(index), s.threads);
  add_shared(block, nullptr, s.dynamic_bytes);
  for (int i = 0; i < s.threads; ++i) {
    const int thread = config().order == Order::reverse ? s.threads - 1 - i : i;
    Fiber& fiber = block.fibers[thread];
    if (fiber.stack == nullptr) fiber.stack = usable_stack(slot * max_threads + thread);
    fiber.block = &block;
    fiber.thread = static_cast<unsigned>(thread);
    fiber.waits_at = nullptr;
    fiber.copies.clear();
    fiber.copy_group = 0;
    fiber.scans.clear();
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack, stack_bytes);  // the last fiber on it ended without returning
#endif
    fiber.context.prepare(fiber.stack, fiber_main);
    s.ready.push_back(&fiber);
  }
}

// After a failure: fibers in the middle of a kernel are dropped where they are, with what is on their stacks.
void abandon() {
  State& s = state();
  s.ready.clear();
  for (Block& block : s.blocks) {
    free_shared(block);
    block.index = -1;
  }
}

}  // namespace

Shared& add_shared(Block& block, const void* key, std::size_t bytes) {
  block.shared.push_back({key, std::malloc(bytes), bytes});
  block.shared_bytes += bytes;
  fill(block.shared.back().data, bytes);
  race::shared_begins(block.shared.back().data, bytes);
  return block.shared.back();
}

void fail(const std::string& message) {
  in_runtime = true;
  State& s = state();
  if (s.running == nullptr) throw std::runtime_error(message);
  s.failure = message;
  to_scheduler(true);
  std::abort();  // nobody resumes it
}

void preempt() {
  if (!one_in(config().seed % 3 == 0 ? 4 : 64)) return;
  InRuntime guard;
  yield();
}

// ---------- configuration

std::string Config::name() const {
  if (order == Order::random) return "random order, seed " + std::to_string(seed);
  return order == Order::forward ? "forward order" : "reverse order";
}

Config& config() {
  static Config* const current = [] {
    auto* c = new Config;
    if (const char* order = std::getenv("SYMKERN_SIMT_ORDER"))
      c->order = std::string(order) == "random"    ? Order::random
                 : std::string(order) == "reverse" ? Order::reverse
                                                   : Order::forward;
    if (const char* seed = std::getenv("SYMKERN_SIMT_SEED"))
      c->seed = static_cast<unsigned>(std::strtoul(seed, nullptr, 10));
    return c;
  }();
  return *current;
}

std::vector<Config> orders(int random_seeds) {
  if (std::getenv("SYMKERN_SIMT_ORDER") != nullptr) return {config()};  // to repeat one run of a failed test
  std::vector<Config> all(2, config());
  all[0].order = Order::forward;
  all[1].order = Order::reverse;
  for (int seed = 1; seed <= random_seeds; ++seed) {
    all.push_back(config());
    all.back().order = Order::random;
    all.back().seed = static_cast<unsigned>(seed);
  }
  return all;
}

// ---------- scheduler

void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, void (*run)(const void*), const void* kernel) {
  State& s = state();
  if (s.running != nullptr) throw std::runtime_error("simt: launch from inside a kernel");
  if (shared_bytes > config().shared_limit)
    throw std::runtime_error("launch: " + std::to_string(shared_bytes) + " bytes of shared memory, the limit is " +
                             std::to_string(config().shared_limit));
  s.random = (config().seed + 1) * 0x9e3779b97f4a7c15ull | 1;
  s.threads = threads;
  s.dynamic_bytes = shared_bytes;
  s.run = run;
  s.kernel = kernel;
  s.failure.clear();
  s.exception = nullptr;
  blockDim.x = static_cast<unsigned>(threads);
  gridDim.x = static_cast<unsigned>(blocks);

  std::vector<std::int64_t> shuffled;
  if (config().order == Order::random) {
    shuffled.resize(blocks);
    std::iota(shuffled.begin(), shuffled.end(), std::int64_t{0});
    for (std::int64_t i = blocks - 1; i > 0; --i) std::swap(shuffled[i], shuffled[draw() % (i + 1)]);
  }
  auto block_at = [&](std::int64_t i) {
    return config().order == Order::random ? shuffled[i] : config().order == Order::reverse ? blocks - 1 - i : i;
  };

  struct Cleanup {
    ~Cleanup() {
      abandon();
      race::launch_ends();
    }
  } cleanup;
  race::launch_begins(all_stacks(), all_stacks_bytes);
  const int resident = std::clamp(config().resident_blocks, 1, max_resident);
  std::int64_t started = 0;
  while (true) {
    for (int slot = 0; slot < resident && started < blocks; ++slot)
      if (s.blocks[slot].index < 0) start_block(slot, block_at(started++));
    if (s.ready.empty()) {
      for (const Block& block : s.blocks)
        if (block.index >= 0 && s.failure.empty()) s.failure = deadlock_report();
      break;
    }
    resume(*next());
    if (!s.failure.empty() || s.exception != nullptr) break;
  }
  if (s.exception != nullptr) std::rethrow_exception(std::exchange(s.exception, nullptr));
  if (!s.failure.empty()) throw std::runtime_error(s.failure);
}

}  // namespace symkern::simt
