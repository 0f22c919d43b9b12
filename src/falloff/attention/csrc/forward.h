// Forward: a chunk of query rows visits the keys tile by tile, from the diagonal outwards.
//
// A tile is ROWS x KEYS scores. 48 rows are 8 register blocks; 256 keys make a tile of scores of 48 KB and, at D = 64, 64 KB
// each of packed keys and values: all of it stays in a second-level cache, a panel of keys in the first. Keys are packed once
// for a chunk of several blocks of rows, so that packing costs a percent and needs no memory that grows with the length.
#pragma once

#include "softmax.h"

namespace falloff::FALLOFF_ISA {

constexpr long ROWS = 48, KEYS = 256;

// Blocks of rows that share the packed keys. Depends on the shape alone: so does the order of all sums.
inline long chunk_rows(const Problem& p) { return ROWS * larger(smaller(512 / p.D, 8), 2); }
inline long chunks(const Problem& p) { return (p.N + chunk_rows(p) - 1) / chunk_rows(p); }

inline long forward_items(const Problem& p) { return p.B * p.H * chunks(p) * p.splits; }

struct ForwardScratch {
    float *query, *sums, *maximum, *total, *norm, *scores, *keys, *values, *rows;

    static size_t floats(const Problem& p) {
        const long Dp = padded(p), n = chunk_rows(p);
        return 2 * n * Dp + 3 * n + ROWS * KEYS + 3 * KEYS * Dp + 16 * 9;
    }
    ForwardScratch(const Problem& p, float* scratch) {
        const long Dp = padded(p), n = chunk_rows(p);
        auto take = [&](long count) {
            float* part = scratch;
            scratch += round_up(count, 16);
            return part;
        };
        query = take(n * Dp);
        sums = take(n * Dp);
        maximum = take(n);
        total = take(n);
        norm = take(n);  // of each block
        scores = take(ROWS * KEYS);
        keys = take(KEYS * Dp);
        values = take(KEYS * Dp);
        rows = take(KEYS * Dp);
    }
};

inline size_t forward_floats(const Problem& p) { return ForwardScratch::floats(p); }

// One tile: scores, weights, and the weighted sum of values, with a running row maximum and row sum (online softmax).
inline void attend(const Problem& p, const Block& block, Span tile, Span span, const ForwardScratch& at, long local) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - tile.begin;
    const Steps steps(p, block, span);
    float* sums = at.sums + local * Dp;
    multiply_panels(p, block, steps, at.query + local * inner, at.keys + skipped * inner, at.scores, KEYS);
    for (long i = 0; i < block.rows; i++) {
        const long width = round_up(steps.of_row(i), W);
        if (width == 0) continue;
        float* s = at.scores + i * KEYS;
        to_scores(p, block, i, span.begin, width, s);
        if (hides(p, block, i, span, width)) hide(p, block, i, span, width, s);
        float& maximum = at.maximum[local + i];
        float& total = at.total[local + i];
        const float before = maximum;
        maximum = larger(row_maximum(s, width), before);
        // Of a row that has seen nothing but -inf, the maximum counts as 0: exp(-inf - 0) = 0, not NaN.
        const float less = maximum == -INF ? 0.0f : maximum;
        if (maximum != before) {
            const float shrink = exp(before - less);
            total *= shrink;
            for (long d = 0; d < Dp; d += W) store(sums + i * Dp + d, load(sums + i * Dp + d) * shrink);
        }
        total += to_weights(s, width, less);
        if (p.dropout.on) drop(p, block, i, span.begin, width, s, s);
    }
    multiply_keys(p, block, steps, at.scores, KEYS, at.values + along(p, skipped) * Dp, sums);
}

