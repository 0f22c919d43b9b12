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

// How far into a span of keys each strip of BLOCK_ROWS rows of a block sees: what lies beyond is not computed.
struct Steps {
    static constexpr long MOST = 8;
    long count[MOST] = {};  // keys
    long strips;

    Steps(const Problem& p, const Block& block, Span span) : strips((block.rows + BLOCK_ROWS - 1) / BLOCK_ROWS) {
        for (long s = 0; s < strips; s++) {
            const long last = smaller((s + 1) * BLOCK_ROWS, block.rows) - 1;
            const long end = smaller(seen_by(p, block.first + last).end, span.end);
            count[s] = larger(end - span.begin, 0);
        }
    }
    long rows(const Block& block, long s) const { return smaller(block.rows - s * BLOCK_ROWS, BLOCK_ROWS); }
    long width(long s) const { return round_up(count[s], W); }
    long of_row(long i) const { return count[i / BLOCK_ROWS]; }
};

// C = A B^T for the rows of a block and the keys of a span: A from pack_left, B in panels.
inline void multiply_panels(
    const Problem& p, const Block& block, const Steps& steps, const float* a, const float* panels, float* c, long c_row
) {
    const long inner = padded_inner(p);
    for (long first = 0; first < steps.count[steps.strips - 1]; first += PANEL)
        for (long s = 0; s < steps.strips; s++) {
            if (steps.count[s] <= first) continue;
            const long vectors = smaller(steps.width(s) - first, PANEL) / W, row = s * BLOCK_ROWS;
            block_of(steps.rows(block, s), vectors, in_pairs(p))(
                inner_of(p), Left{a + row * inner, inner, 1}, panels + first * inner, PANEL, c + row * c_row + first, c_row,
                false
            );
        }
}

// The same straight from the keys in memory, for a few rows that would not repay packing: decoding, which is as fast as memory
// is read. Products of W keys are summed across lanes at once, by transposing them.
inline void multiply_few(
    const Problem& p, const Block& block, const Steps& steps, long first_key, const float* query, float* c, long c_row
) {
    const long Dp = padded(p), whole = p.D / W * W;
    for (long i = 0; i < block.rows; i++)
        for (long key = 0; key < steps.count[0]; key += W) {
            Vec sums[W];
#pragma GCC unroll 16
            for (int lane = 0; lane < W; lane++) {
                const long j = smaller(first_key + key + lane, p.M - 1);
                const float* row = row_of_float(p.key, block.b, block.h / p.fold(), j);
                sums[lane] = Vec{};
                for (long d = 0; d < whole; d += W) sums[lane] += load(row + d) * load(query + i * Dp + d);
                if (whole < p.D) {
                    float rest[W] = {};
                    for (long d = whole; d < p.D; d++) rest[d - whole] = row[d];
                    sums[lane] += load(rest) * load(query + i * Dp + whole);
                }
            }
            transpose(sums);
            Vec total{};
#pragma GCC unroll 16
            for (int lane = 0; lane < W; lane++) total += sums[lane];
            store(c + i * c_row + key, total);
        }
}

// C (block rows, Dp) += A (block rows, span) B (span, Dp): B from pack_right; A's rows are turned into pairs where B is.
inline void multiply_keys(
    const Problem& p, const Block& block, const Steps& steps, float* a, long a_row, const float* b, long b_row, float* c
) {
    const long Dp = padded(p);
    if (in_pairs(p))
        for (long i = 0; i < block.rows; i++) pair_columns(a + i * a_row, round_up(steps.of_row(i), W));
    for (long s = 0; s < steps.strips; s++) {
        const long row = s * BLOCK_ROWS;
        add_product(
            steps.rows(block, s), Dp, along(p, steps.count[s]), Left{a + row * a_row, a_row, 1}, b, b_row, c + row * Dp, Dp,
            in_pairs(p)
        );
    }
}

// C (span, Dp) += A^T B, with A (block rows, span) and B (block rows, Dp) from pack_right. Rows before the first that sees a
// key add nothing. `pairs` takes A's rows as pairs where B comes in pairs; it may not be A, which has an even number of rows of memory.
inline void multiply_rows(
    const Problem& p, const Block& block, Span span, const Steps& steps, float* a, long a_row, float* pairs,
    const float* b, float* c
) {
    const long Dp = padded(p);
    long inner_row = a_row;
    if (in_pairs(p)) {
        inner_row = 2 * a_row;
        for (long i = 0; i < block.rows; i += 2) {
            const long width = round_up(steps.of_row(i), W) + W;
            float* odd = a + (i + 1) * a_row;
            if (i + 1 == block.rows) std::memset(odd, 0, width * sizeof(float));
            pair_rows(a + i * a_row, odd, width, pairs + i * a_row);
        }
        a = pairs;
    }
    for (long key = 0; key < span.count(); key += BLOCK_ROWS) {
        long first = p.causal ? smaller(larger(span.begin + key - position(p, block.first), 0), block.rows) : 0;
        if (in_pairs(p)) first /= 2;
        add_product(
            smaller(span.count() - key, BLOCK_ROWS), Dp, along(p, block.rows) - first,
            Left{a + first * inner_row + key, 1, inner_row}, b + first * Dp, Dp, c + key * Dp, Dp, in_pairs(p)
        );
    }
}

// Whether some of the first `width` scores of a row of the block are to be hidden: by a mask, or as padding of a vector.
inline bool hides(const Problem& p, const Block& block, long i, Span span, long width) {
    const Span seen = seen_by(p, block.first + i);
    return p.row_labels || seen.begin > span.begin || smaller(seen.end, span.end) < span.begin + width;
}

