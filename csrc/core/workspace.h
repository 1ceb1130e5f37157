// Scratch memory that outlives a call. Fresh pages cost more than the work done on them (docs/design.md, "Fresh
// memory"), so blocks are aligned for huge pages and kept in a small process-wide pool between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace symkern {

// SYMKERN_HUGE_PAGES=0 turns the advice off, for systems whose fragmented memory makes huge-page faults stall.
inline bool huge_pages_enabled() {
  static const bool enabled = [] {
    const char* value = std::getenv("SYMKERN_HUGE_PAGES");
    return value == nullptr || value[0] != '0';
  }();
  return enabled;
}

inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  if (!huge_pages_enabled() || bytes < 4 * page) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(page - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

class BlockPool {
 public:
  static constexpr size_t kBlock = size_t{8} << 20;
  static constexpr size_t kRetained = 8;  // at most 64 MB stay with the process

  static BlockPool& instance() {
    static BlockPool* pool = new BlockPool;  // never destroyed: threads may outlive static destructors
    return *pool;
  }

  void* acquire() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        void* block = free_.back();
        free_.pop_back();
        return block;
      }
    }
    void* block = std::aligned_alloc(size_t{1} << 21, kBlock);
    if (block == nullptr) throw std::bad_alloc();
    advise_huge_pages(block, kBlock);
    return block;
  }

  void release(void* block) noexcept {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (free_.size() < kRetained) {
        free_.push_back(block);
        return;
      }
    }
    std::free(block);
  }

 private:
  BlockPool() { free_.reserve(kRetained); }
  std::mutex mutex_;
  std::vector<void*> free_;
};

// Bump allocator over pooled blocks. What it handed out stays valid until the arena is destroyed.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    for (void* block : blocks_) BlockPool::instance().release(block);
  }

  // Room for `count` elements; only the first `commit(used)` of them are kept.
  template <class T>
  T* reserve(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) & ~size_t{63};
#if defined(__SANITIZE_ADDRESS__)
    // exact and never reused, so that the sanitizer sees the first byte beyond
    large_.emplace_back(new std::byte[count * sizeof(T)]);
    return reinterpret_cast<T*>(large_.back().get());
#endif
    if (bytes > size_) {
      // small arenas stay small: the first blocks come from the heap, large ones from the pool
      const size_t wanted = blocks_.empty() && next_size_ < BlockPool::kBlock ? next_size_ : BlockPool::kBlock;
      if (bytes > wanted || wanted < BlockPool::kBlock) {
        size_ = bytes > wanted ? bytes : wanted;
        large_.emplace_back(new std::byte[size_ + 64]);
        const uintptr_t raw = reinterpret_cast<uintptr_t>(large_.back().get());
        next_ = reinterpret_cast<std::byte*>((raw + 63) & ~uintptr_t{63});
        next_size_ *= 8;
      } else {
        blocks_.push_back(BlockPool::instance().acquire());
        next_ = static_cast<std::byte*>(blocks_.back());
        size_ = BlockPool::kBlock;
      }
    }
    return reinterpret_cast<T*>(next_);
  }

  template <class T>
  void commit([[maybe_unused]] size_t used) {
#if !defined(__SANITIZE_ADDRESS__)
    const size_t bytes = (used * sizeof(T) + 63) & ~size_t{63};
    next_ += bytes;
    size_ -= bytes;
#endif
  }

  template <class T>
  T* allocate(size_t count) {
    T* data = reserve<T>(count);
    commit<T>(count);
    return data;
  }

 private:
  std::vector<void*> blocks_;
  std::vector<std::unique_ptr<std::byte[]>> large_;
  std::byte* next_ = nullptr;
  size_t size_ = 0;
  size_t next_size_ = size_t{16} << 10;
};

}  // namespace symkern