inline void forward(const Problem& p, long item, float* scratch) {
    const ForwardScratch at(p, scratch);
    const long Dp = padded(p), n = chunk_rows(p);
    const long split = item % p.splits, head = item / p.splits % (p.B * p.H);
    const long first = (chunks(p) - 1 - item / p.splits / (p.B * p.H)) * n;  // causal: the longest rows first
    const Block chunk{head / p.H, head % p.H, first, smaller(n, p.N - first)};
    const long g = chunk.h / p.fold();
    auto rows_from = [&](long local) { return Block{chunk.b, chunk.h, first + local, smaller(ROWS, chunk.rows - local)}; };

    pack_left(p, p.query, chunk.b, chunk.h, first, chunk.rows, at.query);
    for (long i = 0; i < chunk.rows; i++) {
        at.maximum[i] = -INF;
        at.total[i] = 0.0f;
    }
    for (long x = 0; x < chunk.rows * Dp; x += W) store(at.sums + x, Vec{});
    for (long local = 0; p.key_norm && local < chunk.rows; local += ROWS)
        at.norm[local / ROWS] = query_norm(p, rows_from(local), at.rows);

    const float margin = skip_margin(p);
    const long tiles = (p.M + KEYS - 1) / KEYS;
    const Span part{tiles * split / p.splits, tiles * (split + 1) / p.splits};
    const long middle = position(p, first + (p.causal ? chunk.rows - 1 : chunk.rows / 2));
    const long nearest = smaller(larger(middle / KEYS, part.begin), part.end - 1);
    auto visit = [&](long index) {
        const Span tile{index * KEYS, smaller((index + 1) * KEYS, p.M)};
        bool packed = false;
        for (long local = 0; local < chunk.rows; local += ROWS) {
            const Block block = rows_from(local);
            Span span = seen_by_block(p, block, tile);
            if (span.empty()) continue;
            float least = INF;
            for (long i = 0; i < block.rows; i++) least = at.maximum[local + i] < least ? at.maximum[local + i] : least;
            span = that_matters(p, block, span, at.norm[local / ROWS], least, margin);
            if (span.empty()) continue;
            if (!packed) {
                pack_left(p, p.key, chunk.b, g, tile.begin, tile.count(), at.rows);
                pack_panels(p, at.rows, tile.count(), at.keys);
                pack_right(p, p.value, chunk.b, g, tile.begin, tile.count(), at.values);
                packed = true;
            }
            attend(p, block, tile, span, at, local);
        }
    };
    for (long index = nearest; index >= part.begin; index--) visit(index);
    for (long index = nearest + 1; index < part.end; index++) visit(index);

    const long row = head * p.N + first;
    if (p.splits > 1) {
        for (long i = 0; i < chunk.rows; i++) {
            float* partial = p.partial + ((head * p.splits + split) * p.N + first + i) * (Dp + 2);
            for (long d = 0; d < Dp; d++) partial[d] = at.sums[i * Dp + d];
            partial[Dp] = at.maximum[i];
            partial[Dp + 1] = at.total[i];
        }
        return;
    }
    for (long i = 0; i < chunk.rows; i++) {
        const bool nothing = at.total[i] == 0.0f;  // nothing to attend to: zeros, and a log-sum-exp of -inf
        p.lse[row + i] = nothing ? -INF : at.maximum[i] + __builtin_logf(at.total[i]);
        unpack_rows(p, at.sums + i * Dp, 1, nothing ? 1.0f : 1.0f / at.total[i], p.out, row + i);
    }
}

// Merges the splits of a head's rows.
inline long merge_items(const Problem& p) { return p.splits > 1 ? p.B * p.H : 0; }
inline size_t merge_floats(const Problem& p) { return padded(p); }
inline void merge(const Problem& p, long head, float* sums) {
    const long Dp = padded(p);
    for (long i = 0; i < p.N; i++) {
        auto part = [&](long split) { return p.partial + ((head * p.splits + split) * p.N + i) * (Dp + 2); };
        float maximum = -INF, total = 0.0f;
        for (long split = 0; split < p.splits; split++) maximum = larger(part(split)[Dp], maximum);
        for (long d = 0; d < Dp; d++) sums[d] = 0.0f;
        for (long split = 0; split < p.splits; split++) {
            const float weight = exp(part(split)[Dp] - (maximum == -INF ? 0.0f : maximum));
            total += part(split)[Dp + 1] * weight;
            for (long d = 0; d < Dp; d++) sums[d] += part(split)[d] * weight;
        }
        const bool nothing = total == 0.0f;
        p.lse[head * p.N + i] = nothing ? -INF : maximum + __builtin_logf(total);
        unpack_rows(p, sums, 1, nothing ? 1.0f : 1.0f / total, p.out, head * p.N + i);
    }
}

}  // namespace falloff::FALLOFF_ISA
