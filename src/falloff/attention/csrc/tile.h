// What lies in a tile of scores: which keys its rows see, and which of them can matter.
#pragma once

#include "pack.h"

namespace falloff::FALLOFF_ISA {

struct Block {  // consecutive query rows of one head
    long b, h, first, rows;
};

struct Span {  // consecutive keys
    long begin, end;
    bool empty() const { return begin >= end; }
    long count() const { return end - begin; }
};

inline long position(const Problem& p, long row) { return p.query_start + row; }

// The keys that `causal` and `window` leave to a row.
inline Span seen_by(const Problem& p, long row) {
    Span keys{0, p.M};
    if (p.causal) keys.end = smaller(keys.end, position(p, row) + 1);
    keys.begin = larger(keys.begin, position(p, row) - p.window + 1);
    return keys;
}

// The keys of a tile that some row of a block sees, its first one at a multiple of PANEL within the tile.
inline Span seen_by_block(const Problem& p, const Block& block, Span tile) {
    const Span first = seen_by(p, block.first), last = seen_by(p, block.first + block.rows - 1);
    Span span{larger(tile.begin, first.begin), smaller(tile.end, last.end)};
    if (span.empty()) return span;
    span.begin = tile.begin + (span.begin - tile.begin) / PANEL * PANEL;
    if (!p.row_labels) return span;
    const int32_t* rows = p.row_labels + block.b * p.N + block.first;
    const int32_t* keys = p.key_labels + block.b * p.M;
    int32_t low = rows[0], high = rows[0];
    for (long i = 1; i < block.rows; i++) {
        low = rows[i] < low ? rows[i] : low;
        high = rows[i] > high ? rows[i] : high;
    }
    bool any = false;
    for (long j = span.begin; j < span.end; j++) any |= keys[j] >= low && keys[j] <= high;
    return any ? span : Span{0, 0};
}

// Scores of keys that row `row` does not see become -inf, whatever they were; so do those beyond the span's end, up to `width`.
inline void hide(const Problem& p, long b, long row, Span span, long width, float* scores) {
    const Span seen = seen_by(p, row);
    const long begin = smaller(larger(seen.begin - span.begin, 0), width);
    const long end = larger(smaller(smaller(seen.end, span.end) - span.begin, width), begin);
    for (long c = 0; c < begin; c++) scores[c] = -INF;
    for (long c = end; c < width; c++) scores[c] = -INF;
    if (!p.row_labels) return;
    const int32_t label = p.row_labels[b * p.N + row];
    const int32_t* keys = p.key_labels + b * p.M + span.begin;
    for (long c = begin; c < end; c++) scores[c] = keys[c] == label ? scores[c] : -INF;
}

// Certified skipping. All that a call skips of one row has weights below 2^-24 of it together: each of at most M keys has a
// weight below 2^-(24 + log2 M) of what the row's maximum (or its log-sum-exp) stands for.
inline float skip_margin(const Problem& p) {
    float margin = 25.0f;
    for (long m = 1; m < p.M; m *= 2) margin += 1.0f;
    return margin;
}

// At least the largest bias, in base 2, of a block of rows and keys begin .. end - 1.
inline float bias_bound(const Problem& p, const Block& block, long begin, long end) {
    if (p.form == Form::none) return 0.0f;
    const long low = position(p, block.first) - (end - 1) - p.start;
    const long high = position(p, block.first + block.rows - 1) - begin - p.start;
    const long blocks = (p.K + STRIP_BLOCK - 1) / STRIP_BLOCK;
    const float* maxima = p.strip_max + block.h * blocks;
    float bound = -INF;
    for (long k = smaller(larger(low, 0), p.K - 1) / STRIP_BLOCK; k <= smaller(larger(high, 0), p.K - 1) / STRIP_BLOCK; k++)
        bound = larger(bound, maxima[k]);
    return bound;
}

// The span without the keys at its ends that cannot matter to rows of norm at most `query_norm` (times scale * log2 e) whose
// maxima or log-sum-exps are at least `least` (base 2). Norms are +inf where something is not finite: nothing is skipped there.
inline Span that_matters(const Problem& p, const Block& block, Span span, float query_norm, float least, float margin) {
    if (!p.key_norm) return span;
    const float* norms = p.key_norm + (block.b * p.G + block.h / p.fold()) * ((p.M + KEY_BLOCK - 1) / KEY_BLOCK);
    auto skipped = [&](long key) {
        const long first = key / KEY_BLOCK * KEY_BLOCK;
        const float product = query_norm * norms[key / KEY_BLOCK];
        return bias_bound(p, block, first, smaller(first + KEY_BLOCK, p.M)) + product * 1.0001f < least - margin;
    };
    while (!span.empty() && skipped(span.begin)) span.begin = (span.begin / KEY_BLOCK + 1) * KEY_BLOCK;
    while (!span.empty() && skipped(span.end - 1)) span.end = (span.end - 1) / KEY_BLOCK * KEY_BLOCK;
    return span;
}

inline float norm(const float* row, long Dp) {
    Vec squares{};
    for (long d = 0; d < Dp; d += W) squares += load(row + d) * load(row + d);
    const float s = __builtin_sqrtf(sum(squares));
    return s == s ? s : INF;
}

inline float largest_norm(const float* rows, long count, long Dp) {
    float most = 0.0f;
    for (long i = 0; i < count; i++) most = larger(norm(rows + i * Dp, Dp), most);
    return most;
}

// One block of KEY_BLOCK keys of one key head.
inline long key_norm_items(const Problem& p) { return p.B * p.G; }
inline size_t key_norm_floats(const Problem& p) { return 2 * KEY_BLOCK * padded(p); }
inline void key_norms(const Problem& p, long item, float* scratch) {
    const long b = item / p.G, g = item % p.G, Dp = padded(p);
    const long blocks = (p.M + KEY_BLOCK - 1) / KEY_BLOCK;
    for (long block = 0; block < blocks; block++) {
        const long first = block * KEY_BLOCK, count = smaller(p.M - first, KEY_BLOCK);
        pack_rows(p, p.key, b, g, first, count, scratch);
        float most = largest_norm(scratch, count, Dp);
        pack_rows(p, p.value, b, g, first, count, scratch);
        Vec zero{};  // 0 * value: NaN where a value is not finite
        for (long x = 0; x < count * Dp; x += W) zero += 0.0f * load(scratch + x);
        const_cast<float*>(p.key_norm)[item * blocks + block] = sum(zero) == 0.0f ? most : INF;
    }
}

}  // namespace falloff::FALLOFF_ISA
