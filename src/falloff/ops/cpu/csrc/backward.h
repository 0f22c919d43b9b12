// Backward: a kv tile is visited by all q tiles; P is computed anew from the log-sum-exp.
//
// With P = exp(S - lse) and dP = dO V^T, the gradient of the scores is dS = P * (dP - delta), where delta is the
// sum of dO * O along a row. Then dV = P^T dO, dK = scale * dS^T Q, dQ = scale * dS K, and the gradient of a bias is a sum of
// dS: along diagonals for a strip, in place for a band, by segment for a warp. A thread owns all heads that share a key head,
// or a part of their keys, so that every sum has one owner and one order. 48 x 192 tiles: 192 keys are 32 slivers
// of dK and dV, and three tiles of scores, five of keys or values and two q tiles stay in a second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"
#include "bias.h"
#include "pack.h"
#include "problem.h"
#include "simd.h"
#include "skip.h"
#include "softmax.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

constexpr long BACKWARD_Q_TILE = 48, BACKWARD_KV_TILE = 192;
constexpr long LEFT = 48;  // zeros before and after each row of a tile, for add_diagonals
constexpr long TILE_ROW = LEFT + BACKWARD_KV_TILE + 64;
static_assert(BACKWARD_Q_TILE <= Steps::MOST * SLIVER_ROWS);
static_assert(BACKWARD_Q_TILE % 2 == 0);  // multiply_rows makes pairs of rows
static_assert(BACKWARD_KV_TILE % PANEL == 0 && BACKWARD_KV_TILE <= STRIP_PAD);
// What add_diagonals reads of a row before its first key and behind its last; `diagonals` has TILE_ROW too.
static_assert(LEFT >= BACKWARD_Q_TILE - 1 && TILE_ROW - LEFT >= BACKWARD_KV_TILE + BACKWARD_Q_TILE + W);
static_assert(LEFT % W == 0 && TILE_ROW % W == 0);  // vectors of scores do not straddle cache lines

inline long q_tiles(const Problem& p) { return (p.N + BACKWARD_Q_TILE - 1) / BACKWARD_Q_TILE; }

// delta, and what certified skipping needs, of one head.
inline long prepare_items(const Backward& p) { return p.B * p.H; }
inline size_t prepare_bytes(const Backward& p) { return 2 * BACKWARD_Q_TILE * padded(p) * sizeof(float); }
inline void prepare_backward(const Backward& p, long head, Arena arena) {
    const long b = head / p.H, h = head % p.H, Dp = padded(p);
    float *left = arena.take<float>(BACKWARD_Q_TILE * Dp), *right = arena.take<float>(BACKWARD_Q_TILE * Dp);
    for (long q_tile = 0; q_tile < q_tiles(p); q_tile++) {
        const long first = q_tile * BACKWARD_Q_TILE, rows = smaller(BACKWARD_Q_TILE, p.N - first);
        const float* lse = p.lse + head * p.N + first;
        pack_rows(p, p.grad_out, b, h, first, rows, left);
        pack_rows(p, p.out, b, h, first, rows, right);
        for (long i = 0; i < rows; i++) {
            // In the order in which products are summed in a tile: where one key has all the weight, dP - delta is 0 exactly.
            float products = 0.0f;
            for (long d = 0; d < p.D; d++) products = __builtin_fmaf(left[i * Dp + d], right[i * Dp + d], products);
            // What comes back for the log-sum-exp of a row that saw nothing may be anything, also NaN.
            const float back = p.grad_lse && lse[i] != -INF ? p.grad_lse[head * p.N + first + i] : 0.0f;
            p.delta[head * p.N + first + i] = products - back;
            // Nothing is skipped of a row that is not finite, here or in what comes back.
            const bool finite = lse[i] == lse[i] && products - products == 0.0f;
            p.reached[head * p.N + first + i] = !finite ? -INF : lse[i] == -INF ? INF : lse[i];
        }
        if (p.key_norm) query_norms(p, {b, h, first, rows}, left, p.query_norm + head * p.N + first);
    }
}

struct BackwardScratch {
    // Of queries and of the output's gradient a q tile, as left and right factors; of keys and values a kv tile.
    float *query, *query_right, *grad_out, *grad_out_right, *keys, *key_panels, *value_panels, *grad_key, *grad_value;
    float *prob, *dropped, *ds, *diagonals;  // a tile of scores each; used: after dropout

    BackwardScratch(const Backward& p, Arena& arena) {
        const long Dp = padded(p);
        auto take = [&](long count) { return arena.take<float>(count); };
        query = take(BACKWARD_Q_TILE * Dp);
        query_right = in_pairs(p) ? take(BACKWARD_Q_TILE * Dp) : query;
        grad_out = take(BACKWARD_Q_TILE * Dp);
        grad_out_right = in_pairs(p) ? take(BACKWARD_Q_TILE * Dp) : grad_out;
        prob = take(BACKWARD_Q_TILE * TILE_ROW) + LEFT;
        dropped = p.dropout.on || in_pairs(p) ? take(BACKWARD_Q_TILE * TILE_ROW) + LEFT : prob;
        ds = take(BACKWARD_Q_TILE * TILE_ROW) + LEFT;
        diagonals = take(TILE_ROW);
        keys = take(BACKWARD_KV_TILE * Dp);
        key_panels = take(BACKWARD_KV_TILE * Dp);
        value_panels = take(BACKWARD_KV_TILE * Dp);
        grad_key = take(BACKWARD_KV_TILE * Dp);
        grad_value = take(BACKWARD_KV_TILE * Dp);
    }
};

