// What kernels call: collectives, shared memory, atomics, async copies.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "testing/runtime.h"

namespace symkern::simt {
namespace {

bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

void meet_block(const char* what, void* slot, Resolve resolve, Where where, bool barrier) {
  InRuntime guard;
  Fiber& self = *state().running;
  Block& block = *self.block;
  if (block.alive < state().threads)
    fail(name(self) + ": " + what + " at " + text(where) + ", but " + std::to_string(state().threads - block.alive) +
         " threads of the block have exited");
  if (block.arrived > 0 && (std::strcmp(block.barrier, what) != 0 || !same(block.where, where)))
    fail(name(self) + ": divergent, " + what + " at " + text(where) + " while " + std::to_string(block.arrived) +
         " threads of the block wait at " + block.barrier + ", " + text(block.where));
  block.barrier = what;
  block.where = where;
  block.slots[self.thread] = slot;
  self.waits_at = what;
  self.waits_mask = 0;
  self.where = where;
  if (++block.arrived == state().threads) {
    if (resolve != nullptr) resolve(block.slots.data(), state().threads);
    block.arrived = 0;
    if (barrier) {
      race::block_barrier();
      for (Fiber& fiber : block.fibers) fiber.scans.clear();
    }
    release(block, 0, static_cast<unsigned>(state().threads), 0xffffffffu);
  }
  to_scheduler();
}

void meet_warp(const char* what, unsigned mask, void* slot, Resolve resolve, Where where, bool barrier) {
  InRuntime guard;
  Fiber& self = *state().running;
  Warp& warp = self.block->warps[self.thread / 32];
  const unsigned lane = self.thread % 32;
  const auto here = [&] { return name(self) + ": " + what + " (mask " + hex(mask) + ") at " + text(where); };
  if ((mask >> lane & 1u) == 0) fail(here() + ", the mask lacks the calling lane");
  if (mask & warp.exited)
    fail(here() + ", the mask names lane " + std::to_string(__builtin_ctz(mask & warp.exited)) + ", which has exited");
  // Meetings with other masks may be open: their lanes are ahead of this one. If nobody ever joins them, that is a
  // deadlock.
  auto meeting = std::find_if(warp.open.begin(), warp.open.end(), [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == warp.open.end()) meeting = warp.open.insert(meeting, Meeting{what, where, mask, 0, {}});
  if (std::strcmp(meeting->what, what) != 0 || !same(meeting->where, where))
    fail(here() + ", divergent: others wait at " + meeting->what + ", " + text(meeting->where));
  meeting->slots[lane] = slot;
  meeting->arrived |= 1u << lane;
  self.waits_at = what;
  self.waits_mask = mask;
  self.where = where;
  if (meeting->arrived == mask) {
    if (resolve != nullptr) resolve(meeting->slots.data(), 32);
    warp.open.erase(meeting);
    if (barrier) race::warp_barrier(mask);
    release(*self.block, self.thread - lane, 32, mask);
  }
  to_scheduler();
}

}  // namespace

void block_meet(const char* what, void* slot, Resolve resolve, Where where) {
  meet_block(what, slot, resolve, where, false);
}
void block_barrier(const char* what, void* slot, Resolve resolve, Where where) {
  meet_block(what, slot, resolve, where, true);
}
void warp_meet(const char* what, unsigned mask, void* slot, Resolve resolve, Where where) {
  meet_warp(what, mask, slot, resolve, where, false);
}
void warp_barrier(unsigned mask, Where where) { meet_warp("__syncwarp", mask, nullptr, nullptr, where, true); }

std::uint64_t gather(const char* what, unsigned mask, std::uint64_t bits, int source_lane, Where where) {
  struct Slot {
    std::uint64_t in, out;
    int source;
  } slot{bits, 0, source_lane};
  warp_meet(
      what, mask, &slot,
      [](void** slots, int count) {
        for (int i = 0; i < count; ++i) {
          if (slots[i] == nullptr) continue;
          Slot& one = *static_cast<Slot*>(slots[i]);
          const void* source = slots[one.source];
          one.out =
              source != nullptr ? static_cast<const Slot*>(source)->in : 0x7fedcba97fedcba9ull;  // undefined on CUDA
        }
      },
      where);
  return slot.out;
}

unsigned ballot(const char* what, unsigned mask, bool vote, Where where) {
  unsigned slot = vote;
  warp_meet(
      what, mask, &slot,
      [](void** slots, int count) {
        unsigned votes = 0;
        for (int i = 0; i < count; ++i)
          if (slots[i] != nullptr) votes |= *static_cast<unsigned*>(slots[i]) << i;
        for (int i = 0; i < count; ++i)
          if (slots[i] != nullptr) *static_cast<unsigned*>(slots[i]) = votes;
      },
      where);
  return slot;
}

unsigned match(unsigned mask, std::uint64_t bits, Where where) {
  struct Slot {
    std::uint64_t bits;
    unsigned equal;
  } slot{bits, 0};
  warp_meet(
      "__match_any_sync", mask, &slot,
      [](void** slots, int count) {
        for (int i = 0; i < count; ++i)
          for (int j = 0; j < count; ++j)
            if (slots[i] != nullptr && slots[j] != nullptr &&
                static_cast<Slot*>(slots[i])->bits == static_cast<Slot*>(slots[j])->bits)
              static_cast<Slot*>(slots[i])->equal |= 1u << j;
      },
      where);
  return slot.equal;
}

void mma_m16n8k8_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], Where where) {
  struct Slot {
    float* c;
    const float *a, *b;
  } slot{c, a, b};
  for (int i = 0; i < 6; ++i) {
    const std::uint64_t bits = to_bits(i < 4 ? a[i] : b[i - 4]);
    if ((bits & 0x1fffu) != 0 && (bits & 0x7f800000u) != 0x7f800000u)
      fail(name(*state().running) + ": mma operand is not a tf32 number, to_tf32() is missing, " + text(where));
  }
  warp_meet(
      "mma_m16n8k8_tf32", 0xffffffffu, &slot,
      [](void** slots, int) {
        auto at = [&](int lane) -> Slot& { return *static_cast<Slot*>(slots[lane]); };
        for (int row = 0; row < 16; ++row)
          for (int column = 0; column < 8; ++column) {
            float& sum = at(row % 8 * 4 + column / 2).c[row / 8 * 2 + column % 2];
            for (int k = 0; k < 8; ++k)
              sum = std::fmaf(at(row % 8 * 4 + k % 4).a[k / 4 * 2 + row / 8], at(column * 4 + k % 4).b[k / 4], sum);
          }
      },
      where);
}

