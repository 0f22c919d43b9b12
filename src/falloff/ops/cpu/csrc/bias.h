// The bias of a row of a tile, and its gradient.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"
#include "mask.h"
#include "problem.h"
#include "simd.h"

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

// A tile of a bias as a strided view: element (i, j) lies at data[i * row + j]. Rows may overlap.
struct BiasTile {
    const float* data;
    long row;
};

// The strip of `rows` rows from row i of the q tile on and the keys from `key` on: (rows, width). A strip is stored by falling
// offset: the next key lies one number further, the next row one before; the value of each end is repeated STRIP_PAD times.
// Zeros where there is none; add_to_row adds the other parts.
inline BiasTile strip_tile(const Problem& p, const QTile& q_tile, long i, long rows, long key, long width) {
    static constexpr float zeros[STRIP_PAD] = {};
    if (!p.strip.on) return {zeros, 0};
    const long K = p.strip.K;
    const float* strip = p.falling_strip + q_tile.h * p.strip_row;
    const long top = position(p, q_tile.first + i) - key - p.strip.start;  // the first row's and key's offset, from the strip's start
    if (top - (width - 1) >= K - 1) return {strip, 0};
    if (top + rows - 1 <= 0) return {strip + STRIP_PAD + K - 1, 0};
    return {strip + STRIP_PAD + K - 1 - top, -1};
}

// The columns of a row whose offsets lie within a band: c such that 0 <= position - key - c < E.
inline Span band_columns(const Problem& p, long row, long key, long width) {
    const long top = position(p, row) - key;
    return {larger(top - p.band.E + 1, 0), smaller(top + 1, width)};
}

// A row of scores (width) += the row's band.
inline void add_band(const Problem& p, long b, long h, long row, long key, long width, float* s) {
    const float* values = p.band.values + ((b * p.H + h) * p.N + row) * p.band.E;
    const long top = position(p, row) - key;
    const Span span = band_columns(p, row, key, width);
    long c = span.begin;
    for (; c + W <= span.end; c += W) store(s + c, load(s + c) + reversed(load(values + top - c - (W - 1))));
    for (; c < span.end; c++) s[c] += values[top - c];
}

// The row's gradient of the band, from a row of dS (width).
inline void write_band_gradient(const Backward& p, long b, long h, long row, long key, long width, const float* ds) {
    float* values = p.grad_bias.band + ((b * p.H + h) * p.N + row) * p.band.E;
    const long top = position(p, row) - key;
    const Span span = band_columns(p, row, key, width);
    long c = span.begin;  // each value of a band meets one key: it is written, not added
    for (; c + W <= span.end; c += W) store(values + top - c - (W - 1), reversed(load(ds + c)));
    for (; c < span.end; c++) values[top - c] = ds[c];
}

constexpr int32_t NEVER = 0x7FFFFFFF;

// Warp: cuts a row into runs of columns that lie in one segment each, and calls visit(segment, begin, end). Distances fall to 0
// at the row's own position and rise again; `bends` holds the distance at which each segment but the first begins.
template <class Visit>
inline void for_segments(const Problem& p, long b, long row, long key, long width, Visit visit) {
    const int S = p.warp.S;
    const int32_t* bends = p.bends + ((p.warp.a_batch ? b * p.N : 0) + row) * (S - 1);
    const long top = position(p, row) - key;  // the offset of column 0
    auto bend = [&](int s) { return bends[s] == NEVER ? 1L << 61 : long(bends[s]); };
    auto segment_at = [&](long distance) {
        int low = 0, high = S - 1;  // the number of bends at or before the distance
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
            const long end = smaller(s < S - 1 ? larger(top + bend(s), c) : width, width);
            if (end > c) visit(s, c, end);
            c = end;
        }
}

// g of a row's distances to the keys from `key` on: `distances` holds g for every offset of the call, by falling offset.
inline const float* distances_of(const Problem& p, long row, long key) {
    return p.distances + STRIP_PAD + (p.N - 1 - row) + key;
}

// A row of scores (width): s = s * scale + bias, in one rounding, which is why score_sliver leaves the scale to it.
inline void add_warp(const Problem& p, long b, long h, long row, long key, long width, float scale, float* s) {
    const Warp& warp = p.warp;
    const float* g = distances_of(p, row, key);
    const float a = warp.a[b * warp.a_batch + row];
    for_segments(p, b, row, key, width, [&](int segment, long begin, long end) {
        const float slope = warp.slope[h * warp.S + segment], intercept = warp.intercept[h * warp.S + segment];
        for_columns(begin, end, [&](long c, Int inside) {
            const Vec scores = load(s + c), x = load(g + c) * a;
            store(s + c, inside ? scores * scale + (x * slope + intercept) : scores);
        });
    });
}

