// Backward: a tile of keys is visited by all blocks of query rows; weights are computed anew from the log-sum-exp.
//
// With weights P = exp(scores - lse) and dP = dO V^T, the gradient of the scores is dS = P * (dP - delta), where delta is the
// sum of dO * O along a row. Then dV = P^T dO, dK = scale * dS^T Q, dQ = scale * dS K, and the gradient of a bias is a sum of
// dS: along diagonals for a strip, in place for a band, by segment for a warp. A thread owns all heads that share a key head,
// or a part of their keys, so that every sum has one owner and one order. 48 x 192 tiles: 192 keys are 32 register blocks of
// rows of dK and dV, and three tiles of scores, five of keys or values and two blocks of rows stay in a second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bias.h"
#include "pack.h"
#include "problem.h"
#include "simd.h"
#include "skip.h"
#include "softmax.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

constexpr long BACKWARD_ROWS = 48, BACKWARD_KEYS = 192;
constexpr long LEFT = 48;  // zeros before and after each row of a tile, for add_diagonals
constexpr long TILE_ROW = LEFT + BACKWARD_KEYS + 64;
static_assert(BACKWARD_ROWS <= Steps::MOST * BLOCK_ROWS);
static_assert(BACKWARD_ROWS % 2 == 0);  // multiply_rows makes pairs of rows
static_assert(BACKWARD_KEYS % PANEL == 0 && BACKWARD_KEYS <= STRIP_PAD);
// What add_diagonals reads of a row before its first key and behind its last; `diagonals` has TILE_ROW too.
static_assert(LEFT >= BACKWARD_ROWS - 1 && TILE_ROW - LEFT >= BACKWARD_KEYS + BACKWARD_ROWS + W);
static_assert(LEFT % W == 0 && TILE_ROW % W == 0);  // vectors of scores do not straddle cache lines

inline long row_blocks(const Problem& p) { return (p.N + BACKWARD_ROWS - 1) / BACKWARD_ROWS; }

