// Which weights dropout keeps: the function of dropout.py, which has no state. It depends on (seed, b, h, row, key) alone.
#pragma once

#include <cstdint>

#include "mask.h"
#include "problem.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

// `mix` of dropout.py, modulo 2^32: of one number, or of a vector of them.
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

// P after dropout, of row i of the q tile and the keys from `key` on: `kept` (width) is prob / (1 - p) where dropout keeps it
// and 0 elsewhere. It may be `prob` itself.
inline void drop(const Problem& p, const QTile& q_tile, long i, long key, long width, const float* prob, float* kept) {
    const uint32_t start = row_state(p.dropout.seed_low, q_tile.b, q_tile.h, q_tile.first + i);
    const uint32_t step = row_state(p.dropout.seed_high, q_tile.b, q_tile.h, q_tile.first + i) | 1u;
    const bool none = p.dropout.threshold > 0xFFFFFFFFu;
    const uint32_t threshold = uint32_t(p.dropout.threshold);
    for (long c = 0; c < width; c += W) {
        const Word keys = (Word)iota() + uint32_t(key + c);
        const auto keep = mix(Word{} + start + keys * step) >= threshold;
        const Vec all = load(prob + c) * p.dropout.kept_scale;
        store(kept + c, none ? all * 0.0f : keep ? all : all * 0.0f);  // a dropped NaN stays NaN
    }
}

}  // namespace falloff::FALLOFF_ISA
