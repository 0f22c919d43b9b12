// Scratch memory, handed out in parts. All instruction sets include it: nothing in here may be emitted as a function, see
// simd.h.
#pragma once

#include <cstddef>

namespace falloff {

// Hands out parts that begin on a cache line. Without memory it only counts bytes: the same function takes the parts and says
// how much memory they need.
class Arena {
public:
    static constexpr size_t LINE = 64;

    [[gnu::always_inline]] explicit Arena(void* start = nullptr) : memory(static_cast<char*>(start)) {}

    template <class T>
    [[gnu::always_inline]] T* take(size_t count) {
        static_assert(LINE % alignof(T) == 0);
        char* part = memory ? memory + used : nullptr;
        used += (count * sizeof(T) + LINE - 1) / LINE * LINE;
        return reinterpret_cast<T*>(part);
    }
    [[gnu::always_inline]] size_t bytes() const { return used; }

private:
    char* memory;
    size_t used = 0;
};

}  // namespace falloff
