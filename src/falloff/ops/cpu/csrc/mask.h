// What the rows of a q tile see of the keys: by `causal` and `window`, by key_mask, and by document.
#pragma once

#include <cstdint>

#include "pack.h"
#include "problem.h"
#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

struct QTile {  // consecutive query rows of one head
    long b, h, first, rows;
};

struct Span {  // consecutive keys, begin .. end - 1
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

// The keys of a kv tile that some row of the q tile may see. It begins at a panel of the kv tile; by label it is all or
// nothing.
inline Span seen_by_tile(const Problem& p, const QTile& q_tile, Span kv_tile) {
    const Span first = seen_by(p, q_tile.first), last = seen_by(p, q_tile.first + q_tile.rows - 1);
    Span span{larger(kv_tile.begin, first.begin), smaller(kv_tile.end, last.end)};
    if (span.empty()) return span;
    span.begin = kv_tile.begin + (span.begin - kv_tile.begin) / PANEL * PANEL;
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

// Whether key_mask hides a key of the kv tile.
inline bool hides_some(const Problem& p, long b, Span kv_tile) {
    if (!p.key_labels) return false;
    bool any = false;
    for (long j = kv_tile.begin; j < kv_tile.end; j++) any |= p.key_labels[b * p.M + j] < 0;
    return any;
}

// How many keys of a span each sliver of a q tile computes. On a causal diagonal these numbers rise from sliver to sliver:
// what no row of the sliver sees is not computed.
struct SliverKeys {
    static constexpr long MOST_SLIVERS = 8;
    long count[MOST_SLIVERS] = {};  // keys
    long slivers;

    SliverKeys(const Problem& p, const QTile& q_tile, Span span) : slivers((q_tile.rows + SLIVER_ROWS - 1) / SLIVER_ROWS) {
        for (long s = 0; s < slivers; s++) {
            const long last = smaller((s + 1) * SLIVER_ROWS, q_tile.rows) - 1;
            const long end = smaller(seen_by(p, q_tile.first + last).end, span.end);
            count[s] = larger(end - span.begin, 0);
        }
    }
    long rows(const QTile& q_tile, long s) const { return smaller(q_tile.rows - s * SLIVER_ROWS, SLIVER_ROWS); }
    long width(long s) const { return round_up(count[s], W); }  // keys, in whole vectors
    long of_row(long i) const { return count[i / SLIVER_ROWS]; }
};

// Whether some of the first `width` scores of row i of the q tile must be hidden: by a mask, or because they pad a vector.
inline bool hides(const Problem& p, const QTile& q_tile, long i, Span span, long width) {
    const Span seen = seen_by(p, q_tile.first + i);
    return p.row_labels || seen.begin > span.begin || smaller(seen.end, span.end) < span.begin + width;
}

// Sets the scores (width) of row i of the q tile to -inf where it does not see the key, whatever they were.
inline void hide(const Problem& p, const QTile& q_tile, long i, Span span, long width, float* scores) {
    const long row = q_tile.first + i;
    const Span seen = seen_by(p, row);
    const long begin = smaller(larger(seen.begin - span.begin, 0), width);
    const long end = larger(smaller(smaller(seen.end, span.end) - span.begin, width), begin);
    auto hide_outside = [&](long c) {  // in the vector of scores from c on
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
