// S into P, and dropout.
#pragma once

#include <cstdint>

#include "problem.h"
#include "simd.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

// Scores become exp(score - less); returns their sum.
inline float to_weights(float* s, long width, float less) {
    Vec row_sum{};
    for (long c = 0; c < width; c += W) {
        const Vec weight = exp(load(s + c) - less);
        store(s + c, weight);
        row_sum += weight;
    }
    return sum(row_sum);
}

// Online softmax of a sliver. S becomes P = exp(S - row_max), in place; row_max and row_sum take in the new scores, and where
// row_max rises, its row of O (rows, Dp) shrinks. All rows take each step together: the steps of one row wait for one another.
inline void softmax_sliver(
    long rows, long width, const Vec* row_max_lanes, float* scores, long score_row, float* row_max, float* row_sum, float* out,
    long Dp
) {
    constexpr int ROWS = (SLIVER_ROWS + W - 1) / W * W;
    float less[ROWS] = {}, shrink[ROWS] = {};
    bool rises[ROWS] = {};
    for (long i = 0; i < rows; i++) {
        const float old_max = row_max[i], new_max = larger(largest(row_max_lanes[i]), old_max);
        // Of a row that has seen nothing but -inf, row_max counts as 0: exp(-inf - 0) = 0, not NaN.
        less[i] = new_max == -INF ? 0.0f : new_max;
        shrink[i] = old_max - less[i];
        rises[i] = new_max != old_max;
        row_max[i] = new_max;
    }
    for (int i = 0; i < ROWS; i += W) store(shrink + i, exp(load(shrink + i)));
    for (long i = 0; i < rows; i++) {
        if (!rises[i]) continue;
        row_sum[i] *= shrink[i];
        for (long d = 0; d < Dp; d += W) store(out + i * Dp + d, load(out + i * Dp + d) * shrink[i]);
    }
    for (long i = 0; i < rows; i++) row_sum[i] += to_weights(scores + i * score_row, width, less[i]);
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
inline void drop(const Problem& p, const QTile& q_tile, long i, long key, long width, const float* weights, float* kept) {
    const uint32_t start = row_state(p.dropout.seed_low, q_tile.b, q_tile.h, q_tile.first + i);
    const uint32_t step = row_state(p.dropout.seed_high, q_tile.b, q_tile.h, q_tile.first + i) | 1u;
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
