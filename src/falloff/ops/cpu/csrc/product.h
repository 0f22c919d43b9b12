// Small matrix products: a sliver of A times B, with C in registers. All products of packed factors are made here.
//
// A sliver is at most 6 rows. The micro kernel keeps a block of C, ROWS x (VECTORS * W) floats, in registers while it runs
// along the inner dimension: each step loads a row of B and broadcasts ROWS numbers of A. A's strides are free, so that the
// same code multiplies by A transposed. 6 x 4 vectors fill 24 of the 32 registers of AVX-512 and NEON, 6 x 2 fill 12 of the 16
// of AVX2; the rest hold B's row and the broadcast.
// One function makes all blocks of a sliver: a call for each block would empty the pipeline between them, which at 64 steps
// costs 14% of the peak with AVX2. On Zen 4 a sliver runs at 97 to 99% of the peak.
#pragma once

#include <cstdint>
#include <cstring>

#include "prefetch.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

constexpr int SLIVER_ROWS = 6;
constexpr int PANEL_VECTORS = W == 8 ? 2 : 4;
static_assert(SLIVER_ROWS == 6 && PANEL_VECTORS <= 4);  // micro_kernel is made for each number of them
constexpr int PANEL = PANEL_VECTORS * W;  // columns of a panel: see pack_panels

// Some processors multiply pairs of bfloat16: there a lane of A and of B holds two neighbours along the inner dimension, which
// then counts pairs, and twice as many products take the same time. Elsewhere bfloat16 is widened to float.
#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

struct Left {  // A: element (i, k) lies at data[i * row + k * inner]
    const float* data;
    long row, inner;
};

struct Right {  // B: element (k, j) lies at data[j / PANEL * panel + k * row + j % PANEL]
    const float* data;
    long row, panel;
    const float* vector(const float* of_panel, long k, int v) const { return of_panel + k * row + v * W; }
    const float* next(const float* of_panel) const { return of_panel + panel; }
};

// B in blocks of 16 columns: element (k, j) lies at data[x / 16 * size + k * 16 + x % 16], x = first + j, where `first` is a
// multiple of W below 16. A product can begin at any vector, and every instruction set reads the same memory.
struct RightBlocks {
    const float* data;
    long size, first;
    const float* vector(const float* of_panel, long k, int v) const {
        const long x = (W == BLOCK ? 0 : first) + v * W;
        return of_panel + x / BLOCK * size + k * BLOCK + x % BLOCK;
    }
    const float* next(const float* of_panel) const { return of_panel + PANEL / BLOCK * size; }
    static constexpr long BLOCK = 16;
    static_assert(BLOCK % W == 0 && PANEL % BLOCK == 0);
};

template <int N>
struct Count {
    static constexpr int value = N;
};

// sums + x * row, lane by lane; where a lane holds a pair of bfloat16, plus both products of the pair.
template <bool PAIRS>
inline Vec multiply_add(Vec sums, Vec x, Vec row) {
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) return (Vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)row, (__m512bh)x);
#endif
    return sums + x * row;
}

// The 32 bits at x, a float or a pair of bfloat16, in every lane.
inline Vec broadcast_bits(const float* x) {
    int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return (Vec)(bits - Int{});
}

