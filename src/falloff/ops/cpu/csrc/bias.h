// The bias of a row of a tile, and its gradient.
#pragma once

#include <cstddef>
#include <cstdint>

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
    Vec most = broadcast(-INF);
    for (long c = 0; c < width; c += W) most = larger(load(s + c), most);
    return most;
}

// s = s * scale + constant; returns the maxima.
inline Vec add_constant(float constant, long width, float scale, float* s) {
    Vec most = broadcast(-INF);
    for (long c = 0; c < width; c += W) {
        const Vec score = load(s + c) * scale + constant;
        store(s + c, score);
        most = larger(score, most);
    }
    return most;
}

// Strip. Stored by falling offset, so that the bias of a row is a stretch of it: the next key lies one further.
inline Vec add_strip(const Problem& p, long h, long row, long key, long width, float scale, float* s) {
    const float* strip = p.strip + h * p.strip_row;
    const long nearest = position(p, row) - key - (width - 1) - p.start, farthest = position(p, row) - key - p.start;
    if (nearest >= p.K - 1 || farthest <= 0)  // beyond an end, where it is constant
        return add_constant(strip[nearest >= p.K - 1 ? 0 : p.strip_row - 1], width, scale, s);
    const float* bias = strip + STRIP_PAD + p.K - 1 - farthest;
    Vec most = broadcast(-INF);
    for (long c = 0; c < width; c += W) {
        const Vec score = load(s + c) * scale + load(bias + c);
        store(s + c, score);
        most = larger(score, most);
    }
    return most;
}

// The columns of a row whose offsets lie within a band: c such that 0 <= position - key - c < E.
inline Span band_columns(const Problem& p, long row, long key, long width) {
    const long top = position(p, row) - key;
    return {larger(top - p.E + 1, 0), smaller(top + 1, width)};
}

inline Vec add_band(const Problem& p, long b, long h, long row, long key, long width, float scale, float* s) {
    for (long c = 0; c < width; c += W) store(s + c, load(s + c) * scale);
    const float* values = p.values + ((b * p.H + h) * p.N + row) * p.E;
    const long top = position(p, row) - key;
    const Span span = band_columns(p, row, key, width);
    long c = span.begin;
    for (; c + W <= span.end; c += W) store(s + c, load(s + c) + reversed(load(values + top - c - (W - 1))));
    for (; c < span.end; c++) s[c] += values[top - c];
    return maxima(s, width);
}

inline void add_band_gradient(const Problem& p, long b, long h, long row, long key, long width, const float* grad) {
    float* values = p.grad_band + ((b * p.H + h) * p.N + row) * p.E;
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

inline Vec add_warp(const Problem& p, long b, long h, long row, long key, long width, float scale, float* s) {
    const float* g = distances_of(p, row, key);
    const float a = p.a[b * p.a_batch + row];
    for_segments(p, b, row, key, width, [&](int segment, long begin, long end) {
        const float slope = p.slope[h * p.S + segment], intercept = p.intercept[h * p.S + segment];
        for_columns(begin, end, [&](long c, Int inside) {
            const Vec scores = load(s + c), x = load(g + c) * a;
            store(s + c, inside ? scores * scale + (x * slope + intercept) : scores);
        });
    });
    return maxima(s, width);
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

// score = product * scale + bias, for the keys from `key` on. Returns the maxima, while the scores are at hand.
inline Vec to_scores(const Problem& p, const Block& block, long i, long key, long width, float* s) {
    const float scale = p.scale;
    const long row = block.first + i;
    switch (p.form) {
        case Form::none: break;
        case Form::strip: return add_strip(p, block.h, row, key, width, scale, s);
        case Form::band: return add_band(p, block.b, block.h, row, key, width, scale, s);
        case Form::warp: return add_warp(p, block.b, block.h, row, key, width, scale, s);
    }
    return add_constant(0.0f, width, scale, s);
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
    const Problem& p, const Block& block, Span span, const float* diagonals, double* grad, long start, bool distance
) {
    const long top = position(p, block.first + block.rows - 1) - span.begin;  // the offset of diagonal 0
    const long num = block.rows + span.count() - 1;
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
inline size_t bend_floats(const Problem&) { return 0; }
inline void find_bends(const Problem& p, long item, float*) {
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