inline size_t backward_bytes(const Backward& p) {
    Arena counted;
    BackwardScratch(p, counted);
    return counted.bytes();
}
inline long backward_items(const Backward& p) { return p.B * p.G * p.key_chunks; }

inline void add_form_gradient(
    const Backward& p, long chunk, const QTile& q_tile, Span span, const Steps& steps, const BackwardScratch& at
) {
    const long head = (chunk * p.B + q_tile.b) * p.H + q_tile.h;
    double* lines = p.line_sums + head * 2 * p.S;
    float* kv_tile = p.form == Form::warp ? at.dropped : at.ds;
    for (long i = 0; i < q_tile.rows; i++) {
        const long row = q_tile.first + i, count = steps.of_row(i);
        float *ds = at.ds + i * TILE_ROW, *along = kv_tile + i * TILE_ROW;
        if (p.form == Form::band) {
            add_band_gradient(p, q_tile.b, q_tile.h, row, span.begin, count, ds);
            continue;
        }
        if (p.form == Form::warp)
            add_warp_gradient(p, q_tile.b, q_tile.h, row, span.begin, count, ds, along, lines, p.a_sums + head * p.N);
        for (long c = count; c < span.count() + BACKWARD_Q_TILE + W; c++) along[c] = 0.0f;
    }
    if (p.form == Form::band) return;
    add_diagonals(kv_tile, TILE_ROW, q_tile.rows, span.count(), at.diagonals);
    add_by_offset(p, q_tile, span, at.diagonals, p.strip_sums + head * p.K, p.start, p.form == Form::warp);
}

// One tile of one head: adds to dK and dV of the kv tile, to dQ of the q tile, and to the gradient of the form.
inline void attend_backward(
    const Backward& p, long chunk, const QTile& q_tile, Span kv_tile, Span span, const BackwardScratch& at
) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - kv_tile.begin, head = q_tile.b * p.H + q_tile.h;
    const float *lse = p.lse + head * p.N + q_tile.first, *delta = p.delta + head * p.N + q_tile.first;
    const Steps steps(p, q_tile, span);
    pack_left(p, p.query, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.query);
    pack_left(p, p.grad_out, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.grad_out);
    if (in_pairs(p)) {
        pack_right(p, p.query, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.query_right);
        pack_right(p, p.grad_out, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.grad_out_right);
    }

    const bool needs_scores = p.needs_query || p.needs_key || p.needs_form;
    float* dropped = p.dropout.on ? at.dropped : at.prob;
    for (long s = 0; s < steps.slivers; s++) {
        const long first = s * SLIVER_ROWS, rows = steps.rows(q_tile, s), width = steps.width(s);
        float *prob = at.prob + first * TILE_ROW, *after = dropped + first * TILE_ROW, *ds = at.ds + first * TILE_ROW;
        // As in forward, bit for bit: what the log-sum-exp is subtracted from must be the scores that it was made of.
        Vec most[SLIVER_ROWS];
        score_sliver(p, q_tile, span, steps, s, at.query, at.key_panels + skipped * inner, prob, TILE_ROW, most);
        for (long i = 0; i < rows; i++) {
            to_weights(prob + i * TILE_ROW, width, lse[first + i] == -INF ? INF : lse[first + i]);  // 0 where nothing was seen
            if (p.dropout.on) drop(p, q_tile, first + i, span.begin, width, prob + i * TILE_ROW, after + i * TILE_ROW);
            store(after + i * TILE_ROW + width, Vec{});  // six keys at once, of which this row sees some, may reach there
            store(ds + i * TILE_ROW + width, Vec{});
        }
        // dS = P * (dP - delta) with dP = dO V^T
        if (needs_scores)
            multiply_sliver(
                rows, width, inner_of(p), Left{at.grad_out + first * inner, inner, 1},
                Right{at.value_panels + skipped * inner, PANEL, inner * PANEL}, in_pairs(p),
                [](int, long) { return Vec{}; },
                [=]<int V>(int i, long c, const Vec (&sums)[V]) {
                    for (int v = 0; v < V; v++) {
                        const long x = i * TILE_ROW + c + v * W;
                        store(ds + x, load(after + x) * sums[v] - load(prob + x) * delta[first + i]);
                    }
                }
            );
    }
    // From here on `prob` is free, and where pairs are made of `dropped` it is the memory for them, or the other way round.
    float* pairs = dropped == at.prob ? at.dropped : at.prob;
    if (p.needs_value)
        add_transposed_product(
            p, q_tile, span, steps, dropped, TILE_ROW, pairs, at.grad_out_right, at.grad_value + skipped * Dp
        );
    if (!needs_scores) return;
    if (p.needs_form) add_form_gradient(p, chunk, q_tile, span, steps, at);
    if (p.needs_key)
        add_transposed_product(p, q_tile, span, steps, at.ds, TILE_ROW, at.dropped, at.query_right, at.grad_key + skipped * Dp);
    if (p.needs_query) {
        float* to = p.query_sums + ((chunk * p.B * p.H + head) * p.N + q_tile.first) * Dp;
        for (long s = 0; s < steps.slivers; s++) {
            const long first = s * SLIVER_ROWS, rows = steps.rows(q_tile, s);
            float* ds = at.ds + first * TILE_ROW;
            if (in_pairs(p))
                for (long i = 0; i < rows; i++) pair_columns(ds + i * TILE_ROW, steps.width(s));
            add_product(
                rows, Dp, along(p, steps.count[s]), Left{ds, TILE_ROW, 1}, Right{at.keys + along(p, skipped) * Dp, Dp, PANEL},
                to + first * Dp, Dp, in_pairs(p)
            );
        }
    }
}