// From a row of dS (count): adds to the gradients of slope and intercept, `lines` (2, S), and of a, and writes
// dS * slope * a to `grad_g`, whose sums along diagonals are the gradient of g.
inline void add_warp_gradient(
    const Problem& p, long b, long h, long row, long key, long count, const float* ds, float* grad_g, double* lines,
    double* grad_a
) {
    const Warp& warp = p.warp;
    const float* g = distances_of(p, row, key);
    const float a = warp.a[b * warp.a_batch + row];
    for_segments(p, b, row, key, count, [&](int segment, long begin, long end) {
        const float slope = warp.slope[h * warp.S + segment];
        Vec sum_ds{}, sum_ds_g{};
        for_columns(begin, end, [&](long c, Int inside) {
            const Vec here = inside ? load(ds + c) : Vec{};
            sum_ds += here;
            sum_ds_g += here * load(g + c);
            store(grad_g + c, inside ? here * (slope * a) : load(grad_g + c));
        });
        const float total = sum(sum_ds_g);
        lines[segment] += double(total) * a;
        lines[warp.S + segment] += sum(sum_ds);
        grad_a[row] += double(total) * slope;
    });
}

// A row of scores (width) += the row's potential and those of the keys, which are added to each other first.
inline void add_potential(const Problem& p, long b, long h, long row, long key, long width, float* s) {
    const float of_row = p.potential.row[(b * p.H + h) * p.N + row];
    const float* of_key = p.potential.key + (b * p.H + h) * p.M + key;
    const long count = smaller(width, p.M - key);  // behind the last key there is nothing to read
    long c = 0;
    for (; c + W <= count; c += W) store(s + c, load(s + c) + (of_row + load(of_key + c)));
    for (; c < count; c++) s[c] += of_row + of_key[c];
}

// Whether score_sliver leaves the scale to add_warp.
inline bool warp_scales(const Problem& p) { return p.warp.on && !p.strip.on && !p.factored[QUERY].on; }

// Adds to a row of scores (width) the parts that are not a BiasTile, for row i of the q tile and the keys from `key` on. `by_key`:
// the row's biases of the keys' states, or null.
inline void add_to_row(
    const Problem& p, const QTile& q_tile, long i, long key, long width, const float* by_key, float* s
) {
    const long b = q_tile.b, h = q_tile.h, row = q_tile.first + i;
    if (p.warp.on) add_warp(p, b, h, row, key, width, warp_scales(p) ? p.scale : 1.0f, s);
    if (p.band.on) add_band(p, b, h, row, key, width, s);
    for (long c = 0; by_key && c < width; c += W) store(s + c, load(s + c) + load(by_key + c));
    if (p.potential.on) add_potential(p, b, h, row, key, width, s);
}

// Sums a tile (rows, count) of (.., tile_row) along its diagonals: `diagonals` (rows + count - 1). Zeros stand before and
// behind each row of the tile, so that W diagonals are a sum of one vector of each row, which starts one number further in
// each.
inline void add_diagonals(const float* tile, long tile_row, long rows, long count, float* diagonals) {
    const long num = rows + count - 1;  // of diagonal x: column - row = x - (rows - 1)
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

// Adds the sums along diagonals to a gradient of K values, by offset or by distance, clamped as in the forward.
inline void add_by_offset(
    const Problem& p, const QTile& q_tile, Span span, const float* diagonals, double* grad, long K, long start, bool distance
) {
    const long top = position(p, q_tile.first + q_tile.rows - 1) - span.begin;  // the offset of diagonal 0
    const long num = q_tile.rows + span.count() - 1;
    for (long x = 0; x < num; x++) {
        const long offset = top - x;
        const long k = distance ? (offset < 0 ? -offset : offset) : offset - start;
        grad[smaller(larger(k, 0), K - 1)] += diagonals[x];
    }
}

// For each row, the first distance beyond each knot: the first n with g[n] * a > knot; NEVER where g ends before it. From one
// row to the next they hardly change, so each search starts from the row before.
constexpr long BEND_ROWS = 64;

inline long bend_items(const Problem& p) { return (p.warp.a_batch ? p.B : 1) * ((p.N + BEND_ROWS - 1) / BEND_ROWS); }
inline size_t bend_bytes(const Problem&) { return 0; }
inline void find_bends(const Problem& p, long item, Arena) {
    const long per_entry = (p.N + BEND_ROWS - 1) / BEND_ROWS;
    const long b = item / per_entry, first = item % per_entry * BEND_ROWS;
    const Warp& warp = p.warp;
    const float *g = warp.g, *a = warp.a + b * warp.a_batch, *knots = warp.knots;
    int32_t* bends = p.bends + b * p.N * (warp.S - 1);
    for (int s = 0; s < warp.S - 1; s++) {
        long low = 0, high = warp.K;
        while (low < high) {
            const long middle = (low + high) / 2;
            if (g[middle] * a[first] > knots[s]) high = middle;
            else low = middle + 1;
        }
        for (long row = first; row < smaller(first + BEND_ROWS, p.N); row++) {
            while (low > 0 && g[low - 1] * a[row] > knots[s]) low--;
            while (low < warp.K && !(g[low] * a[row] > knots[s])) low++;
            bends[row * (warp.S - 1) + s] = low < warp.K ? int32_t(low) : NEVER;
        }
    }
}

}  // namespace falloff::FALLOFF_ISA
