// Packing: copies of rows in scratch memory, as the factors of product.h. float32, or pairs of bfloat16 where the processor
// multiplies them; padded with zeros to whole vectors; as rows, or transposed into panels. And the way back, for results.
#pragma once

#include <cstdint>
#include <cstring>

#include "problem.h"
#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }
inline long padded(const Problem& p) { return round_up(p.D, W); }  // Dp: D in whole vectors

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

// Labels of the keys from `first` on, null where a call has none. Packing needs them: a key that key_mask hides (label -1) may
// hold anything, and is packed as zeros, for 0 * NaN is not 0.
inline const int32_t* labels_from(const Problem& p, long b, long first) {
    return p.key_labels ? p.key_labels + b * p.M + first : nullptr;
}

// `count` rows from row `first` on, as floats (count, Dp): zero beyond D, and where `labels` are negative.
inline void pack_rows(
    const Problem& p, const Rows& t, long b, long h, long first, long count, float* to, const int32_t* labels = nullptr
) {
    const long D = p.D, Dp = padded(p);
    for (long i = 0; i < count; i++, to += Dp) {
        long d = 0;
        if (labels && labels[i] < 0) {
            // zeros below
        } else if (p.type == Type::float32) {
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

inline bool in_pairs(const Problem& p) { return HAS_PAIRS && p.type == Type::bfloat16; }
// The inner dimension of a product that is summed along a head's D numbers, in numbers or pairs; the same in whole vectors.
inline long inner_of_head(const Problem& p) { return in_pairs(p) ? (p.D + 1) / 2 : p.D; }
inline long padded_inner(const Problem& p) { return round_up(inner_of_head(p), W); }
// The inner dimension of a product that is summed over rows, in rows or pairs of rows.
inline long inner_of_rows(const Problem& p, long rows) { return in_pairs(p) ? (rows + 1) / 2 : rows; }

// `count` rows as a left factor that is summed along a head, and as transpose_into_panels takes them: (count, padded_inner).
inline void pack_left(
    const Problem& p, const Rows& t, long b, long h, long first, long count, float* to, const int32_t* labels = nullptr
) {
    if (!in_pairs(p)) return pack_rows(p, t, b, h, first, count, to, labels);
    for (long i = 0; i < count; i++, to += padded_inner(p)) {
        const bool hidden = labels && labels[i] < 0;
        const long clear = hidden ? padded_inner(p) : W;
        std::memset(to + padded_inner(p) - clear, 0, clear * sizeof(float));
        if (!hidden) std::memcpy(to, row_of_bfloat16(t, b, h, first + i), p.D * sizeof(uint16_t));
    }
}

// `count` rows as a right factor that is summed over the rows: (inner_of_rows(count), Dp).
inline void pack_right(
    const Problem& p, const Rows& t, long b, long h, long first, long count, float* to, const int32_t* labels = nullptr
) {
    if (!in_pairs(p)) return pack_rows(p, t, b, h, first, count, to, labels);
    static constexpr uint16_t zeros[MOST_HEAD_SIZE] = {};
    auto row = [&](long i) {
        return i >= count || (labels && labels[i] < 0) ? zeros : row_of_bfloat16(t, b, h, first + i);
    };
    for (long i = 0; i < count; i += 2, to += padded(p)) {
        const uint16_t *even = row(i), *odd = row(i + 1);
        uint32_t* words = reinterpret_cast<uint32_t*>(to);
        for (long d = 0; d < p.D; d++) words[d] = even[d] | uint32_t(odd[d]) << 16;
        for (long d = p.D; d < padded(p); d++) words[d] = 0;
    }
}

// Rows (count, inner), as pack_left leaves them or in place, into panels (inner, PANEL), each of PANEL rows: zero beyond
// `count`.
inline void transpose_into_panels(const float* rows, long row_stride, long inner, long count, float* to) {
    for (long first = 0; first < count; first += PANEL, to += inner * PANEL)
        for (long column = 0; column < PANEL; column += W)
            for (long d = 0; d < inner; d += W) {
                Vec block[W];
                FALLOFF_UNROLL
                for (int i = 0; i < W; i++) {
                    const long row = first + column + i;
                    block[i] = row < count ? load(rows + row * row_stride + d) : Vec{};
                }
                transpose(block);
                FALLOFF_UNROLL
                for (int i = 0; i < W; i++) store(to + (d + i) * PANEL + column, block[i]);
            }
}

// `count` rows as a right factor that is summed along a head: panels (padded_inner, PANEL). `rows`: scratch memory,
// (count, padded_inner).
inline void pack_panels(
    const Problem& p, const Rows& t, long b, long h, long first, long count, float* rows, float* to,
    const int32_t* labels = nullptr
) {
    if (p.type == Type::float32 && p.D % W == 0 && !labels)
        return transpose_into_panels(row_of_float(t, b, h, first), t.row, p.D, count, to);
    pack_left(p, t, b, h, first, count, rows, labels);
    transpose_into_panels(rows, padded_inner(p), padded_inner(p), count, to);
}

#if defined(__AVX512BF16__)
// A row of floats (width) becomes pairs of neighbours, in place.
inline void pair_columns(float* row, long width) {
    for (long c = 0; c < width; c += 2 * W) {
        const __m512 low = (__m512)load(row + c), high = c + W < width ? (__m512)load(row + c + W) : __m512{};
        store(row + c / 2, (Vec)_mm512_cvtne2ps_pbh(high, low));
    }
}

// Two rows of floats (width) become a row of pairs (width), one number of each.
inline void pair_rows(const float* even, const float* odd, long width, float* to) {
    for (long c = 0; c < width; c += W) {
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(even + c)));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(odd + c)));
        store(to + c, (Vec)_mm512_or_epi32(low, _mm512_slli_epi32(high, 16)));
    }
}
#else
inline void pair_columns(float*, long) {}
inline void pair_rows(const float*, const float*, long, float*) {}
#endif

// Writes a packed row (Dp) times `factor` to a row of D numbers, `at` numbers behind `to`.
inline void unpack_row(const Problem& p, const float* from, float factor, void* to, long at) {
    if (p.type == Type::float32) {
        float* row = static_cast<float*>(to) + at;
        for (long d = 0; d < p.D; d++) row[d] = from[d] * factor;
    } else {
        uint16_t* row = static_cast<uint16_t*>(to) + at;
        for (long d = 0; d < p.D; d++) row[d] = to_bfloat16(from[d] * factor);
    }
}

// Writes packed rows (count, Dp) times `factor` to a contiguous tensor (.., D); zeros where `labels` are negative.
inline void unpack_rows(
    const Problem& p, float* rows, long count, float factor, void* to, long first_row, const int32_t* labels = nullptr
) {
    for (long i = 0; i < count; i++) {
        float* row = rows + i * padded(p);
        if (labels && labels[i] < 0) std::memset(row, 0, padded(p) * sizeof(float));
        unpack_row(p, row, factor, to, (first_row + i) * p.D);
    }
}

}  // namespace falloff::FALLOFF_ISA
