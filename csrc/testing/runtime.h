// State of the runtime, shared by simt.cpp (scheduler) and collectives.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <string>
#include <vector>

#include "testing/fiber.h"
#include "testing/race.h"
#include "testing/simt.h"

namespace symkern::simt {

struct Block;

struct Copy {
  void* to;
  const void* from;
  int group;
  bool done;
  const void* pc;
  Where where;
};

struct Fiber {
  Context context;
  char* stack = nullptr;
  [[maybe_unused]] void* asan_stack = nullptr;
  Block* block = nullptr;
  unsigned thread = 0;
  const char* waits_at = nullptr;  // name of the collective
  unsigned waits_mask = 0;         // 0: the block
  Where where;
  std::vector<Copy> copies;
  int copy_group = 0;
  std::vector<const void*> scans;  // storages used since the last barrier
};

struct Meeting {
  const char* what = nullptr;
  Where where;
  unsigned mask = 0, arrived = 0;
  std::array<void*, 32> slots{};
};

struct Warp {
  std::vector<Meeting> open;
  unsigned exited = 0;
};

struct Shared {
  const void* key;
  void* data;
  std::size_t bytes;
};

struct Block {
  std::int64_t index = -1;  // -1: not running
  int alive = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  const char* barrier = nullptr;  // the collective of the block that is under way
  Where where;
  int arrived = 0;
  std::vector<void*> slots;
  std::vector<Shared> shared;
  std::size_t shared_bytes = 0;
};

struct State {
  std::array<Block, max_resident> blocks;
  std::deque<Fiber*> ready;
  Fiber* running = nullptr;
  Context scheduler;
  [[maybe_unused]] void* asan_stack = nullptr;
  [[maybe_unused]] const void* scheduler_stack = nullptr;
  [[maybe_unused]] std::size_t scheduler_stack_bytes = 0;
  std::uint64_t random = 1;
  int threads = 0;
  std::size_t dynamic_bytes = 0;
  void (*run)(const void*) = nullptr;
  const void* kernel = nullptr;
  std::string failure;
  std::exception_ptr exception;
};

State& state();

// For every function that kernels call: see in_runtime.
struct InRuntime {
  const bool before = in_runtime;
  InRuntime() { in_runtime = true; }
  ~InRuntime() { in_runtime = before; }
};

std::uint64_t draw();     // random bits, from the seed
bool one_in(unsigned n);  // in random orders; else false
void yield();             // lets others go first
void to_scheduler(bool for_good = false);

// Makes ready the count threads from begin on, of a warp (count == 32) those in mask, the one that came last included:
// it has no right to run first.
void release(Block& block, unsigned begin, unsigned count, unsigned mask);

Shared& add_shared(Block& block, const void* key, std::size_t bytes);

std::string text(const Where& where);
std::string hex(unsigned mask);
std::string name(const Fiber& fiber);

}  // namespace symkern::simt
