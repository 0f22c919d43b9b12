// What lies in a tile of scores: which keys its rows see, and its products.
#pragma once

#include <cstdint>
#include <cstring>

#include "pack.h"
#include "problem.h"
#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

struct QTile {  // consecutive query rows of one head
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

// The keys of a tile that some row of a q tile sees, its first one at a multiple of PANEL within the tile.
inline Span seen_by_tile(const Problem& p, const QTile& q_tile, Span tile) {
    const Span first = seen_by(p, q_tile.first), last = seen_by(p, q_tile.first + q_tile.rows - 1);
    Span span{larger(tile.begin, first.begin), smaller(tile.end, last.end)};
    if (span.empty()) return span;
    span.begin = tile.begin + (span.begin - tile.begin) / PANEL * PANEL;
    if (!p.row_labels) return span;
    const int32_t* rows = p.row_labels + q_tile.b * p.N + q_tile.first;
    const int32_t* keys = p.key_labels + q_tile.b * p.M;
    int32_t low = rows[0], high = rows[0];
    for (long i = 1; i < q_tile.rows; i++) {
        low = rows[i] < low ? rows[i] : low;
        high = rows[i] > high ? rows[i] : high;
    }
    bool any = false;
    for (long j = span.begin; j < span.end; j++) any |= keys[j] >= low && keys[j] <= high;
    return any ? span : Span{0, 0};
}

// Whether key_mask hides one of a tile's keys.
inline bool hides_some(const Problem& p, long b, Span tile) {
    if (!p.key_labels) return false;
    bool any = false;
    for (long j = tile.begin; j < tile.end; j++) any |= p.key_labels[b * p.M + j] < 0;
    return any;
}

// How far into a span of keys each sliver of a q tile sees: what lies beyond is not computed.
struct Steps {
    static constexpr long MOST = 8;
    long count[MOST] = {};  // keys
    long slivers;

    Steps(const Problem& p, const QTile& q_tile, Span span) : slivers((q_tile.rows + SLIVER_ROWS - 1) / SLIVER_ROWS) {
        for (long s = 0; s < slivers; s++) {
            const long last = smaller((s + 1) * SLIVER_ROWS, q_tile.rows) - 1;
            const long end = smaller(seen_by(p, q_tile.first + last).end, span.end);
            count[s] = larger(end - span.begin, 0);
        }
    }
    long rows(const QTile& q_tile, long s) const { return smaller(q_tile.rows - s * SLIVER_ROWS, SLIVER_ROWS); }
    long width(long s) const { return round_up(count[s], W); }
    long of_row(long i) const { return count[i / SLIVER_ROWS]; }
};

// So few queries that packing keys costs more than it saves.
constexpr long FEW = 4;
static_assert(FEW <= SLIVER_ROWS);  // multiply_few takes a q tile for one sliver
inline bool few(const Problem& p) { return p.N <= FEW && p.type == Type::float32; }

// The same straight from the keys in memory, for a few rows that would not repay packing: decoding, which is as fast as memory
// is read. Products of W keys are summed across lanes at once, by transposing them.
inline void multiply_few(
    const Problem& p, const QTile& q_tile, long first_key, long width, const float* query, float* c, long c_row
) {
    const long Dp = padded(p), whole = p.D / W * W;
    for (long i = 0; i < q_tile.rows; i++)
        for (long key = 0; key < width; key += W) {
            Vec sums[W];
            FALLOFF_UNROLL
            for (int lane = 0; lane < W; lane++) {
                const long j = smaller(first_key + key + lane, p.M - 1);
                const float* row = row_of_float(p.key, q_tile.b, q_tile.h / p.group(), j);
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
            FALLOFF_UNROLL
            for (int lane = 0; lane < W; lane++) total += sums[lane];
            store(c + i * c_row + key, total);
        }
}

// C (span, Dp) += A^T B, with A (q tile rows, span) and B (q tile rows, Dp) from pack_right. Rows before the first that sees a
// key add nothing. `pairs` takes A's rows as pairs where B comes in pairs; it may not be A, whose memory has an even number of
// rows.
inline void add_transposed_product(
    const Problem& p, const QTile& q_tile, Span span, const Steps& steps, float* a, long a_row, float* pairs,
    const float* b, float* c
) {
    const long Dp = padded(p);
    long inner_row = a_row;
    if (in_pairs(p)) {
        inner_row = 2 * a_row;
        for (long i = 0; i < q_tile.rows; i += 2) {
            const long width = round_up(steps.of_row(i), W) + W;
            float* odd = a + (i + 1) * a_row;
            if (i + 1 == q_tile.rows) std::memset(odd, 0, width * sizeof(float));
            pair_rows(a + i * a_row, odd, width, pairs + i * a_row);
        }
        a = pairs;
    }
    for (long key = 0; key < span.count(); key += SLIVER_ROWS) {
        long first = p.causal ? smaller(larger(span.begin + key - position(p, q_tile.first), 0), q_tile.rows) : 0;
        if (in_pairs(p)) first /= 2;
        add_product(
            smaller(span.count() - key, SLIVER_ROWS), Dp, along(p, q_tile.rows) - first,
            Left{a + first * inner_row + key, 1, inner_row}, Right{b + first * Dp, Dp, PANEL}, c + key * Dp, Dp, in_pairs(p)
        );
    }
}

// Whether some of the first `width` scores of a row of the q tile are to be hidden: by a mask, or as padding of a vector.
inline bool hides(const Problem& p, const QTile& q_tile, long i, Span span, long width) {
    const Span seen = seen_by(p, q_tile.first + i);
    return p.row_labels || seen.begin > span.begin || smaller(seen.end, span.end) < span.begin + width;
}

// Scores of keys that row i of the q tile does not see become -inf, whatever they were.
inline void hide(const Problem& p, const QTile& q_tile, long i, Span span, long width, float* scores) {
    const long row = q_tile.first + i;
    const Span seen = seen_by(p, row);
    const long begin = smaller(larger(seen.begin - span.begin, 0), width);
    const long end = larger(smaller(smaller(seen.end, span.end) - span.begin, width), begin);
    auto hide_outside = [&](long c) {  // of a vector of keys
        const Int lane = iota() + int32_t(c);
        store(scores + c, ((lane >= int32_t(begin)) & (lane < int32_t(end))) ? load(scores + c) : broadcast(-INF));
    };
    for (long c = 0; c < begin; c += W) hide_outside(c);
    for (long c = end / W * W; c < width; c += W) hide_outside(c);
    if (!p.row_labels) return;
    const int32_t label = p.row_labels[q_tile.b * p.N + row];
    const int32_t* keys = p.key_labels + q_tile.b * p.M + span.begin;
    for (long c = begin; c < end; c++) scores[c] = keys[c] == label ? scores[c] : -INF;
}

}  // namespace falloff::FALLOFF_ISA
