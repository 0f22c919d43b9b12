// Backward: every q tile visits a kv tile before the next kv tile begins. P is computed anew from the log-sum-exp.
//
//   P = exp(S - lse)    dP = dO V^T    delta = rowsum(dO * O) - dLSE    dS = P * (dP - delta)
//   dV = P^T dO         dK = scale * dS^T Q        dQ = scale * dS K
// The gradient of a bias is a sum of dS: along diagonals for a strip, each number by itself for a band, by segment for a warp,
// along rows and columns for a potential, a product for states and a table. A row of dS sums up to the gradient of its
// log-sum-exp.
// With dropout, P in dV and in P * dP is what dropout leaves of it.
// A thread owns the heads that share a key head, or a part of their keys: every sum has one owner and one order.
// Tiles of 48 x 192: three of scores, five of keys or values and two of queries stay in the second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arena.h"
#include "bias.h"
#include "dropout.h"
#include "factored.h"
#include "mask.h"
#include "pack.h"
#include "prefetch.h"
#include "problem.h"
#include "product.h"
#include "scores.h"
#include "simd.h"
#include "skip.h"
#include "softmax.h"

namespace falloff::FALLOFF_ISA {

constexpr long BACKWARD_Q_TILE = 48, BACKWARD_KV_TILE = 192;
constexpr long TILE_MARGIN = 48;  // zeros before each row of a tile of scores, for add_diagonals; as many behind its keys
constexpr long ZERO_ROWS = SLIVER_ROWS - 1;  // above and below a tile of dS, for the states of keys
constexpr long TILE_ROW = TILE_MARGIN + BACKWARD_KV_TILE + 64;
static_assert(BACKWARD_Q_TILE <= SliverKeys::MOST_SLIVERS * SLIVER_ROWS);
static_assert(BACKWARD_Q_TILE % W == 0);  // row_products takes W rows, also behind the last one of a q tile
static_assert(BACKWARD_Q_TILE <= MOST_TILE_ROWS && BACKWARD_KV_TILE <= MOST_TILE_KEYS);
static_assert(BACKWARD_Q_TILE % 2 == 0);  // add_transposed_product makes pairs of rows
static_assert(BACKWARD_KV_TILE % PANEL == 0 && BACKWARD_KV_TILE <= STRIP_PAD);
// add_diagonals reads so far before a row's first key and behind its last; `diagonals` has TILE_ROW numbers too.
static_assert(TILE_MARGIN >= BACKWARD_Q_TILE - 1 && TILE_ROW - TILE_MARGIN >= BACKWARD_KV_TILE + BACKWARD_Q_TILE + W);
static_assert(TILE_MARGIN % W == 0 && TILE_ROW % W == 0);  // vectors of scores do not straddle cache lines

inline long q_tiles(const Problem& p) { return (p.N + BACKWARD_Q_TILE - 1) / BACKWARD_Q_TILE; }

// rowsum(A * B) of W rows of A and B, (W, D) of (.., row), which are transposed in registers to be summed lane by lane: each
// row in the order of dP = dO V^T, so that dP - delta is exactly 0 where one key has all the weight (but for pairs of bfloat16,
// whose products are added two at a time).
inline Vec row_products(const float* a, const float* b, long row, long D) {
    Vec sums{};
    for (long d = 0; d < D; d += W) {
        Vec a_block[W], b_block[W];  // (W, W)
        FALLOFF_UNROLL
        for (int i = 0; i < W; i++) a_block[i] = load(a + i * row + d), b_block[i] = load(b + i * row + d);
        transpose(a_block);
        transpose(b_block);
        for (int x = 0; x < smaller(D - d, W); x++) sums += a_block[x] * b_block[x];
    }
    return sums;
}

// delta of one head's rows, and what certified skipping needs of them.
inline long prepare_items(const Backward& p) { return p.B * p.H; }
inline size_t prepare_bytes(const Backward& p) { return 2 * BACKWARD_Q_TILE * padded(p) * sizeof(float); }
inline void prepare_backward(const Backward& p, long head, Arena arena) {
    const long b = head / p.H, h = head % p.H, Dp = padded(p);
    float *grad_out = arena.take<float>(BACKWARD_Q_TILE * Dp), *out = arena.take<float>(BACKWARD_Q_TILE * Dp);  // (rows, Dp)
    float row_sums[BACKWARD_Q_TILE];  // of dO * O
    for (long q_tile = 0; q_tile < q_tiles(p); q_tile++) {
        const long first = q_tile * BACKWARD_Q_TILE, rows = smaller(BACKWARD_Q_TILE, p.N - first);
        const float* lse = p.lse + head * p.N + first;
        pack_rows(p, p.grad_out, b, h, first, rows, grad_out);
        pack_rows(p, p.out, b, h, first, rows, out);
        for (long i = 0; i < rows; i += W) store(row_sums + i, row_products(grad_out + i * Dp, out + i * Dp, Dp, p.D));
        for (long i = 0; i < rows; i++) {
            // Of a row that saw nothing, the gradient of the log-sum-exp may be anything, NaN too: it does not count.
            const float grad_lse = p.grad_lse && lse[i] != -INF ? p.grad_lse[head * p.N + first + i] : 0.0f;
            const float delta = p.delta[head * p.N + first + i] = row_sums[i] - grad_lse;
            // As the sum of dS would be, NaN where the row is NaN.
            if (p.needs_form && p.potential.on)
                p.grad_bias.row_potential[head * p.N + first + i] = lse[i] == -INF ? 0.0f : grad_lse + 0.0f * (delta + lse[i]);
            // Nothing is skipped of a row whose output or gradient is not finite.
            const bool finite = lse[i] == lse[i] && delta - delta == 0.0f;
            p.log_mass[head * p.N + first + i] = !finite ? -INF : lse[i] == -INF ? INF : lse[i];
        }
        if (p.key_norm) query_norms(p, {b, h, first, rows}, out, p.query_norm + head * p.N + first);
    }
    for (const Side side : {QUERY, KEY})  // once for all batch entries
        if (p.needs_form && head < p.factored[side].tables) write_table_rows(p, side, head);
}

struct BackwardScratch {
    // (BACKWARD_Q_TILE, Dp) each, as left and as right factors: the same memory but for pairs of bfloat16.
    float *query, *query_right, *grad_out, *grad_out_right;
    float *keys, *key_panels, *value_panels, *grad_key, *grad_value;  // (BACKWARD_KV_TILE, Dp) each
    // (BACKWARD_Q_TILE, TILE_ROW) each, from the first row's first key on: P, P after dropout, dS. The second is the memory of
    // the first where it is not needed.
    float *prob, *prob_dropped, *ds;
    float* warp_ds;    // dS * slope * a of a warp: the memory of `prob_dropped`, which is dead by then
    float* diagonals;  // (TILE_ROW)
    double* column_sums;  // (BACKWARD_KV_TILE), of dS of a head

