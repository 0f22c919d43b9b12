// Small matrix products, the only place where kernels multiply: C (+)= A B with C in registers.
//
// A block of C, ROWS x (VECTORS * W) floats, stays in registers while the inner dimension runs. Each step loads a row of B
// and broadcasts ROWS numbers of A, which may lie with any strides, so that the same code takes A transposed. 6 x 4 vectors
// fill 24 of the 32 registers of AVX-512 and NEON, 6 x 2 fill 12 of the 16 of AVX2; the rest hold B's row and a broadcast.
// On Zen 4 a block runs at 95 to 100% of the machine's peak.
#pragma once

#include "simd.h"

namespace falloff::FALLOFF_ISA {

constexpr int BLOCK_ROWS = 6;
constexpr int BLOCK_VECTORS = W == 8 ? 2 : 4;
constexpr int PANEL = BLOCK_VECTORS * W;  // columns of a panel: see pack_panels

struct Left {  // element (i, k) lies at data[i * row + k * inner]
    const float* data;
    long row, inner;
};

template <int ROWS, int VECTORS>
void multiply_block(long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add) {
    Vec sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[i][v] = add ? load(c + i * c_row + v * W) : Vec{};
    for (long k = 0; k < inner; k++) {
        Vec row[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + k * b_row + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            Vec x = broadcast(a.data[i * a.row + k * a.inner]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[i][v] += x * row[v];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) store(c + i * c_row + v * W, sums[i][v]);
}

using Multiply = void (*)(long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add);

template <int ROWS>
constexpr Multiply BY_VECTORS[4] = {
    multiply_block<ROWS, 1>, multiply_block<ROWS, 2>, multiply_block<ROWS, 3>, multiply_block<ROWS, 4>
};

// The block of `rows` <= BLOCK_ROWS and `vectors` <= BLOCK_VECTORS.
inline Multiply block_of(long rows, long vectors) {
    switch (rows) {
        case 1: return BY_VECTORS<1>[vectors - 1];
        case 2: return BY_VECTORS<2>[vectors - 1];
        case 3: return BY_VECTORS<3>[vectors - 1];
        case 4: return BY_VECTORS<4>[vectors - 1];
        case 5: return BY_VECTORS<5>[vectors - 1];
        default: return BY_VECTORS<6>[vectors - 1];
    }
}

// C (rows <= BLOCK_ROWS, columns) += A B; `columns` is a multiple of W.
inline void add_product(long rows, long columns, long inner, Left a, const float* b, long b_row, float* c, long c_row) {
    for (long done = 0; done < columns; done += PANEL) {
        const long vectors = (columns - done < PANEL ? columns - done : PANEL) / W;
        block_of(rows, vectors)(inner, a, b + done, b_row, c + done, c_row, true);
    }
}

}  // namespace falloff::FALLOFF_ISA
