// Small matrix products, the only place where kernels multiply: C (+)= A B with C in registers.
//
// A block of C, ROWS x (VECTORS * W) floats, stays in registers while the inner dimension runs. Each step loads a row of B
// and broadcasts ROWS numbers of A, which may lie with any strides, so that the same code takes A transposed. 6 x 4 vectors
// fill 24 of the 32 registers of AVX-512 and NEON, 6 x 2 fill 12 of the 16 of AVX2; the rest hold B's row and a broadcast.
// On Zen 4 a block runs at 95 to 100% of the machine's peak.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace falloff::FALLOFF_ISA {

constexpr int BLOCK_ROWS = 6;
constexpr int BLOCK_VECTORS = W == 8 ? 2 : 4;
static_assert(BLOCK_ROWS == 6 && BLOCK_VECTORS <= 4);  // block_of has a function for each number of them
constexpr int PANEL = BLOCK_VECTORS * W;  // columns of a panel: see pack_panels

// Where the processor multiplies pairs of bfloat16, a lane of A and of B may hold two numbers that are neighbours along the
// inner dimension, which then counts pairs: twice the products in the same time. Elsewhere bfloat16 is widened to float.
#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

struct Left {  // element (i, k) lies at data[i * row + k * inner]
    const float* data;
    long row, inner;
};

// sums += x * row, lane by lane; in pairs, where a lane holds two bfloat16, the sum of both products.
template <bool PAIRS>
inline Vec multiply_add(Vec sums, Vec x, Vec row) {
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) return (Vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)row, (__m512bh)x);
#endif
    return sums + x * row;
}

// One lane's bits in all lanes, be they a float or a pair.
inline Vec broadcast_bits(const float* x) {
    int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return (Vec)(bits - Int{});
}

template <int ROWS, int VECTORS, bool PAIRS>
void multiply_block(long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add) {
    Vec sums[ROWS][VECTORS];
    FALLOFF_UNROLL
    for (int i = 0; i < ROWS; i++)
        FALLOFF_UNROLL
        for (int v = 0; v < VECTORS; v++) sums[i][v] = add ? load(c + i * c_row + v * W) : Vec{};
    for (long k = 0; k < inner; k++) {
        Vec row[VECTORS];
        FALLOFF_UNROLL
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + k * b_row + v * W);
        FALLOFF_UNROLL
        for (int i = 0; i < ROWS; i++) {
            const Vec x = broadcast_bits(a.data + i * a.row + k * a.inner);
            FALLOFF_UNROLL
            for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add<PAIRS>(sums[i][v], x, row[v]);
        }
    }
    FALLOFF_UNROLL
    for (int i = 0; i < ROWS; i++)
        FALLOFF_UNROLL
        for (int v = 0; v < VECTORS; v++) store(c + i * c_row + v * W, sums[i][v]);
}

using Multiply = void (*)(long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add);

template <int ROWS, bool PAIRS>
constexpr Multiply BY_VECTORS[4] = {
    multiply_block<ROWS, 1, PAIRS>, multiply_block<ROWS, 2, PAIRS>, multiply_block<ROWS, 3, PAIRS>,
    multiply_block<ROWS, 4, PAIRS>
};

template <bool PAIRS>
inline Multiply block_of(long rows, long vectors) {
    switch (rows) {
        case 1: return BY_VECTORS<1, PAIRS>[vectors - 1];
        case 2: return BY_VECTORS<2, PAIRS>[vectors - 1];
        case 3: return BY_VECTORS<3, PAIRS>[vectors - 1];
        case 4: return BY_VECTORS<4, PAIRS>[vectors - 1];
        case 5: return BY_VECTORS<5, PAIRS>[vectors - 1];
        default: return BY_VECTORS<6, PAIRS>[vectors - 1];
    }
}

// The block of `rows` <= BLOCK_ROWS and `vectors` <= BLOCK_VECTORS.
inline Multiply block_of(long rows, long vectors, bool pairs) {
    return pairs && HAS_PAIRS ? block_of<HAS_PAIRS>(rows, vectors) : block_of<false>(rows, vectors);
}

// C (rows <= BLOCK_ROWS, columns) += A B; `columns` is a multiple of W.
inline void add_product(
    long rows, long columns, long inner, Left a, const float* b, long b_row, float* c, long c_row, bool pairs
) {
    for (long done = 0; done < columns; done += PANEL) {
        const long vectors = (columns - done < PANEL ? columns - done : PANEL) / W;
        block_of(rows, vectors, pairs)(inner, a, b + done, b_row, c + done, c_row, true);
    }
}

}  // namespace falloff::FALLOFF_ISA
