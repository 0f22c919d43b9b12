// Small matrix products, the only place where kernels multiply: C (+)= A B with C in registers.
//
// A block of C, ROWS x (VECTORS * W) floats, stays in registers while the inner dimension runs. Each step loads a row of B
// and broadcasts ROWS numbers of A, which may lie with any strides, so that the same code takes A transposed. 6 x 4 vectors
// fill 24 of the 32 registers of AVX-512 and NEON, 6 x 2 fill 12 of the 16 of AVX2; the rest hold B's row and a broadcast.
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
inline void multiply_block(long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add) {
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

template <int VECTORS>
inline void multiply_columns(long rows, long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add) {
    for (; rows >= BLOCK_ROWS; rows -= BLOCK_ROWS, a.data += BLOCK_ROWS * a.row, c += BLOCK_ROWS * c_row)
        multiply_block<BLOCK_ROWS, VECTORS>(inner, a, b, b_row, c, c_row, add);
    switch (rows) {
        case 5: return multiply_block<5, VECTORS>(inner, a, b, b_row, c, c_row, add);
        case 4: return multiply_block<4, VECTORS>(inner, a, b, b_row, c, c_row, add);
        case 3: return multiply_block<3, VECTORS>(inner, a, b, b_row, c, c_row, add);
        case 2: return multiply_block<2, VECTORS>(inner, a, b, b_row, c, c_row, add);
        case 1: return multiply_block<1, VECTORS>(inner, a, b, b_row, c, c_row, add);
    }
}

// C (rows x columns) (+)= A (rows x inner) B (inner x columns); `columns` is a multiple of W.
inline void multiply(
    long rows, long columns, long inner, Left a, const float* b, long b_row, float* c, long c_row, bool add
) {
    long done = 0;
    for (; done + PANEL <= columns; done += PANEL)
        multiply_columns<BLOCK_VECTORS>(rows, inner, a, b + done, b_row, c + done, c_row, add);
    switch ((columns - done) / W) {
        case 3: return multiply_columns<3>(rows, inner, a, b + done, b_row, c + done, c_row, add);
        case 2: return multiply_columns<2>(rows, inner, a, b + done, b_row, c + done, c_row, add);
        case 1: return multiply_columns<1>(rows, inner, a, b + done, b_row, c + done, c_row, add);
    }
}

// C (rows x panels * PANEL) = A (rows x inner) B, where B's panels of PANEL columns lie `panel_size` floats apart.
inline void multiply_panels(
    long rows, long panels, long inner, Left a, const float* b, long panel_size, float* c, long c_row
) {
    for (long p = 0; p < panels; p++)
        multiply_columns<BLOCK_VECTORS>(rows, inner, a, b + p * panel_size, PANEL, c + p * PANEL, c_row, false);
}

}  // namespace falloff::FALLOFF_ISA
