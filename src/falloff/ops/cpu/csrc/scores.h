// The scores of a sliver: S = Q K^T * scale + bias, hidden ones at -inf.
#pragma once

#include "bias.h"
#include "factored.h"
#include "mask.h"
#include "pack.h"
#include "prefetch.h"
#include "problem.h"
#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

// With so few queries (decoding) packing keys costs more than it saves: keys are read in place, from the caller's tensor, and
// the call is as fast as memory is read.
constexpr long MOST_ROWS_IN_PLACE = 4;
static_assert(MOST_ROWS_IN_PLACE <= SLIVER_ROWS);  // multiply_in_place takes the q tile for one sliver
inline bool keys_in_place(const Problem& p) { return p.N <= MOST_ROWS_IN_PLACE && p.type == Type::float32; }

// Q K^T for the queries (rows, Dp) of a q tile and the keys from `first_key` on, in place: (rows, width) of (.., score_row).
// The products of W keys are summed across lanes at once, by transposing them.
inline void multiply_in_place(
    const Problem& p, const QTile& q_tile, long first_key, long width, const float* query, float* scores, long score_row
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
            store(scores + i * score_row + key, total);
        }
}

// The largest score of a row (width), lane by lane.
inline Vec max_lanes(const float* scores, long width) {
    Vec lanes = broadcast(-INF);
    for (long c = 0; c < width; c += W) lanes = larger(load(scores + c), lanes);
    return lanes;
}

// Scores (rows, width) of (.., score_row) for sliver s of a q tile and the keys of a span. `query`: the q tile (rows, inner), in
// place or packed; `key_panels`: the span's keys; `by_key`: from bias_by_key. `row_max_lanes` (rows):
// the largest score of each row, lane by lane.
template <class Ahead>
inline void score_sliver(
    const Problem& p, const QTile& q_tile, Span span, const SliverKeys& sliver_keys, long s, Left query,
    const float* key_panels, const BiasScratch& bias_scratch, const float* by_key, float* scores,
    long score_row, Vec* row_max_lanes, Ahead& prefetch
) {
    const long first = s * SLIVER_ROWS, rows = sliver_keys.rows(q_tile, s), width = sliver_keys.width(s);
    const long inner = padded_inner(p);
    const BiasTile bias = bias_tile(p, q_tile, first, rows, span.begin, width, bias_scratch);
    const float scale = warp_scales(p) ? 1.0f : p.scale;  // add_warp multiplies by the scale itself
    for (long i = 0; i < rows; i++) row_max_lanes[i] = broadcast(-INF);
    if (keys_in_place(p)) {
        multiply_in_place(p, q_tile, span.begin, width, query.data, scores, score_row);
        for (long i = 0; i < rows; i++)
            for (long c = 0; c < width; c += W) {
                const Vec score = load(scores + i * score_row + c) * scale + load(bias.data + i * bias.row + c);
                store(scores + i * score_row + c, score);
                row_max_lanes[i] = larger(score, row_max_lanes[i]);
            }
    } else {
        multiply_sliver(
            rows, width, inner_of_head(p), Left{query.data + first * query.row, query.row, 1},
            Right{key_panels, PANEL, inner * PANEL},
            in_pairs(p), prefetch, [](int, long) { return Vec{}; },
            [=]<int V>(int i, long c, const Vec (&sums)[V]) {
                Vec largest_so_far = row_max_lanes[i];
                for (int v = 0; v < V; v++) {
                    const Vec score = sums[v] * scale + load(bias.data + i * bias.row + c + v * W);
                    store(scores + i * score_row + c + v * W, score);
                    largest_so_far = larger(score, largest_so_far);
                }
                row_max_lanes[i] = largest_so_far;
            }
        );
    }
    const bool by_row = p.band.on || p.warp.on || p.potential.on || by_key;
    for (long i = 0; i < rows; i++) {
        float* row = scores + i * score_row;
        if (by_row) {
            const float* of_keys = by_key ? by_key + (first + i) * MOST_TILE_KEYS : nullptr;
            add_to_row(p, q_tile, first + i, span.begin, width, of_keys, row);
        }
        const bool hidden = hides(p, q_tile, first + i, span, width);
        if (hidden) hide(p, q_tile, first + i, span, width, row);
        if (by_row || hidden) row_max_lanes[i] = max_lanes(row, width);
    }
}

}  // namespace falloff::FALLOFF_ISA
