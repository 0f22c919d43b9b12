// The bias of a row of a tile, and its gradient.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"
#include "pack.h"
#include "problem.h"
#include "simd.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

// Calls visit(column, inside) for the vectors that overlap columns begin .. end - 1; `inside` marks their lanes within.
template <class Visit>
inline void for_columns(long begin, long end, Visit visit) {
    for (long c = begin / W * W; c < end; c += W) {
        if (c >= begin && c + W <= end) {
            visit(c, Int{} - 1);
        } else {
            const Int lane = iota() + int32_t(c);
            visit(c, (lane >= int32_t(begin)) & (lane < int32_t(end)));
        }
    }
}

// The largest of a row's scores, lane by lane.
inline Vec maxima(const float* s, long width) {
    Vec row_max_lanes = broadcast(-INF);
    for (long c = 0; c < width; c += W) row_max_lanes = larger(load(s + c), row_max_lanes);
    return row_max_lanes;
}

// A tile of a bias as a strided view: element (i, j) lies at data[i * row + j]. Rows may overlap.
struct BiasTile {
    const float* data;
    long row;
};

// Of a strip: it is stored by falling offset, so that the next key lies one further and the next row one before. Beyond both
// of its ends it goes on, constant, for STRIP_PAD values. Of no bias, and of forms that are added to a row of scores: zeros.
inline BiasTile bias_tile(const Problem& p, const QTile& q_tile, long i, long rows, long key, long width) {
    static constexpr float zeros[STRIP_PAD] = {};
    if (p.form != Form::strip) return {zeros, 0};
    const float* strip = p.strip + q_tile.h * p.strip_row;
    const long top = position(p, q_tile.first + i) - key - p.start;  // offset of the first row and key, from the strip's start
    if (top - (width - 1) >= p.K - 1) return {strip, 0};
    if (top + rows - 1 <= 0) return {strip + STRIP_PAD + p.K - 1, 0};
    return {strip + STRIP_PAD + p.K - 1 - top, -1};
}

// The columns of a row whose offsets lie within a band: c such that 0 <= position - key - c < E.
inline Span band_columns(const Problem& p, long row, long key, long width) {
    const long top = position(p, row) - key;
    return {larger(top - p.E + 1, 0), smaller(top + 1, width)};
}

inline void add_band(const Problem& p, long b, long h, long row, long key, long width, float* s) {
    const float* values = p.values + ((b * p.H + h) * p.N + row) * p.E;
    const long top = position(p, row) - key;
    const Span span = band_columns(p, row, key, width);
    long c = span.begin;
    for (; c + W <= span.end; c += W) store(s + c, load(s + c) + reversed(load(values + top - c - (W - 1))));
    for (; c < span.end; c++) s[c] += values[top - c];
}

inline void add_band_gradient(const Backward& p, long b, long h, long row, long key, long width, const float* grad) {
    float* values = p.grad_bias.values + ((b * p.H + h) * p.N + row) * p.E;
    const long top = position(p, row) - key;
    const Span span = band_columns(p, row, key, width);
    long c = span.begin;  // each value of a band meets one key: nothing to add to
    for (; c + W <= span.end; c += W) store(values + top - c - (W - 1), reversed(load(grad + c)));
    for (; c < span.end; c++) values[top - c] = grad[c];
}

constexpr int32_t NEVER = 0x7FFFFFFF;

