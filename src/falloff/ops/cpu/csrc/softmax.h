// Rows of scores into rows of weights, and dropout.
#pragma once

#include <cstdint>

#include "problem.h"
#include "simd.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

// Scores become exp(score - less); returns their sum.
inline float to_weights(float* s, long width, float less) {
    Vec total{};
    for (long c = 0; c < width; c += W) {
        const Vec weight = exp(load(s + c) - less);
        store(s + c, weight);
        total += weight;
    }
    return sum(total);
}

// Online softmax of a strip of at most BLOCK_ROWS rows. S becomes P = exp(S - maximum), in place; row maximum and row sum
// take in the new scores, and where a maximum rises, its row of O (rows, Dp) shrinks. All rows take each step together: the
// steps of one row wait for one another.
inline void softmax_strip(
    long rows, long width, const Vec* most, float* scores, long score_row, float* maximum, float* total, float* out, long Dp
) {
    constexpr int ROWS = (BLOCK_ROWS + W - 1) / W * W;
    float less[ROWS] = {}, shrink[ROWS] = {};
    bool rises[ROWS] = {};
    for (long i = 0; i < rows; i++) {
        const float before = maximum[i], now = larger(largest(most[i]), before);
        // Of a row that has seen nothing but -inf, the maximum counts as 0: exp(-inf - 0) = 0, not NaN.
        less[i] = now == -INF ? 0.0f : now;
        shrink[i] = before - less[i];
        rises[i] = now != before;
        maximum[i] = now;
    }
    for (int i = 0; i < ROWS; i += W) store(shrink + i, exp(load(shrink + i)));
    for (long i = 0; i < rows; i++) {
        if (!rises[i]) continue;
        total[i] *= shrink[i];
        for (long d = 0; d < Dp; d += W) store(out + i * Dp + d, load(out + i * Dp + d) * shrink[i]);
    }
    for (long i = 0; i < rows; i++) total[i] += to_weights(scores + i * score_row, width, less[i]);
}

// dropout.py's function: a pure function of (seed, b, h, row, key), in arithmetic modulo 2^32.
template <class T>
inline T mix(T x) {
    x ^= x >> 16;
    x *= 0x21F0AAADu;
    x ^= x >> 15;
    x *= 0xD35A2D97u;
    return x ^ x >> 15;
}

inline uint32_t row_state(uint32_t half_seed, long b, long h, long row) {
    uint32_t state = mix(half_seed);
    state = mix(state + uint32_t(b) * 0x9E3779B9u);
    state = mix(state + uint32_t(h) * 0x9E3779B9u);
    return mix(state + uint32_t(row) * 0x9E3779B9u);
}

// kept = weight / (1 - p) where dropout keeps it, 0 elsewhere, for the keys from `key` on.
inline void drop(const Problem& p, const Block& block, long i, long key, long width, const float* weights, float* kept) {
    const uint32_t start = row_state(p.dropout.seed_low, block.b, block.h, block.first + i);
    const uint32_t step = row_state(p.dropout.seed_high, block.b, block.h, block.first + i) | 1u;
    const bool none = p.dropout.threshold > 0xFFFFFFFFu;
    const uint32_t threshold = uint32_t(p.dropout.threshold);
    for (long c = 0; c < width; c += W) {
        const Word keys = (Word)iota() + uint32_t(key + c);
        const auto keep = mix(Word{} + start + keys * step) >= threshold;
        const Vec all = load(weights + c) * p.dropout.kept_scale;
        store(kept + c, none ? all * 0.0f : keep ? all : all * 0.0f);  // a dropped NaN stays one
    }
}

}  // namespace falloff::FALLOFF_ISA