void claim_scan_storage(const void* storage, int scan_threads) {
  InRuntime guard;
  Fiber& self = *state().running;
  if (scan_threads != state().threads)
    fail(name(self) + ": BlockScan over " + std::to_string(scan_threads) + " threads in a block of " +
         std::to_string(state().threads));
  if (std::find(self.scans.begin(), self.scans.end(), storage) != self.scans.end())
    fail(name(self) + ": BlockScan storage used again without __syncthreads");
  self.scans.push_back(storage);
}

// ---------- memory

void* shared_memory(const void* key, std::size_t bytes) {
  InRuntime guard;
  Block& block = *state().running->block;
  for (const Shared& one : block.shared)
    if (one.key == key) return one.data;
  const std::size_t all_static = block.shared_bytes - state().dynamic_bytes + bytes;
  if (all_static > 48 * 1024 || all_static + state().dynamic_bytes > config().shared_limit)
    fail(name(*state().running) + ": " + std::to_string(all_static) + " bytes of static and " +
         std::to_string(state().dynamic_bytes) + " of dynamic shared memory, the limits are 49152 and " +
         std::to_string(config().shared_limit) + " for both");
  return add_shared(block, key, bytes).data;
}

void* dynamic_shared() { return state().running->block->shared[0].data; }

void fence() {
  InRuntime guard;
  race::fence();
  if (one_in(4)) yield();
}

template <class T>
T atomic(Atomic operation, T* p, T value, T compare) {
  InRuntime guard;
  if (one_in(4)) yield();  // between whatever led to this atomic and the atomic itself
  race::access(p, sizeof(T), race::Kind::atomic, __builtin_return_address(0));
  const T old = *p;
  T result = value;
  if (operation == Atomic::add) result = static_cast<T>(old + value);
  if (operation == Atomic::min) result = value < old ? value : old;
  if (operation == Atomic::max) result = old < value ? value : old;
  if (operation == Atomic::compare_and_swap) result = old == compare ? value : old;
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    if (operation == Atomic::add) result = static_cast<T>(static_cast<U>(old) + static_cast<U>(value));  // wraps
    if (operation == Atomic::bit_and) result = old & value;
    if (operation == Atomic::bit_or) result = old | value;
    if (operation == Atomic::bit_xor) result = old ^ value;
  }
  *p = result;
  return old;
}
template int atomic(Atomic, int*, int, int);
template unsigned atomic(Atomic, unsigned*, unsigned, unsigned);
template long long atomic(Atomic, long long*, long long, long long);
template unsigned long long atomic(Atomic, unsigned long long*, unsigned long long, unsigned long long);
template float atomic(Atomic, float*, float, float);
template double atomic(Atomic, double*, double, double);

void async_copy16(void* shared, const void* global, Where where) {
  InRuntime guard;
  Fiber& self = *state().running;
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    fail(name(self) + ": async copy at " + text(where) + ", addresses are not aligned to 16 bytes");
  const auto inside = [&](const Shared& one) {
    const auto offset = reinterpret_cast<std::uintptr_t>(shared) - reinterpret_cast<std::uintptr_t>(one.data);
    return offset < one.bytes && offset + 16 <= one.bytes;
  };
  const auto& arrays = self.block->shared;
  if (std::none_of(arrays.begin(), arrays.end(), inside))
    fail(name(self) + ": async copy at " + text(where) + " does not go to shared memory of its block");
  Copy copy{shared, global, self.copy_group, false, __builtin_return_address(0), where};
  race::access(shared, 16, race::Kind::write, copy.pc);  // may happen at once, see also async_wait
  if (one_in(2)) {
    std::memcpy(shared, global, 16);
    copy.done = true;
  }
  self.copies.push_back(copy);
}

void async_commit() {
  InRuntime guard;
  ++state().running->copy_group;
}

void async_wait(int groups_left) {
  InRuntime guard;
  Fiber& self = *state().running;
  auto arrives = [&](const Copy& copy) { return copy.group < self.copy_group - groups_left; };
  for (const Copy& copy : self.copies) {
    if (!arrives(copy)) continue;
    race::access(copy.from, 16, race::Kind::read, copy.pc);
    race::access(copy.to, 16, race::Kind::write, copy.pc);
    if (!copy.done) std::memcpy(copy.to, copy.from, 16);
  }
  std::erase_if(self.copies, arrives);
}

bool use_temp(void* temp, std::size_t& bytes, std::int64_t n) {
  if (n < 0) throw std::runtime_error("device-wide operation on " + std::to_string(n) + " items");
  const std::size_t needed = 256 + 4 * static_cast<std::size_t>(n);
  if (temp == nullptr) {
    bytes = needed;
    return false;
  }
  if (bytes < needed) throw std::runtime_error("device-wide operation: temporary storage is too small");
  std::memset(temp, 0xa5, needed);
  return true;
}

}  // namespace symkern::simt
