// The race checker: kernels are compiled with -fsanitize=thread, but its calls end here instead of in libtsan, which
// knows nothing of barriers among fibers. Two accesses to the same byte, at least one of them a write and not both
// atomic, are a race unless ordered
//   - within a thread,
//   - within a block by a block barrier between them (epochs); a block scan is none,
//   - within a warp by __syncwarp (vector clocks); votes and shuffles order no memory,
//   - anywhere by: access, __threadfence(), atomic on x ... atomic on x, __threadfence(), access (knowledge).
// Reads of shared memory that nobody wrote are reported as well.
#include "testing/race.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "testing/simt.h"

extern "C" char __executable_start;  // from the linker

namespace symkern::simt::race {
namespace {

struct Stamp {
  std::uint32_t block = 0, epoch = 0, clock = 0, pc = 0;  // pc: offset in the executable
  std::uint16_t thread = 0;
  Kind kind = Kind::none;
};

struct Cell {
  Stamp write, read[2];
};

// Four bytes of memory; one cell as long as they are accessed together, then one per byte.
struct Granule {
  Cell whole;
  std::unique_ptr<std::array<Cell, 4>> bytes;
};

constexpr std::uintptr_t page_bytes = 4096;
using Page = std::array<Granule, page_bytes / 4>;

// What a thread may rely on beyond its own block's barriers: all accesses of a block before an epoch, and of a thread
// up to a clock.
struct Knowledge {
  std::map<std::uint32_t, std::uint32_t> epochs;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> clocks;