// Scores of keys that row i of the block does not see become -inf, whatever they were.
inline void hide(const Problem& p, const Block& block, long i, Span span, long width, float* scores) {
    const long row = block.first + i;
    const Span seen = seen_by(p, row);
    const long begin = smaller(larger(seen.begin - span.begin, 0), width);
    const long end = larger(smaller(smaller(seen.end, span.end) - span.begin, width), begin);
    for (long c = 0; c < begin; c++) scores[c] = -INF;
    for (long c = end; c < width; c++) scores[c] = -INF;
    if (!p.row_labels) return;
    const int32_t label = p.row_labels[block.b * p.N + row];
    const int32_t* keys = p.key_labels + block.b * p.M + span.begin;
    for (long c = begin; c < end; c++) scores[c] = keys[c] == label ? scores[c] : -INF;
}

// Certified skipping. A row's weights are counted against what it has reached: its running maximum, or its log-sum-exp. All
// that is skipped of a row weighs less than 2^-24 of it together, by two certificates, each for half of that: either each of
// at most M keys weighs less than its share, or all keys further in the past than some point do, since the biases from there
// on sum up to little. A score is at most |query| |key| |scale| + bias. Norms are +inf where something is not finite, which
// fails every comparison: nothing that is not finite is ever skipped.
constexpr float SKIP_MARGIN = 17.4f;  // e^-17.4 is below 2^-25

// At least the largest bias of a block of rows and keys begin .. end - 1.
inline float bias_bound(const Problem& p, const Block& block, long begin, long end) {
    const long low = position(p, block.first) - (end - 1) - p.start;
    const long high = position(p, block.first + block.rows - 1) - begin - p.start;
    const float* maxima = p.strip_max + block.h * strip_blocks(p);
    float bound = -INF;
    for (long k = smaller(larger(low, 0), p.K - 1) / STRIP_BLOCK; k <= smaller(larger(high, 0), p.K - 1) / STRIP_BLOCK; k++)
        bound = larger(bound, maxima[k]);
    return bound;
}

// At least the log-sum-exp of the biases of a block's rows and all keys before `end`.
inline float bias_tail(const Problem& p, const Block& block, long end) {
    const long nearest = position(p, block.first) - (end - 1) - p.start;
    if (nearest < 0) return INF;
    return p.strip_tail[block.h * strip_blocks(p) + smaller(nearest, p.K - 1) / STRIP_BLOCK];
}

// The span without the keys at its ends that cannot matter. For each row of the block: its |query| |scale|, and what it has
// reached.
inline Span that_matters(const Problem& p, const Block& block, Span span, const float* query_norm, const float* reached) {
    if (!p.key_norm) return span;
    const long first = (block.b * p.G + block.h / p.fold()) * key_blocks(p);
    const float each = SKIP_MARGIN + __builtin_logf(float(p.M));
    auto all_below = [&](float bias, float key_norm, float margin) {
        bool below = true;
        for (long i = 0; i < block.rows; i++)
            below &= bias + query_norm[i] * key_norm * 1.0001f < reached[i] - margin;  // 1.0001: norms are rounded
        return below;
    };
    auto skipped = [&](long key) {
        const long at = key / KEY_BLOCK, end = smaller((at + 1) * KEY_BLOCK, p.M);
        return all_below(bias_bound(p, block, at * KEY_BLOCK, end), p.key_norm[first + at], each);
    };
    auto skipped_before = [&](long end) {
        return all_below(bias_tail(p, block, end), p.key_norm_before[first + end / KEY_BLOCK - 1], SKIP_MARGIN);
    };
    while (!span.empty()) {
        const long next = (span.begin / KEY_BLOCK + 1) * KEY_BLOCK;
        if (!skipped(span.begin) && !(next <= p.M && skipped_before(next))) break;
        span.begin = next;
    }
    while (!span.empty() && skipped(span.end - 1)) span.end = (span.end - 1) / KEY_BLOCK * KEY_BLOCK;
    return span;
}

inline float norm(const float* row, long Dp) {
    Vec squares{};
    for (long d = 0; d < Dp; d += W) squares += load(row + d) * load(row + d);
    const float s = __builtin_sqrtf(sum(squares));
    return s == s ? s : INF;
}

// |query| |scale| of a block's rows. `scratch`: the rows as floats.
inline void query_norms(const Problem& p, const Block& block, float* scratch, float* norms) {
    pack_rows(p, p.query, block.b, block.h, block.first, block.rows, scratch);
    for (long i = 0; i < block.rows; i++)
        norms[i] = norm(scratch + i * padded(p), padded(p)) * __builtin_fabsf(p.scale);
}

inline long key_norm_items(const Problem& p) { return p.B * p.G; }
inline size_t key_norm_floats(const Problem& p) { return KEY_BLOCK * padded(p); }
inline void key_norms(const Problem& p, long item, float* scratch) {
    const long b = item / p.G, g = item % p.G, Dp = padded(p);
    float before = 0.0f;
    for (long block = 0; block < key_blocks(p); block++) {
        const long first = block * KEY_BLOCK, count = smaller(p.M - first, KEY_BLOCK);
        pack_rows(p, p.key, b, g, first, count, scratch);
        float most = 0.0f;
        for (long j = 0; j < count; j++) most = larger(norm(scratch + j * Dp, Dp), most);
        pack_rows(p, p.value, b, g, first, count, scratch);
        Vec zero{};  // 0 * value: NaN where a value is not finite
        for (long x = 0; x < count * Dp; x += W) zero += 0.0f * load(scratch + x);
        if (sum(zero) != 0.0f) most = INF;  // NaN is not 0 either
        before = larger(most, before);
        p.key_norm[item * key_blocks(p) + block] = most;
        p.key_norm_before[item * key_blocks(p) + block] = before;
    }
}

}  // namespace falloff::FALLOFF_ISA
