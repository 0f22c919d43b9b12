// Memory that is needed soon, asked for while the processor multiplies.
#pragma once

#include <cstdint>

#include "arena.h"
#include "problem.h"

namespace falloff::FALLOFF_ISA {

// Rows of tensors, which are asked for one by one: a step is a row of a block of a product (product.h). All at once, they would
// hold up the loads of the product itself.
class Prefetch {
public:
    void clear() { *this = Prefetch(); }

    // `count` rows from row `first` on.
    void add(const Problem& p, const Rows& t, long b, long h, long first, long count) {
        if (sets == MOST_SETS || count <= 0) return;
        const long size = p.type == Type::float32 ? sizeof(float) : sizeof(uint16_t);
        const char* start = static_cast<const char*>(t.data) + (b * t.batch + h * t.head + first * t.row) * size;
        set[sets++] = {start, t.row * size, count, p.D * size};
        rows += count;
    }

    // Spreads the rows over so many steps; those that are too many are not asked for.
    void spread(long steps) {
        if (rows > 0) wait = period = steps > rows ? steps / rows : 1;
    }

    void step() {
        if (--wait == 0) ask_for_row();
    }

private:
    static constexpr int MOST_SETS = 4;
    static constexpr long LINE = Arena::LINE, NEVER = INT64_MAX;
    struct {
        const char* start;
        long stride, count, bytes;
    } set[MOST_SETS] = {};
    int sets = 0, at = 0;
    long rows = 0, period = 1, wait = NEVER;

    // No part of step(), which is inlined behind each row of each block: the kernels would take twice as long to compile.
    [[gnu::noinline]] void ask_for_row() {
        auto& now = set[at];
        for (long byte = 0; byte < now.bytes; byte += LINE) __builtin_prefetch(now.start + byte, 0, 2);  // second level
        now.start += now.stride;
        if (--now.count == 0) at++;
        wait = at < sets ? period : NEVER;
    }
};

// Asks for nothing, and leaves no code. The backward takes it: its kv tile stays in the second-level cache while q tiles pass,
// and asking for what comes next gained nothing.
struct NoPrefetch {
    void step() {}
};

}  // namespace falloff::FALLOFF_ISA