  bool empty() const { return epochs.empty() && clocks.empty(); }
  void merge(const Knowledge& other) {
    for (const auto& [block, epoch] : other.epochs) epochs[block] = std::max(epochs[block], epoch);
    for (const auto& [thread, clock] : other.clocks) clocks[thread] = std::max(clocks[thread], clock);
  }
  bool covers(const Stamp& s) const {
    if (auto e = epochs.find(s.block); e != epochs.end() && s.epoch < e->second) return true;
    auto c = clocks.find({s.block, s.thread});
    return c != clocks.end() && s.clock <= c->second;
  }
};

struct Thread {
  std::uint32_t clock = 1;               // advances at each __syncwarp and fence
  std::array<std::uint32_t, 32> warp{};  // latest clock known of each lane of the warp
  Knowledge known, fenced, pending;      // relied on; released by the next atomic; acquired by the next fence
};

struct Block {
  std::uint32_t epoch = 1;
  std::vector<Thread> threads;
};

struct State {
  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
  std::array<std::pair<std::uintptr_t, Page*>, 64> recent{};
  std::unordered_map<std::uint32_t, Block> blocks;
  std::unordered_map<std::uintptr_t, Knowledge> atomics;
  std::uintptr_t stacks = 0, stack_bytes = 0;
  bool any_fence = false;
  unsigned turn = 0;
};

State& state() {
  static State* const s = new State;
  return *s;
}

Block& own_block() { return state().blocks.at(blockIdx.x); }

Granule& granule(std::uintptr_t address) {
  State& s = state();
  const std::uintptr_t page = address / page_bytes;
  auto& recent = s.recent[page % s.recent.size()];
  if (recent.second == nullptr || recent.first != page) {
    auto& stored = s.pages[page];
    if (stored == nullptr) stored = std::make_unique<Page>();
    recent = {page, stored.get()};
  }
  return (*recent.second)[address % page_bytes / 4];
}

// ---------- reports

std::string line_of(std::uint32_t pc) {
  char command[128], line[512];
  std::snprintf(command, sizeof command, "addr2line -i -e /proc/%d/exe 0x%x 2>/dev/null", static_cast<int>(getpid()),
                pc - 1);
  std::string found = "?";
  if (FILE* out = popen(command, "r")) {
    while (std::fgets(line, sizeof line, out) != nullptr) {
      found = line;
      found = found.substr(found.rfind('/') + 1);
      found = found.substr(0, found.find_first_of(" \n"));
      if (found.rfind("simt.h", 0) != 0) break;  // the line of the kernel, not of the inline function it was in
    }
    pclose(out);
  }
  return found;
}

std::string describe(const Stamp& s) {
  const char* verb[] = {"", "reads", "writes", "updates atomically", ""};
  return "block " + std::to_string(s.block) + " thread " + std::to_string(s.thread) + " " +
         verb[static_cast<int>(s.kind)] + " at " + line_of(s.pc);
}

[[noreturn]] void report(std::uintptr_t address, const Stamp& now, const Stamp& before) {
  char where[32];
  std::snprintf(where, sizeof where, "0x%llx", static_cast<unsigned long long>(address));
  if (before.kind == Kind::unwritten)
    fail("race checker: shared memory nobody wrote, " + std::string(where) + ": " + describe(now));
  fail("race checker: " + std::string(where) + ": " + describe(now) + ", unordered with: " + describe(before));
}

// ---------- the check

bool ordered(const Stamp& before, const Stamp& now, const Block& block) {
  if (before.kind == Kind::none) return true;
  const Thread& self = block.threads[now.thread];
  if (before.block == now.block) {
    if (before.thread == now.thread || before.epoch < now.epoch) return true;
    if (before.thread / 32 == now.thread / 32 && before.clock <= self.warp[before.thread % 32]) return true;
  }
  return !self.known.empty() && self.known.covers(before);
}

void check(std::uintptr_t address, Cell& cell, const Stamp& now, const Block& block) {
  if (cell.write.kind == Kind::unwritten) {
    if (now.kind != Kind::write) report(address, now, cell.write);
  } else if (!(now.kind == Kind::atomic && cell.write.kind == Kind::atomic) && !ordered(cell.write, now, block)) {
    report(address, now, cell.write);
  }
  if (now.kind == Kind::read) {
    // Two readers are remembered. One that the new one is ordered after is no longer needed: whoever is ordered after
    // the new one is ordered after it, too. Otherwise they take turns.
    for (Stamp& old : cell.read)
      if (ordered(old, now, block)) {
        old = now;
        return;
      }
    cell.read[state().turn++ % 2] = now;
    return;
  }
  for (const Stamp& old : cell.read)
    if (!ordered(old, now, block)) report(address, now, old);
  cell.write = now;
  cell.read[0] = cell.read[1] = Stamp{};
}

// Calls f(address, cell) for all cells of a range; partly covered granules are split.
template <class F>
void for_cells(std::uintptr_t begin, std::uintptr_t end, F&& f) {
  for (std::uintptr_t at = begin & ~std::uintptr_t{3}; at < end; at += 4) {
    Granule& g = granule(at);
    const bool partly = at < begin || at + 4 > end;
    if (partly && g.bytes == nullptr) {
      g.bytes = std::make_unique<std::array<Cell, 4>>();
      g.bytes->fill(g.whole);
    }
    if (g.bytes == nullptr) {
      f(at, g.whole);
      continue;
    }
    for (std::uintptr_t byte = std::max(at, begin); byte < std::min(at + 4, end); ++byte)
      f(byte, (*g.bytes)[byte - at]);
  }
}

}  // namespace

void access(const void* p, std::size_t bytes, Kind kind, const void* pc) {
  State& s = state();
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (address - s.stacks < s.stack_bytes) return;
  Block& block = own_block();
  Thread& self = block.threads[threadIdx.x];
  const auto offset = reinterpret_cast<std::uintptr_t>(pc) - reinterpret_cast<std::uintptr_t>(&__executable_start);
  const Stamp now{
      blockIdx.x, block.epoch, self.clock, static_cast<std::uint32_t>(offset), static_cast<std::uint16_t>(threadIdx.x),
      kind};
  for_cells(address, address + bytes, [&](std::uintptr_t at, Cell& cell) { check(at, cell, now, block); });
  if (kind == Kind::atomic && s.any_fence) {
    Knowledge& released = s.atomics[address];
    self.pending.merge(released);
    released.merge(self.fenced);
  }
}

void fence() {
  state().any_fence = true;
  Block& block = own_block();
  Thread& self = block.threads[threadIdx.x];
  self.known.merge(self.pending);
  self.pending = {};
  self.fenced = self.known;
  self.fenced.epochs[blockIdx.x] = block.epoch;
  const unsigned first = threadIdx.x & ~31u;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (self.warp[lane] > 0) self.fenced.clocks[{blockIdx.x, first + lane}] = self.warp[lane];
  self.fenced.clocks[{blockIdx.x, threadIdx.x}] = self.clock;
  ++self.clock;
}

void block_barrier() {
  Block& block = own_block();
  ++block.epoch;
  if (!state().any_fence) return;
  // Also what atomics brought but no fence confirmed yet: the fence may come after the barrier, in each thread that
  // reads.
  Knowledge known, pending;
  for (const Thread& thread : block.threads) known.merge(thread.known), pending.merge(thread.pending);
  for (Thread& thread : block.threads) thread.known = known, thread.pending = pending;
}

void warp_barrier(unsigned mask) {
  Block& block = own_block();
  const unsigned first = threadIdx.x & ~31u;
  std::array<std::uint32_t, 32> joined{};
  Knowledge known, pending;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    Thread& thread = block.threads[first + lane];
    for (unsigned i = 0; i < 32; ++i) joined[i] = std::max(joined[i], thread.warp[i]);
    joined[lane] = std::max(joined[lane], thread.clock++);
    if (state().any_fence) known.merge(thread.known), pending.merge(thread.pending);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    Thread& thread = block.threads[first + lane];
    thread.warp = joined;
    if (state().any_fence) thread.known = known, thread.pending = pending;
  }
}