// Warp. A row is cut into runs of columns in one segment: visit(segment, begin, end). Its distances fall to 0 at the row's own
// position and rise again; `bends` says at which distance each segment begins.
template <class Visit>
inline void for_segments(const Problem& p, long b, long row, long key, long width, Visit visit) {
    const int32_t* bends = p.bends + ((p.a_batch ? b * p.N : 0) + row) * (p.S - 1);
    const long top = position(p, row) - key;  // the offset of column 0
    auto bend = [&](int s) { return bends[s] == NEVER ? 1L << 61 : long(bends[s]); };
    auto segment_at = [&](long distance) {
        int low = 0, high = p.S - 1;  // the number of bends at or before the distance
        while (low < high) {
            const int middle = (low + high) / 2;
            if (bend(middle) <= distance) low = middle + 1;
            else high = middle;
        }
        return low;
    };
    long c = 0;
    if (top >= 0)
        for (int s = segment_at(top); c < width && c <= top; s--) {
            const long end = smaller(s > 0 ? larger(top - bend(s - 1) + 1, c) : top + 1, width);
            if (end > c) visit(s, c, end);
            c = end;
        }
    if (c < width)
        for (int s = segment_at(c - top); c < width; s++) {
            const long end = smaller(s < p.S - 1 ? larger(top + bend(s), c) : width, width);
            if (end > c) visit(s, c, end);
            c = end;
        }
}

// g of the row's distances, a stretch as in add_strip: `distances` holds it for every offset of the call.
inline const float* distances_of(const Problem& p, long row, long key) {
    return p.distances + STRIP_PAD + (p.N - 1 - row) + key;
}

// s = s * scale + bias, in one rounding: a warp's products come without the factor.
inline void add_warp(const Problem& p, long b, long h, long row, long key, long width, float* s) {
    const float* g = distances_of(p, row, key);
    const float a = p.a[b * p.a_batch + row];
    for_segments(p, b, row, key, width, [&](int segment, long begin, long end) {
        const float slope = p.slope[h * p.S + segment], intercept = p.intercept[h * p.S + segment];
        for_columns(begin, end, [&](long c, Int inside) {
            const Vec scores = load(s + c), x = load(g + c) * a;
            store(s + c, inside ? scores * p.scale + (x * slope + intercept) : scores);
        });
    });
}

// Sums for slope and intercept (lines: 2 x S) and for a, and into `along` what diagonal sums turn into the gradient of g.
inline void add_warp_gradient(
    const Problem& p, long b, long h, long row, long key, long count, const float* grad, float* along, double* lines,
    double* grad_a
) {
    const float* g = distances_of(p, row, key);
    const float a = p.a[b * p.a_batch + row];
    for_segments(p, b, row, key, count, [&](int segment, long begin, long end) {
        const float slope = p.slope[h * p.S + segment];
        Vec whole{}, warped{};
        for_columns(begin, end, [&](long c, Int inside) {
            const Vec here = inside ? load(grad + c) : Vec{};
            whole += here;
            warped += here * load(g + c);
            store(along + c, inside ? here * (slope * a) : load(along + c));
        });
        const float of_g = sum(warped);
        lines[segment] += double(of_g) * a;
        lines[p.S + segment] += sum(whole);
        grad_a[row] += double(of_g) * slope;
    });
}

// What a form that is no strip adds to a row of scores, of the keys from `key` on.
inline void add_to_row(const Problem& p, const QTile& q_tile, long i, long key, long width, float* s) {
    const long row = q_tile.first + i;
    if (p.form == Form::band) add_band(p, q_tile.b, q_tile.h, row, key, width, s);
    if (p.form == Form::warp) add_warp(p, q_tile.b, q_tile.h, row, key, width, s);
}

