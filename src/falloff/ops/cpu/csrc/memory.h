// The memory of a call, and of the threads that work on it.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "arena.h"

namespace falloff {

// A block of memory that begins on a cache line. A thread keeps one block of each kind from call to call unless it is large:
// for short calls, asking the system for memory would take as long as the work. While a block is in use the thread does not
// keep it: a signal's handler may call attention on the same thread, in the middle of an item.
enum class Use { call, item };

template <Use USE>
class Block {
public:
    explicit Block(size_t bytes) : memory(std::move(kept)), size(memory ? kept_size : 0) {
        if (memory && size >= bytes) return;
        size = bytes;
        memory.reset(::operator new(size ? size : 1, std::align_val_t{Arena::LINE}));
    }
    ~Block() {
        if (size > MOST_KEPT || (kept && kept_size >= size)) return;
        kept = std::move(memory);
        kept_size = size;
    }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    void* data() const { return memory.get(); }

private:
    static constexpr size_t MOST_KEPT = 4 << 20;
    struct Free {
        void operator()(void* block) const { ::operator delete(block, std::align_val_t{Arena::LINE}); }
    };
    using Memory = std::unique_ptr<void, Free>;
    static inline thread_local Memory kept;
    static inline thread_local size_t kept_size = 0;
    Memory memory;
    size_t size;
};

// The memory of a call. `take` takes its parts from an arena, twice: to count, then for good.
class CallMemory {
public:
    template <class Take>
    explicit CallMemory(Take take) : block(counted(take)) {
        Arena arena(block.data());
        take(arena);
    }

private:
    template <class Take>
    static size_t counted(Take& take) {
        Arena arena;
        take(arena);
        return arena.bytes();
    }
    Block<Use::call> block;
};

}  // namespace falloff