// delta, and what certified skipping needs, of one head.
inline long prepare_items(const Problem& p) { return p.B * p.H; }
inline size_t prepare_floats(const Problem& p) { return 2 * BACKWARD_ROWS * padded(p); }
inline void prepare_backward(const Problem& p, long head, float* scratch) {
    const long b = head / p.H, h = head % p.H, Dp = padded(p);
    float *left = scratch, *right = scratch + BACKWARD_ROWS * Dp;
    for (long block = 0; block < row_blocks(p); block++) {
        const long first = block * BACKWARD_ROWS, rows = smaller(BACKWARD_ROWS, p.N - first);
        const float* lse = p.lse + head * p.N + first;
        pack_rows(p, p.grad_out, b, h, first, rows, left);
        pack_rows(p, p.out_rows, b, h, first, rows, right);
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
    // Of queries and of the output's gradient a block, as left and right factors; of keys and values a tile.
    float *query, *query_right, *grad_out, *grad_out_right, *keys, *key_panels, *value_panels, *grad_key, *grad_value;
    float *weights, *used, *grads, *diagonals;  // a tile of scores each; used: after dropout

    static size_t floats(const Problem& p) {
        const long Dp = padded(p);
        return 4 * BACKWARD_ROWS * Dp + 3 * BACKWARD_ROWS * TILE_ROW + TILE_ROW + 5 * BACKWARD_KEYS * Dp + 16 * 13;
    }
    BackwardScratch(const Problem& p, float* scratch) {
        const long Dp = padded(p);
        auto take = [&](long count) {
            float* part = scratch;
            scratch += round_up(count, 16);
            return part;
        };
        query = take(BACKWARD_ROWS * Dp);
        query_right = in_pairs(p) ? take(BACKWARD_ROWS * Dp) : query;
        grad_out = take(BACKWARD_ROWS * Dp);
        grad_out_right = in_pairs(p) ? take(BACKWARD_ROWS * Dp) : grad_out;
        weights = take(BACKWARD_ROWS * TILE_ROW) + LEFT;
        used = p.dropout.on || in_pairs(p) ? take(BACKWARD_ROWS * TILE_ROW) + LEFT : weights;
        grads = take(BACKWARD_ROWS * TILE_ROW) + LEFT;
        diagonals = take(TILE_ROW);
        keys = take(BACKWARD_KEYS * Dp);
        key_panels = take(BACKWARD_KEYS * Dp);
        value_panels = take(BACKWARD_KEYS * Dp);
        grad_key = take(BACKWARD_KEYS * Dp);
        grad_value = take(BACKWARD_KEYS * Dp);
    }
};

inline size_t backward_floats(const Problem& p) { return BackwardScratch::floats(p); }
inline long backward_items(const Problem& p) { return p.B * p.G * p.key_chunks; }

inline void add_form_gradient(
    const Problem& p, long chunk, const Block& block, Span span, const Steps& steps, const BackwardScratch& at
) {
    const long head = (chunk * p.B + block.b) * p.H + block.h;
    double* lines = p.grad_lines + head * 2 * p.S;
    float* tile = p.form == Form::warp ? at.used : at.grads;
    for (long i = 0; i < block.rows; i++) {
        const long row = block.first + i, count = steps.of_row(i);
        float *grads = at.grads + i * TILE_ROW, *along = tile + i * TILE_ROW;
        if (p.form == Form::band) {
            add_band_gradient(p, block.b, block.h, row, span.begin, count, grads);
            continue;
        }
        if (p.form == Form::warp)
            add_warp_gradient(p, block.b, block.h, row, span.begin, count, grads, along, lines, p.grad_a + head * p.N);
        for (long c = count; c < span.count() + BACKWARD_ROWS + W; c++) along[c] = 0.0f;
    }
    if (p.form == Form::band) return;
    add_diagonals(tile, TILE_ROW, block.rows, span.count(), at.diagonals);
    add_by_offset(p, block, span, at.diagonals, p.grad_strip + head * p.K, p.start, p.form == Form::warp);
}

// One tile of one head: adds to the gradients of the tile's keys and values, of the block's queries, and of the form.
inline void attend_backward(const Problem& p, long chunk, const Block& block, Span tile, Span span, const BackwardScratch& at) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - tile.begin, head = block.b * p.H + block.h;
    const float *lse = p.lse + head * p.N + block.first, *delta = p.delta + head * p.N + block.first;
    const Steps steps(p, block, span);
    pack_left(p, p.query, block.b, block.h, block.first, block.rows, at.query);
    pack_left(p, p.grad_out, block.b, block.h, block.first, block.rows, at.grad_out);
    if (in_pairs(p)) {
        pack_right(p, p.query, block.b, block.h, block.first, block.rows, at.query_right);
        pack_right(p, p.grad_out, block.b, block.h, block.first, block.rows, at.grad_out_right);
    }

    const bool needs_scores = p.needs_query || p.needs_key || p.needs_form;
    float* used = p.dropout.on ? at.used : at.weights;
    for (long s = 0; s < steps.strips; s++) {
        const long first = s * BLOCK_ROWS, rows = steps.rows(block, s), width = steps.width(s);
        float *weights = at.weights + first * TILE_ROW, *after = used + first * TILE_ROW, *grads = at.grads + first * TILE_ROW;
        // As in forward, bit for bit: what the log-sum-exp is subtracted from must be the scores that it was made of.
        Vec most[BLOCK_ROWS];
        score_strip(p, block, span, steps, s, at.query, at.key_panels + skipped * inner, weights, TILE_ROW, most);
        for (long i = 0; i < rows; i++) {
            to_weights(weights + i * TILE_ROW, width, lse[first + i] == -INF ? INF : lse[first + i]);  // 0 where nothing was seen
            if (p.dropout.on) drop(p, block, first + i, span.begin, width, weights + i * TILE_ROW, after + i * TILE_ROW);
            store(after + i * TILE_ROW + width, Vec{});  // a strip of keys that this row sees in part may reach there
            store(grads + i * TILE_ROW + width, Vec{});
        }
        // dS = P * (dP - delta) with dP = dO V^T
        if (needs_scores)
            multiply_strip(
                rows, width, inner_of(p), Left{at.grad_out + first * inner, inner, 1},
                Right{at.value_panels + skipped * inner, PANEL, inner * PANEL}, in_pairs(p),
                [](int, long) { return Vec{}; },
                [=]<int V>(int i, long c, const Vec (&sums)[V]) {
                    const long at = i * TILE_ROW + c;
                    for (int v = 0; v < V; v++)
                        store(
                            grads + at + v * W,
                            load(after + at + v * W) * sums[v] - load(weights + at + v * W) * delta[first + i]
                        );
                }
            );
    }
    // From here on `weights` are free, and where pairs are made of `used` they are the memory for it, or the other way round.
    float* pairs = used == at.weights ? at.used : at.weights;
    if (p.needs_value)
        add_transposed_product(p, block, span, steps, used, TILE_ROW, pairs, at.grad_out_right, at.grad_value + skipped * Dp);
    if (!needs_scores) return;
    if (p.needs_form) add_form_gradient(p, chunk, block, span, steps, at);
    if (p.needs_key)
        add_transposed_product(p, block, span, steps, at.grads, TILE_ROW, at.used, at.query_right, at.grad_key + skipped * Dp);
    if (p.needs_query) {
        float* to = p.grad_query + ((chunk * p.B * p.H + head) * p.N + block.first) * Dp;
        for (long s = 0; s < steps.strips; s++) {
            const long first = s * BLOCK_ROWS, rows = steps.rows(block, s);
            float* grads = at.grads + first * TILE_ROW;
            if (in_pairs(p))
                for (long i = 0; i < rows; i++) pair_columns(grads + i * TILE_ROW, steps.width(s));
            add_product(
                rows, Dp, along(p, steps.count[s]), Left{grads, TILE_ROW, 1}, Right{at.keys + along(p, skipped) * Dp, Dp, PANEL},
                to + first * Dp, Dp, in_pairs(p)
            );
        }
    }
}

