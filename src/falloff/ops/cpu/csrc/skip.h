// Certified skipping: which keys of a span cannot matter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"
#include "mask.h"
#include "pack.h"
#include "problem.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

// All keys that are skipped of a row have less than 2^-24 of its softmax mass together. There are two certificates, each good
// for half of that. A block of keys is skipped where each of its keys has less than 2^-25 / M of the mass. All keys before some
// key are skipped where their biases sum up to so little that they have less than 2^-25 together. The row's mass is at least
// exp(log_mass): the forward takes the running maximum for log_mass, the backward the log-sum-exp. A score is at most
// |query| |key| |scale| + bias. Norms are +inf where something is not finite, which fails every comparison: nothing that is not
// finite is ever skipped.
//
// Why the bound holds in float arithmetic. The comparison: rounding never turns x >= y into fl(x) < fl(y), so
// fl(bias + product) < fl(log_mass - margin) says the same of the exact numbers. The product: the relative rounding of norms,
// of the product and of the scores themselves (D <= 256 terms) is below 1e-4. Underflow, and processors that take denormals
// for 0, lose less than 2^-125 of each square, so less than TINY of the sum of 256 of them. Norms therefore add TINY: none is
// below 2^-50, and where the scale is so large that this matters, less is skipped. What |query| |scale| may lose to underflow
// is below 2^-125 * 2^64 of a score. Overflow gives +inf or NaN, which skips nothing. A potential: rounding never turns
// x <= y into fl(row + x) > fl(row + y), so the bound of a block is one of the very biases that scores have. That of a tail, and a
// sum with a strip, are rounded once more, relative to themselves; so are the scores.
constexpr float TINY = 7.8886091e-31f;  // 2^-100
constexpr float SKIP_MARGIN = 17.4f;  // e^-17.4 is below 2^-25
static_assert(MOST_HEAD_SIZE <= 256);
static_assert(KEY_BLOCK % PANEL == 0);  // a span begins with a panel, also where keys before it are skipped

// An upper bound of the strip's values for a q tile's rows and the keys begin .. end - 1.
inline float strip_bound(const Problem& p, const QTile& q_tile, long begin, long end) {
    const Strip& strip = p.strip;
    const long low = position(p, q_tile.first) - (end - 1) - strip.start;
    const long high = position(p, q_tile.first + q_tile.rows - 1) - begin - strip.start;
    const float* maxima = p.strip_max + q_tile.h * strip_blocks(p);
    float bound = -INF;
    const long first = smaller(larger(low, 0), strip.K - 1), last = smaller(larger(high, 0), strip.K - 1);
    for (long k = first / STRIP_BLOCK; k <= last / STRIP_BLOCK; k++)
        bound = larger(bound, maxima[k]);
    return bound;
}

// An upper bound, for each row of a q tile, of the log-sum-exp of the strip's values for all keys before `end`.
inline float strip_tail(const Problem& p, const QTile& q_tile, long end) {
    const long nearest = position(p, q_tile.first) - (end - 1) - p.strip.start;
    if (nearest < 0) return INF;
    return p.strip_tail[q_tile.h * strip_blocks(p) + smaller(nearest, p.strip.K - 1) / STRIP_BLOCK];
}

// The span without the keys at its ends that cannot matter. For each row of the q tile (rows): query_norm, its |query| |scale|,
// and log_mass.
inline Span that_matters(const Problem& p, const QTile& q_tile, Span span, const float* query_norm, const float* log_mass) {
    if (!p.key_norm) return span;
    const long first = (q_tile.b * p.G + q_tile.h / p.group()) * key_blocks(p);
    const float each = SKIP_MARGIN + __builtin_logf(float(p.M));
    const long head = q_tile.b * p.H + q_tile.h;
    const float* row_potential = p.potential.on ? p.potential.row + head * p.N + q_tile.first : nullptr;
    // Of bounds of the strip and of the keys' potentials. 1.0001: norms are rounded.
    auto all_below = [&](float strip, float key, float key_norm, float margin) {
        bool below = true;
        for (long i = 0; i < q_tile.rows; i++) {
            const float bias = row_potential ? strip + (row_potential[i] + key) : strip;
            below &= bias + query_norm[i] * key_norm * 1.0001f < log_mass[i] - margin;
        }
        return below;
    };
    auto skipped = [&](long key) {
        const long at = key / KEY_BLOCK, end = smaller((at + 1) * KEY_BLOCK, p.M);
        const float strip = p.strip.on ? strip_bound(p, q_tile, at * KEY_BLOCK, end) : 0.0f;
        return all_below(strip, row_potential ? p.key_max[head * key_blocks(p) + at] : 0.0f, p.key_norm[first + at], each);
    };
    // The log-sum-exp of sums is at most the largest of the ones and the log-sum-exp of the others.
    auto skipped_before = [&](long end) {
        const long at = end / KEY_BLOCK - 1;
        const float norm = p.key_norm_before[first + at];
        if (!row_potential) return all_below(strip_tail(p, q_tile, end), 0.0f, norm, SKIP_MARGIN);
        const float strip = p.strip.on ? strip_bound(p, q_tile, 0, end) : 0.0f;
        return all_below(strip, p.key_tail[head * key_blocks(p) + at], norm, SKIP_MARGIN);
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
    const float s = __builtin_sqrtf(sum(squares) + TINY);
    return s == s ? s : INF;
}

// |query| |scale| of a q tile's rows: norms (rows). `scratch`: (rows, Dp).
inline void query_norms(const Problem& p, const QTile& q_tile, float* scratch, float* norms) {
    pack_rows(p, p.query, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, scratch);
    for (long i = 0; i < q_tile.rows; i++)
        norms[i] = norm(scratch + i * padded(p), padded(p)) * __builtin_fabsf(p.scale);
}

inline long key_norm_items(const Problem& p) { return p.B * p.G; }
inline size_t key_norm_bytes(const Problem& p) { return KEY_BLOCK * padded(p) * sizeof(float); }
inline void key_norms(const Problem& p, long item, Arena arena) {
    const long b = item / p.G, g = item % p.G, Dp = padded(p);
    float *rows = arena.take<float>(KEY_BLOCK * Dp), before = 0.0f;  // (KEY_BLOCK, Dp); the largest norm of all blocks so far
    for (long block = 0; block < key_blocks(p); block++) {
        const long first = block * KEY_BLOCK, count = smaller(p.M - first, KEY_BLOCK);
        const int32_t* labels = labels_from(p, b, first);
        pack_rows(p, p.key, b, g, first, count, rows, labels);
        float largest_norm = 0.0f;
        for (long j = 0; j < count; j++) largest_norm = larger(norm(rows + j * Dp, Dp), largest_norm);
        pack_rows(p, p.value, b, g, first, count, rows, labels);
        Vec zero{};  // 0 * value is NaN where a value is not finite
        for (long x = 0; x < count * Dp; x += W) zero += 0.0f * load(rows + x);
        if (sum(zero) != 0.0f) largest_norm = INF;  // NaN, too, is not 0
        before = larger(largest_norm, before);
        p.key_norm[item * key_blocks(p) + block] = largest_norm;
        p.key_norm_before[item * key_blocks(p) + block] = before;
    }
}

}  // namespace falloff::FALLOFF_ISA