void launch_begins(const void* stacks, std::size_t stack_bytes) {
  state().stacks = reinterpret_cast<std::uintptr_t>(stacks);
  state().stack_bytes = stack_bytes;
}

void launch_ends() {
  State& s = state();
  s.pages.clear();
  s.recent.fill({});
  s.blocks.clear();
  s.atomics.clear();
  s.any_fence = false;
}

void block_begins(unsigned block, int threads) { state().blocks[block].threads.resize(threads); }
void block_ends(unsigned block) { state().blocks.erase(block); }

void shared_begins(const void* p, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(p);
  Stamp unwritten;
  unwritten.kind = Kind::unwritten;
  for_cells(begin, begin + bytes, [&](std::uintptr_t, Cell& cell) { cell = {unwritten, {}}; });
}

// The next block, or the host, may get the same addresses.
void shared_ends(const void* p, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(p);
  for_cells(begin, begin + bytes, [](std::uintptr_t, Cell& cell) { cell = {}; });
}

}  // namespace symkern::simt::race

// ---------- what the compiler calls

namespace {

void on_access(const void* p, std::size_t bytes, symkern::simt::race::Kind kind, const void* pc) {
  using namespace symkern::simt;
  if (in_runtime) return;
  in_runtime = true;
  preempt();  // before: the others see memory without this access
  race::access(p, bytes, kind, pc);
  in_runtime = false;
}

}  // namespace

#define READ symkern::simt::race::Kind::read
#define WRITE symkern::simt::race::Kind::write
#define HOOK(name, bytes, kind) \
  void __tsan_##name(void* p) { on_access(p, bytes, kind, __builtin_return_address(0)); }
#define HOOKS(bytes)                         \
  HOOK(read##bytes, bytes, READ)             \
  HOOK(write##bytes, bytes, WRITE)           \
  HOOK(unaligned_read##bytes, bytes, READ)   \
  HOOK(unaligned_write##bytes, bytes, WRITE) \
  HOOK(volatile_read##bytes, bytes, READ)    \
  HOOK(volatile_write##bytes, bytes, WRITE)

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, std::size_t bytes) { on_access(p, bytes, READ, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t bytes) { on_access(p, bytes, WRITE, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Guards of static variables, shared_ptr, std::atomic in host code. Kernels have atomicAdd and so on instead.
#define HOST_ATOMICS(bits, T)                                                                                       \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
  void __tsan_atomic##bits##_store(volatile T* p, T x, int) { __atomic_store_n(p, x, __ATOMIC_SEQ_CST); }           \
  T __tsan_atomic##bits##_exchange(volatile T* p, T x, int) { return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T x, int) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T x, int) { return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* old, T x, int, int) {                         \
    return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
  }
HOST_ATOMICS(8, unsigned char)
HOST_ATOMICS(32, unsigned)
HOST_ATOMICS(64, unsigned long)
}