inline void backward(const Backward& p, long item, Arena arena) {
    float* scratch = arena.take<float>(0);
    const BackwardScratch at(p, arena);
    const long Dp = padded(p), group = p.group();
    const long chunk = item / (p.B * p.G), b = item / p.G % p.B, g = item % p.G;
    for (size_t x = 0; x < arena.bytes() / sizeof(float); x++) scratch[x] = 0.0f;
    if (p.needs_query) {
        float* to = p.query_sums + ((chunk * p.B + b) * p.H + g * group) * p.N * Dp;
        for (long x = 0; x < group * p.N * Dp; x++) to[x] = 0.0f;
    }
    const long kv_tiles = (p.M + BACKWARD_KV_TILE - 1) / BACKWARD_KV_TILE;
    for (long index = kv_tiles * chunk / p.key_chunks; index < kv_tiles * (chunk + 1) / p.key_chunks; index++) {
        if (p.given_up()) return;
        const Span kv_tile{index * BACKWARD_KV_TILE, smaller((index + 1) * BACKWARD_KV_TILE, p.M)};
        const int32_t* labels = hidden_from(p, b, kv_tile.begin);
        for (long x = 0; x < kv_tile.count() * Dp; x++) at.grad_key[x] = at.grad_value[x] = 0.0f;
        bool packed = false;
        for (long h = g * group; h < (g + 1) * group; h++)
            for (long n = 0; n < q_tiles(p); n++) {
                const QTile q_tile{b, h, n * BACKWARD_Q_TILE, smaller(BACKWARD_Q_TILE, p.N - n * BACKWARD_Q_TILE)};
                Span span = seen_by_tile(p, q_tile, kv_tile);
                if (span.empty()) continue;
                const long row = (b * p.H + h) * p.N + q_tile.first;
                span = that_matters(p, q_tile, span, p.query_norm + row, p.reached + row);
                if (span.empty()) continue;
                if (!packed) {
                    pack_panels(p, p.value, b, g, kv_tile.begin, kv_tile.count(), at.keys, at.value_panels, labels);
                    pack_panels(p, p.key, b, g, kv_tile.begin, kv_tile.count(), at.keys, at.key_panels, labels);
                    pack_right(p, p.key, b, g, kv_tile.begin, kv_tile.count(), at.keys, labels);
                    packed = true;
                }
                attend_backward(p, chunk, q_tile, kv_tile, span, at);
            }
        const long row = (b * p.G + g) * p.M + kv_tile.begin;
        if (p.needs_key) unpack_rows(p, at.grad_key, kv_tile.count(), p.scale, p.grad_key, row, labels);
        if (p.needs_value) unpack_rows(p, at.grad_value, kv_tile.count(), 1.0f, p.grad_value, row, labels);
    }
}

// Sums the chunks' gradients of a head's queries, in their order.
inline long finish_items(const Backward& p) { return p.needs_query ? p.B * p.H : 0; }
inline size_t finish_bytes(const Backward& p) { return padded(p) * sizeof(float); }
inline void finish_backward(const Backward& p, long head, Arena arena) {
    const long Dp = padded(p);
    float* sums = arena.take<float>(Dp);
    for (long i = 0; i < p.N; i++) {
        for (long d = 0; d < Dp; d++) sums[d] = p.query_sums[(head * p.N + i) * Dp + d];
        for (long chunk = 1; chunk < p.key_chunks; chunk++)
            for (long d = 0; d < Dp; d++) sums[d] += p.query_sums[((chunk * p.B * p.H + head) * p.N + i) * Dp + d];
        unpack_rows(p, sums, 1, p.scale, p.grad_query, head * p.N + i);
    }
}

}  // namespace falloff::FALLOFF_ISA