    BiasScratch bias;
    FactoredScratch factored;

    BackwardScratch(const Backward& p, Arena& arena)
        : bias(p, arena), factored(p, BACKWARD_Q_TILE, BACKWARD_KV_TILE, arena) {
        const long Dp = padded(p);
        auto take = [&](long count) { return arena.take<float>(count); };
        query = take(BACKWARD_Q_TILE * Dp);
        query_right = in_pairs(p) ? take(BACKWARD_Q_TILE * Dp) : query;
        grad_out = take(BACKWARD_Q_TILE * Dp);
        grad_out_right = in_pairs(p) ? take(BACKWARD_Q_TILE * Dp) : grad_out;
        prob = take(BACKWARD_Q_TILE * TILE_ROW) + TILE_MARGIN;
        prob_dropped = p.dropout.on || in_pairs(p) ? take(BACKWARD_Q_TILE * TILE_ROW) + TILE_MARGIN : prob;
        ds = take((BACKWARD_Q_TILE + 2 * ZERO_ROWS) * TILE_ROW) + ZERO_ROWS * TILE_ROW + TILE_MARGIN;
        warp_ds = prob_dropped;
        diagonals = take(TILE_ROW);
        column_sums = arena.take<double>(p.potential.on ? BACKWARD_KV_TILE : 0);
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

// C (span, Dp) += A^T B, or = where C is fresh, with A (rows of the q tile, span), P or dS, and B (rows of the q tile, Dp) from
// pack_right. Causal: the rows above a key's first add nothing and are left out. Where B is in pairs of bfloat16, A's rows are
// repacked in pairs into `pairs`, which must not be A; A has memory for an even number of rows.
inline void add_transposed_product(
    const Problem& p, const QTile& q_tile, Span span, const SliverKeys& sliver_keys, float* a, long a_row, float* pairs,
    const float* b, float* c, bool fresh
) {
    const long Dp = padded(p);
    long inner_row = a_row;
    if (in_pairs(p)) {
        inner_row = 2 * a_row;
        for (long i = 0; i < q_tile.rows; i += 2) {
            const long width = round_up(sliver_keys.of_row(i), W) + W;
            float* odd = a + (i + 1) * a_row;
            if (i + 1 == q_tile.rows) std::memset(odd, 0, width * sizeof(float));
            pair_rows(a + i * a_row, odd, width, pairs + i * a_row);
        }
        a = pairs;
    }
    NoPrefetch none;
    for (long key = 0; key < span.count(); key += SLIVER_ROWS) {
        long first = p.causal ? smaller(larger(span.begin + key - position(p, q_tile.first), 0), q_tile.rows) : 0;
        if (in_pairs(p)) first /= 2;
        add_product(
            smaller(span.count() - key, SLIVER_ROWS), Dp, inner_of_rows(p, q_tile.rows) - first,
            Left{a + first * inner_row + key, 1, inner_row}, Right{b + first * Dp, Dp, PANEL}, c + key * Dp, Dp, in_pairs(p),
            fresh, none
        );
    }
}

// Adds the sums of the columns of a tile (rows, width) of (.., TILE_ROW).
inline void add_columns(const float* tile, long rows, long width, double* sums) {
    for (long c = 0; c < width; c += W) {
        Vec total{};
        for (long i = 0; i < rows; i++) total += load(tile + i * TILE_ROW + c);
        for (int lane = 0; lane < W; lane++) sums[c + lane] += total[lane];
    }
}

// Adds what a tile of dS gives to the gradient of the form.
inline void add_form_gradient(
    const Backward& p, long chunk, const QTile& q_tile, Span kv_tile, Span span, const SliverKeys& sliver_keys,
    const BackwardScratch& at
) {
    const long b = q_tile.b, h = q_tile.h, head = (chunk * p.B + b) * p.H + h;
    const long behind = span.count() + BACKWARD_Q_TILE + W;  // zeros go so far, where they are read
    const bool zeros_behind = p.strip.on || p.potential.on || p.factored[QUERY].on || p.factored[KEY].on;
    for (long i = 0; i < q_tile.rows; i++) {
        const long row = q_tile.first + i, count = sliver_keys.of_row(i);
        float *ds = at.ds + i * TILE_ROW, *warp_ds = at.warp_ds + i * TILE_ROW;
        for (long c = count; c < behind && zeros_behind; c++) ds[c] = 0.0f;
        if (p.band.on) write_band_gradient(p, b, h, row, span.begin, count, ds);
        if (!p.warp.on) continue;
        double *lines = p.line_sums + head * 2 * p.warp.S, *of_a = p.a_sums + head * p.N;
        add_warp_gradient(p, b, h, row, span.begin, count, ds, warp_ds, lines, of_a);
        for (long c = count; c < behind; c++) warp_ds[c] = 0.0f;
    }
    if (p.strip.on) {
        add_diagonals(at.ds, TILE_ROW, q_tile.rows, span.count(), at.diagonals);
        add_by_offset(p, q_tile, span, at.diagonals, p.strip_sums + head * p.strip.K, p.strip.K, p.strip.start, false);
    }
    if (p.warp.on) {
        add_diagonals(at.warp_ds, TILE_ROW, q_tile.rows, span.count(), at.diagonals);
        add_by_offset(p, q_tile, span, at.diagonals, p.g_sums + head * p.warp.K, p.warp.K, 0, true);
    }
    const ScoreGradients tile{at.ds, TILE_ROW, q_tile.rows, span.count()};
    if (p.factored[QUERY].on) add_query_gradient(p, chunk, q_tile, span, sliver_keys, tile, at.factored);
    if (p.factored[KEY].on) {
        if (q_tile.rows < BACKWARD_Q_TILE)
            std::memset(at.ds + q_tile.rows * TILE_ROW - TILE_MARGIN, 0, ZERO_ROWS * TILE_ROW * sizeof(float));
        add_key_gradient(p, chunk, q_tile, span, span.begin - kv_tile.begin, tile, at.factored);
    }
    if (p.potential.on)
        add_columns(at.ds, q_tile.rows, round_up(span.count(), W), at.column_sums + span.begin - kv_tile.begin);
}

// One tile of one head: adds to dQ of the q tile, to the gradient of the form, and to dK and dV of the span's keys, whose sums
// it begins where they are `fresh`.
inline void attend_backward(
    const Backward& p, long chunk, const QTile& q_tile, Span kv_tile, Span span, const BackwardScratch& at, bool fresh
) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - kv_tile.begin, head = q_tile.b * p.H + q_tile.h;
    const float *lse = p.lse + head * p.N + q_tile.first, *delta = p.delta + head * p.N + q_tile.first;
    const SliverKeys sliver_keys(p, q_tile, span);
    const float* by_key = bias_by_key(p, q_tile, span, at.bias);
    NoPrefetch none;
    pack_left(p, p.query, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.query);
    pack_left(p, p.grad_out, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.grad_out);
    if (in_pairs(p)) {
        pack_right(p, p.query, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.query_right);
        pack_right(p, p.grad_out, q_tile.b, q_tile.h, q_tile.first, q_tile.rows, at.grad_out_right);
    }

    const bool needs_scores = p.needs_query || p.needs_key || p.needs_form;
    float* prob_dropped = p.dropout.on ? at.prob_dropped : at.prob;
    for (long s = 0; s < sliver_keys.slivers; s++) {
        const long first = s * SLIVER_ROWS, rows = sliver_keys.rows(q_tile, s), width = sliver_keys.width(s);
        float *prob = at.prob + first * TILE_ROW, *kept = prob_dropped + first * TILE_ROW, *ds = at.ds + first * TILE_ROW;
        // Bit for bit the scores of the forward, of which the log-sum-exp was made: P sums up to 1.
        Vec row_max_lanes[SLIVER_ROWS];  // not needed here
        score_sliver(
            p, q_tile, span, sliver_keys, s, Left{at.query, inner, 1}, at.key_panels + skipped * inner, at.bias,
            by_key, prob, TILE_ROW, row_max_lanes, none
        );
        for (long i = 0; i < rows; i++) {
            const float row_lse = lse[first + i];
            exponentiate(prob + i * TILE_ROW, width, row_lse == -INF ? INF : row_lse);  // P is 0 where the row sees no key
            if (p.dropout.on) drop(p, q_tile, first + i, span.begin, width, prob + i * TILE_ROW, kept + i * TILE_ROW);
            // dK and dV are summed for six keys at once: those behind the last one that this row computes add 0.
            store(kept + i * TILE_ROW + width, Vec{});
            store(ds + i * TILE_ROW + width, Vec{});
        }
        // dS = P * (dP - delta) with dP = dO V^T
        if (needs_scores)
            multiply_sliver(
                rows, width, inner_of_head(p), Left{at.grad_out + first * inner, inner, 1},
                Right{at.value_panels + skipped * inner, PANEL, inner * PANEL}, in_pairs(p), none,
                [](int, long) { return Vec{}; },
                [=]<int V>(int i, long c, const Vec (&sums)[V]) {
                    for (int v = 0; v < V; v++) {
                        const long x = i * TILE_ROW + c + v * W;
                        store(ds + x, load(kept + x) * sums[v] - load(prob + x) * delta[first + i]);
                    }
                }
            );
    }
    // P itself is dead from here on; of the two tiles of P, the one that dV does not read is memory for pairs.
    float* pairs = prob_dropped == at.prob ? at.prob_dropped : at.prob;
    if (p.needs_value)
        add_transposed_product(
            p, q_tile, span, sliver_keys, prob_dropped, TILE_ROW, pairs, at.grad_out_right, at.grad_value + skipped * Dp,
            fresh
        );
    if (!needs_scores) return;
    if (p.needs_form) add_form_gradient(p, chunk, q_tile, kv_tile, span, sliver_keys, at);
    if (p.needs_key)
        add_transposed_product(
            p, q_tile, span, sliver_keys, at.ds, TILE_ROW, at.prob_dropped, at.query_right, at.grad_key + skipped * Dp,
            fresh
        );
    if (p.needs_query) {
        float* grad_query = p.query_sums + ((chunk * p.B * p.H + head) * p.N + q_tile.first) * Dp;  // (rows, Dp)
        for (long s = 0; s < sliver_keys.slivers; s++) {
            if (sliver_keys.count[s] == 0) continue;
            const long first = s * SLIVER_ROWS, rows = sliver_keys.rows(q_tile, s);
            float* ds = at.ds + first * TILE_ROW;
            if (in_pairs(p))
                for (long i = 0; i < rows; i++) pair_columns(ds + i * TILE_ROW, sliver_keys.width(s));
            add_product(
                rows, Dp, inner_of_rows(p, sliver_keys.count[s]), Left{ds, TILE_ROW, 1},
                Right{at.keys + inner_of_rows(p, skipped) * Dp, Dp, PANEL}, grad_query + first * Dp, Dp, in_pairs(p),
                false, none
            );
        }
    }
}

// dK and dV of the keys begin .. end - 1 become 0.
inline void clear_sums(const Backward& p, long begin, long end, Span kv_tile, const BackwardScratch& at) {
    const long Dp = padded(p), first = (begin - kv_tile.begin) * Dp, count = (end - begin) * Dp;
    std::memset(at.grad_key + first, 0, count * sizeof(float));
    std::memset(at.grad_value + first, 0, count * sizeof(float));
}

inline void backward(const Backward& p, long item, Arena arena) {
    const BackwardScratch at(p, arena);
    const long Dp = padded(p), group = p.group();
    const long chunk = item / (p.B * p.G), b = item / p.G % p.B, g = item % p.G;
    // Scratch memory holds what earlier items left. All of it is written before it is read, but for these zeros of
    // add_diagonals.
    for (long i = 0; i < BACKWARD_Q_TILE && p.needs_form; i++) {
        std::memset(at.ds + i * TILE_ROW - TILE_MARGIN, 0, TILE_MARGIN * sizeof(float));
        std::memset(at.warp_ds + i * TILE_ROW - TILE_MARGIN, 0, TILE_MARGIN * sizeof(float));
    }
    if (p.needs_form) {
        const size_t rows = ZERO_ROWS * TILE_ROW * sizeof(float);
        std::memset(at.ds - ZERO_ROWS * TILE_ROW - TILE_MARGIN, 0, rows);
        std::memset(at.ds + BACKWARD_Q_TILE * TILE_ROW - TILE_MARGIN, 0, rows);
        const long first = (chunk * p.B + b) * p.H + g * group;
        clear_factored_sums(p, first, first + group);
    }
    if (p.needs_query) {
        float* sums = p.query_sums + ((chunk * p.B + b) * p.H + g * group) * p.N * Dp;  // (group, N, Dp)
        for (long x = 0; x < group * p.N * Dp; x++) sums[x] = 0.0f;
    }
    const long kv_tiles = (p.M + BACKWARD_KV_TILE - 1) / BACKWARD_KV_TILE;
    for (long index = kv_tiles * chunk / p.key_chunks; index < kv_tiles * (chunk + 1) / p.key_chunks; index++) {
        if (p.given_up()) return;
        const Span kv_tile{index * BACKWARD_KV_TILE, smaller((index + 1) * BACKWARD_KV_TILE, p.M)};
        const int32_t* labels = labels_from(p, b, kv_tile.begin);
        bool packed = false;
        for (long h = g * group; h < (g + 1) * group; h++) {
            const bool sums_columns = p.needs_form && p.potential.on;
            for (long j = 0; j < BACKWARD_KV_TILE && sums_columns; j++) at.column_sums[j] = 0.0;
            const Factored& by_key = p.factored[KEY];
            const long first_key = (b * p.H + h) * p.M + kv_tile.begin, Rp = padded_states(by_key);
            if (p.needs_form && by_key.on) {
                pack_states(by_key, row_of_float(by_key.states, b, h, kv_tile.begin), kv_tile.count(), at.factored.states[KEY]);
                std::memset(at.factored.key_sums, 0, kv_tile.count() * Rp * sizeof(float));
            }
            for (long n = 0; n < q_tiles(p); n++) {
                const QTile q_tile{b, h, n * BACKWARD_Q_TILE, smaller(BACKWARD_Q_TILE, p.N - n * BACKWARD_Q_TILE)};
                Span span = seen_by_tile(p, q_tile, kv_tile);
                if (span.empty()) continue;
                const long row = (b * p.H + h) * p.N + q_tile.first;
                span = that_matters(p, q_tile, span, p.query_norm + row, p.log_mass + row);
                if (span.empty()) continue;
                if (!packed) {
                    pack_panels(p, p.value, b, g, kv_tile.begin, kv_tile.count(), at.keys, at.value_panels, labels);
                    pack_panels(p, p.key, b, g, kv_tile.begin, kv_tile.count(), at.keys, at.key_panels, labels);
                    pack_right(p, p.key, b, g, kv_tile.begin, kv_tile.count(), at.keys, labels);
                    clear_sums(p, kv_tile.begin, span.begin, kv_tile, at);
                    clear_sums(p, span.end, kv_tile.end, kv_tile, at);
                }
                attend_backward(p, chunk, q_tile, kv_tile, span, at, !packed);
                packed = true;
            }
            for (long j = 0; j < kv_tile.count() && sums_columns; j++)
                p.grad_bias.key_potential[first_key + j] = float(at.column_sums[j]);
            for (long j = 0; j < kv_tile.count() && p.needs_form && by_key.on; j++)
                std::memcpy(
                    p.grad_bias.states[KEY] + (first_key + j) * by_key.R, at.factored.key_sums + j * Rp, by_key.R * sizeof(float)
                );
        }
        if (!packed) clear_sums(p, kv_tile.begin, kv_tile.end, kv_tile, at);
        const long row = (b * p.G + g) * p.M + kv_tile.begin;
        if (p.needs_key) unpack_rows(p, at.grad_key, kv_tile.count(), p.scale, p.grad_key, row, labels);
        if (p.needs_value) unpack_rows(p, at.grad_value, kv_tile.count(), 1.0f, p.grad_value, row, labels);
    }
}

// Adds up the gradients of a head's queries, and of their states, that the parts of the keys gave, in the order of the parts.
inline bool sums_states(const Backward& p) { return p.needs_form && p.factored[QUERY].on; }
inline long finish_items(const Backward& p) { return p.needs_query || sums_states(p) ? p.B * p.H : 0; }
inline size_t finish_bytes(const Backward& p) { return padded(p) * sizeof(float); }
inline void finish_backward(const Backward& p, long head, Arena arena) {
    const long Dp = padded(p);
    float* sums = arena.take<float>(Dp);  // (Dp)
    for (long i = 0; i < p.N && p.needs_query; i++) {
        for (long d = 0; d < Dp; d++) sums[d] = p.query_sums[(head * p.N + i) * Dp + d];
        for (long chunk = 1; chunk < p.key_chunks; chunk++)
            for (long d = 0; d < Dp; d++) sums[d] += p.query_sums[((chunk * p.B * p.H + head) * p.N + i) * Dp + d];
        unpack_rows(p, sums, 1, p.scale, p.grad_query, head * p.N + i);
    }
    const long R = p.factored[QUERY].R, Rp = padded_states(p.factored[QUERY]);
    for (long i = 0; i < p.N && sums_states(p); i++) {
        float* states = p.grad_bias.states[QUERY] + (head * p.N + i) * R;
        for (long r = 0; r < R; r++) states[r] = p.state_sums[(head * p.N + i) * Rp + r];
        for (long chunk = 1; chunk < p.key_chunks; chunk++)
            for (long r = 0; r < R; r++) states[r] += p.state_sums[((chunk * p.B * p.H + head) * p.N + i) * Rp + r];
    }
}

}  // namespace falloff::FALLOFF_ISA
