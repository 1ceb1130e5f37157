// Between simt.cpp and race.cpp. Without SYMKERN_SIMT_RACE all of it is empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace symkern::simt {

// True while the runtime or host code runs: the hooks then ignore accesses. The linker may give the runtime
// instrumented copies of inline library functions, so that compiling it without instrumentation is not enough.
extern bool in_runtime;

// Stops the launch: leaves the running fiber for good. For hooks too, which cannot throw.
[[noreturn]] void fail(const std::string& message);

// In random orders, now and then lets another fiber go first.
void preempt();

namespace race {

enum class Kind : std::uint8_t { none, read, write, atomic, unwritten };

#ifdef SYMKERN_SIMT_RACE
constexpr bool enabled = true;
void launch_begins(const void* stacks, std::size_t stack_bytes);
void launch_ends();
void block_begins(unsigned block, int threads);
void block_ends(unsigned block);
void shared_begins(const void* p, std::size_t bytes);
void shared_ends(const void* p, std::size_t bytes);
void access(const void* p, std::size_t bytes, Kind kind, const void* pc);  // by the running thread
void block_barrier();                                                      // of its block
void warp_barrier(unsigned mask);                                          // of its warp
void fence();
#else
constexpr bool enabled = false;
inline void launch_begins(const void*, std::size_t) {}
inline void launch_ends() {}
inline void block_begins(unsigned, int) {}
inline void block_ends(unsigned) {}
inline void shared_begins(const void*, std::size_t) {}
inline void shared_ends(const void*, std::size_t) {}
inline void access(const void*, std::size_t, Kind, const void*) {}
inline void block_barrier() {}
inline void warp_barrier(unsigned) {}
inline void fence() {}
#endif

}  // namespace race
}  // namespace symkern::simt