inline void backward(const Problem& p, long item, float* scratch) {
    const BackwardScratch at(p, scratch);
    const long Dp = padded(p), fold = p.fold();
    const long chunk = item / (p.B * p.G), b = item / p.G % p.B, g = item % p.G;
    for (size_t x = 0; x < backward_floats(p); x++) scratch[x] = 0.0f;
    if (p.needs_query) {
        float* to = p.grad_query + ((chunk * p.B + b) * p.H + g * fold) * p.N * Dp;
        for (long x = 0; x < fold * p.N * Dp; x++) to[x] = 0.0f;
    }
    const long tiles = (p.M + BACKWARD_KEYS - 1) / BACKWARD_KEYS;
    for (long index = tiles * chunk / p.key_chunks; index < tiles * (chunk + 1) / p.key_chunks; index++) {
        if (p.given_up()) return;
        const Span tile{index * BACKWARD_KEYS, smaller((index + 1) * BACKWARD_KEYS, p.M)};
        const int32_t* labels = hidden_from(p, b, tile.begin);
        for (long x = 0; x < tile.count() * Dp; x++) at.grad_key[x] = at.grad_value[x] = 0.0f;
        bool packed = false;
        for (long h = g * fold; h < (g + 1) * fold; h++)
            for (long n = 0; n < row_blocks(p); n++) {
                const Block block{b, h, n * BACKWARD_ROWS, smaller(BACKWARD_ROWS, p.N - n * BACKWARD_ROWS)};
                Span span = seen_by_block(p, block, tile);
                if (span.empty()) continue;
                const long row = (b * p.H + h) * p.N + block.first;
                span = that_matters(p, block, span, p.query_norm + row, p.reached + row);
                if (span.empty()) continue;
                if (!packed) {
                    pack_panels(p, p.value, b, g, tile.begin, tile.count(), at.keys, at.value_panels, labels);
                    pack_panels(p, p.key, b, g, tile.begin, tile.count(), at.keys, at.key_panels, labels);
                    pack_right(p, p.key, b, g, tile.begin, tile.count(), at.keys, labels);
                    packed = true;
                }
                attend_backward(p, chunk, block, tile, span, at);
            }
        const long row = (b * p.G + g) * p.M + tile.begin;
        if (p.needs_key) unpack_rows(p, at.grad_key, tile.count(), p.scale, p.grad_key, row, labels);
        if (p.needs_value) unpack_rows(p, at.grad_value, tile.count(), 1.0f, p.grad_value, row, labels);
    }
}

// Sums the chunks' gradients of a head's queries, in their order.
inline long finish_items(const Problem& p) { return p.needs_query ? p.B * p.H : 0; }
inline size_t finish_floats(const Problem& p) { return padded(p); }
inline void finish_backward(const Problem& p, long head, float* sums) {
    const long Dp = padded(p);
    for (long i = 0; i < p.N; i++) {
        for (long d = 0; d < Dp; d++) sums[d] = p.grad_query[(head * p.N + i) * Dp + d];
        for (long chunk = 1; chunk < p.key_chunks; chunk++)
            for (long d = 0; d < Dp; d++) sums[d] += p.grad_query[((chunk * p.B * p.H + head) * p.N + i) * Dp + d];
        unpack_rows(p, sums, 1, p.scale, p.grad_query_out, head * p.N + i);
    }
}

}  // namespace falloff::FALLOFF_ISA
