// Copies of rows into scratch memory: float32, padded to whole vectors, or transposed into panels.
#pragma once

#include "problem.h"
#include "product.h"

namespace falloff::FALLOFF_ISA {

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }
inline long padded(const Problem& p) { return round_up(p.D, W); }  // a head's size in whole vectors

inline float from_bfloat16(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}
inline uint16_t to_bfloat16(float x) {  // to nearest, ties to even; a NaN stays one
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// Where row `i` of batch entry b and head h starts.
inline const float* row_of_float(const Rows& t, long b, long h, long i) {
    return static_cast<const float*>(t.data) + b * t.batch + h * t.head + i * t.row;
}
inline const uint16_t* row_of_bfloat16(const Rows& t, long b, long h, long i) {
    return static_cast<const uint16_t*>(t.data) + b * t.batch + h * t.head + i * t.row;
}

// `count` rows from row `first`: (count, Dp) floats, Dp = padded(p), zero beyond D.
inline void pack_rows(const Problem& p, const Rows& t, long b, long h, long first, long count, float* to) {
    const long D = p.D, Dp = padded(p);
    for (long i = 0; i < count; i++, to += Dp) {
        long d = 0;
        if (p.type == Type::float32) {
            const float* from = row_of_float(t, b, h, first + i);
            for (; d + W <= D; d += W) store(to + d, load(from + d));
            for (; d < D; d++) to[d] = from[d];
        } else {
            const uint16_t* from = row_of_bfloat16(t, b, h, first + i);
            for (; d < D; d++) to[d] = from_bfloat16(from[d]);
        }
        for (; d < Dp; d++) to[d] = 0.0f;
    }
}

// `count` rows, packed as (count, Dp), into panels of PANEL columns: panel[d][column], zero beyond `count`. Panels hold Dp rows.
inline void pack_panels(const float* rows, long count, long Dp, float* to) {
    for (long first = 0; first < count; first += PANEL, to += Dp * PANEL)
        for (long column = 0; column < PANEL; column += W)
            for (long d = 0; d < Dp; d += W) {
                Vec block[W];
#pragma GCC unroll 16
                for (int i = 0; i < W; i++) {
                    long row = first + column + i;
                    block[i] = row < count ? load(rows + row * Dp + d) : Vec{};
                }
                transpose(block);
#pragma GCC unroll 16
                for (int i = 0; i < W; i++) store(to + (d + i) * PANEL + column, block[i]);
            }
}

// Packed rows (count, Dp), times `factor`, to a contiguous tensor (.., D).
inline void unpack_rows(const Problem& p, const float* rows, long count, float factor, void* to, long first_row) {
    const long D = p.D, Dp = padded(p);
    for (long i = 0; i < count; i++) {
        const float* from = rows + i * Dp;
        if (p.type == Type::float32) {
            float* row = static_cast<float*>(to) + (first_row + i) * D;
            for (long d = 0; d < D; d++) row[d] = from[d] * factor;
        } else {
            uint16_t* row = static_cast<uint16_t*>(to) + (first_row + i) * D;
            for (long d = 0; d < D; d++) row[d] = to_bfloat16(from[d] * factor);
        }
    }
}

}  // namespace falloff::FALLOFF_ISA
