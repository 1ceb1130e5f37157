// Fibers: stacks and the switch between them. Internal to the runtime.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <stdexcept>

#if !defined(__x86_64__) && !defined(SYMKERN_SIMT_UCONTEXT)
#define SYMKERN_SIMT_UCONTEXT
#endif
#ifdef SYMKERN_SIMT_UCONTEXT
#include <ucontext.h>
#endif

#ifndef SYMKERN_SIMT_UCONTEXT
// Saves the registers a function must preserve on the stack, the stack pointer in *save, and continues from load.
// Five times faster than swapcontext, which makes a system call to keep the signal mask.
extern "C" void symkern_simt_switch(void** save, void* load);
#endif

namespace symkern::simt {

constexpr std::size_t stack_bytes = 256 * 1024, guard_bytes = 4096;
constexpr int max_resident = 4, max_threads = 1024;

#ifndef SYMKERN_SIMT_UCONTEXT
struct Context {
  void* sp = nullptr;

  void prepare(char* stack, void (*entry)()) {
    // As the switch leaves it: six registers, then the address it returns to; 0 ends the chain of callers, and puts the
    // stack pointer where a call would have.
    void** top = reinterpret_cast<void**>(stack + stack_bytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    sp = top;
  }
};
inline void switch_context(Context& from, Context& to) { symkern_simt_switch(&from.sp, to.sp); }
#else
struct Context {
  ucontext_t state;

  void prepare(char* stack, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = stack_bytes;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

constexpr std::size_t all_stacks_bytes = max_resident * max_threads * (stack_bytes + guard_bytes);

// One range for all stacks, so that the race checker can tell them from memory that threads share. Kept for the
// process.
inline char* all_stacks() {
  static char* const begin = [] {
    void* p = mmap(nullptr, all_stacks_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("simt: no address space for the stacks");
    return static_cast<char*>(p);
  }();
  return begin;
}

// Each has a guard page below.
inline char* usable_stack(int number) {
  char* stack = all_stacks() + static_cast<std::size_t>(number) * (stack_bytes + guard_bytes) + guard_bytes;
  if (mprotect(stack, stack_bytes, PROT_READ | PROT_WRITE) != 0)
    throw std::runtime_error("simt: no memory for a stack");
  return stack;
}

}  // namespace symkern::simt