// S = Q K^T * scale + bias for sliver s of a q tile and the keys of a span, hidden ones at -inf: (rows, width) of (.., row).
// `row_max_lanes`: each row's maximum, lane by lane.
inline void score_sliver(
    const Problem& p, const QTile& q_tile, Span span, const Steps& steps, long s, const float* query, const float* keys,
    float* scores, long score_row, Vec* row_max_lanes
) {
    const long first = s * SLIVER_ROWS, rows = steps.rows(q_tile, s), width = steps.width(s), inner = padded_inner(p);
    const BiasTile bias = bias_tile(p, q_tile, first, rows, span.begin, width);
    const float scale = p.form == Form::warp ? 1.0f : p.scale;
    for (long i = 0; i < rows; i++) row_max_lanes[i] = broadcast(-INF);
    if (few(p)) {
        multiply_few(p, q_tile, span.begin, width, query, scores, score_row);
        for (long i = 0; i < rows; i++)
            for (long c = 0; c < width; c += W) {
                const Vec score = load(scores + i * score_row + c) * scale + load(bias.data + i * bias.row + c);
                store(scores + i * score_row + c, score);
                row_max_lanes[i] = larger(score, row_max_lanes[i]);
            }
    } else {
        multiply_sliver(
            rows, width, inner_of(p), Left{query + first * inner, inner, 1}, Right{keys, PANEL, inner * PANEL}, in_pairs(p),
            [](int, long) { return Vec{}; },
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
    const bool by_row = p.form == Form::band || p.form == Form::warp;
    for (long i = 0; i < rows; i++) {
        float* row = scores + i * score_row;
        if (by_row) add_to_row(p, q_tile, first + i, span.begin, width, row);
        const bool hidden = hides(p, q_tile, first + i, span, width);
        if (hidden) hide(p, q_tile, first + i, span, width, row);
        if (by_row || hidden) row_max_lanes[i] = maxima(row, width);
    }
}

// Sums a tile along its diagonals and adds them, by offset, to `sums`. Each row of the tile is followed and preceded by zeros,
// so that a vector of diagonals is a sum over rows of vectors that start one further in each.
inline void add_diagonals(const float* tile, long tile_row, long rows, long count, float* diagonals) {
    const long num = rows + count - 1;  // diagonal x holds column - row = x - (rows - 1)
    for (long x = 0; x < num; x += W) {
        Vec even{}, odd{};
        const float* at = tile + x - (rows - 1);
        long i = 0;
        for (; i + 2 <= rows; i += 2) {
            even += load(at + i * tile_row + i);
            odd += load(at + (i + 1) * tile_row + i + 1);
        }
        if (i < rows) even += load(at + i * tile_row + i);
        store(diagonals + x, even + odd);
    }
}

// Where distance or offset falls within a gradient of K values: ends are clamped, as their meaning is.
inline void add_by_offset(
    const Problem& p, const QTile& q_tile, Span span, const float* diagonals, double* grad, long start, bool distance
) {
    const long top = position(p, q_tile.first + q_tile.rows - 1) - span.begin;  // the offset of diagonal 0
    const long num = q_tile.rows + span.count() - 1;
    for (long x = 0; x < num; x++) {
        const long offset = top - x;
        const long k = distance ? (offset < 0 ? -offset : offset) : offset - start;
        grad[smaller(larger(k, 0), p.K - 1)] += diagonals[x];
    }
}

// For each row, the first distance beyond each knot: the first n with g[n] * a > knot; NEVER where g ends before. Rows that
// follow one another have nearly the same, so that each is found by a few steps from the last.
constexpr long BEND_ROWS = 64;

inline long bend_items(const Problem& p) { return (p.a_batch ? p.B : 1) * ((p.N + BEND_ROWS - 1) / BEND_ROWS); }
inline size_t bend_bytes(const Problem&) { return 0; }
inline void find_bends(const Problem& p, long item, Arena) {
    const long per_entry = (p.N + BEND_ROWS - 1) / BEND_ROWS;
    const long b = item / per_entry, first = item % per_entry * BEND_ROWS;
    const float* a = p.a + b * p.a_batch;
    int32_t* bends = p.bends + b * p.N * (p.S - 1);
    for (int s = 0; s < p.S - 1; s++) {
        long low = 0, high = p.K;
        while (low < high) {
            const long middle = (low + high) / 2;
            if (p.g[middle] * a[first] > p.knots[s]) high = middle;
            else low = middle + 1;
        }
        for (long row = first; row < smaller(first + BEND_ROWS, p.N); row++) {
            while (low > 0 && p.g[low - 1] * a[row] > p.knots[s]) low--;
            while (low < p.K && !(p.g[low] * a[row] > p.knots[s])) low++;
            bends[row * (p.S - 1) + s] = low < p.K ? int32_t(low) : NEVER;
        }
    }
}

}  // namespace falloff::FALLOFF_ISA