// One block of C, A (ROWS, inner) times B (inner, VECTORS * W), where inner is at least 1: the sums of row i and vector v begin
// at start(i, v); those of a row go to finish(i, sums).
template <int ROWS, int VECTORS, bool PAIRS, class B, class Ahead, class Start, class Finish>
[[gnu::always_inline]] inline void micro_kernel(
    long inner, Left a, B b, const float* panel, Ahead& prefetch, Start start, Finish finish
) {
    Vec sums[ROWS][VECTORS];  // (ROWS, VECTORS * W)
    FALLOFF_UNROLL
    for (int i = 0; i < ROWS; i++)
        FALLOFF_UNROLL
        for (int v = 0; v < VECTORS; v++) sums[i][v] = start(i, v);
    if (inner < 1) __builtin_unreachable();  // no test before the first step; a do-while GCC would not unroll
    FALLOFF_UNROLL_TWICE
    for (long k = 0; k < inner; k++) {
        Vec row[VECTORS];
        FALLOFF_UNROLL
        for (int v = 0; v < VECTORS; v++) row[v] = load(b.vector(panel, k, v));
        FALLOFF_UNROLL
        for (int i = 0; i < ROWS; i++) {
            const Vec x = broadcast_bits(a.data + i * a.row + k * a.inner);
            FALLOFF_UNROLL
            for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add<PAIRS>(sums[i][v], x, row[v]);
        }
    }
    FALLOFF_UNROLL
    for (int i = 0; i < ROWS; i++) {
        finish(i, sums[i]);
        prefetch.step();
    }
}

// A (ROWS, inner) times B (inner, columns), block by block.
template <int ROWS, bool PAIRS, class B, class Ahead, class Start, class Finish>
[[gnu::noinline]] void multiply_rows(
    long columns, long inner, Left a, B b, Ahead& prefetch, Start start, Finish finish
) {
    long column = 0;
    const float* panel = b.data;
    auto block = [&](auto vectors) __attribute__((always_inline)) {
        micro_kernel<ROWS, decltype(vectors)::value, PAIRS>(
            inner, a, b, panel, prefetch, [&](int i, int v) { return start(i, column + v * W); },
            [&](int i, const auto& sums) { finish(i, column, sums); }
        );
    };
    for (; column + PANEL <= columns; column += PANEL, panel = b.next(panel)) block(Count<PANEL_VECTORS>{});
    static_assert(PANEL_VECTORS <= 4);
    switch ((columns - column) / W) {
        case 1: return block(Count<1>{});
        case 2: return block(Count<2>{});
        case 3: return block(Count<3>{});
    }
}

// A (rows, inner) times B (inner, columns), with rows <= SLIVER_ROWS, inner >= 1 and whole vectors of columns. The sums of a
// vector of columns begin at start(row, column); finish(row, column, sums) takes those of up to PANEL columns. Between
// rows of blocks, `prefetch` asks for other memory.
template <class B, class Ahead, class Start, class Finish>
inline void multiply_sliver(
    long rows, long columns, long inner, Left a, B b, bool pairs, Ahead& prefetch, Start start, Finish finish
) {
    auto run = [&](auto count) {
        constexpr int ROWS = decltype(count)::value;
        if (pairs && HAS_PAIRS) multiply_rows<ROWS, HAS_PAIRS>(columns, inner, a, b, prefetch, start, finish);
        else multiply_rows<ROWS, false>(columns, inner, a, b, prefetch, start, finish);
    };
    static_assert(SLIVER_ROWS == 6);
    switch (rows) {
        case 1: return run(Count<1>{});
        case 2: return run(Count<2>{});
        case 3: return run(Count<3>{});
        case 4: return run(Count<4>{});
        case 5: return run(Count<5>{});
        default: return run(Count<6>{});
    }
}

// C (rows, columns) += A (rows, inner) B (inner, columns), or C = A B where it is `fresh`: whoever is first to write a sum need
// not set it to 0.
template <class Ahead>
inline void add_product(
    long rows, long columns, long inner, Left a, Right b, float* c, long c_row, bool pairs, bool fresh, Ahead& prefetch
) {
    multiply_sliver(
        rows, columns, inner, a, b, pairs, prefetch, [=](int i, long j) { return fresh ? Vec{} : load(c + i * c_row + j); },
        [=]<int V>(int i, long j, const Vec (&sums)[V]) {
            for (int v = 0; v < V; v++) store(c + i * c_row + j + v * W, sums[v]);
        }
    );
}

}  // namespace falloff::FALLOFF_ISA
