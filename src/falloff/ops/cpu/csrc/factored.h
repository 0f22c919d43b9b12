// The bias of states and a table by offset, states . table[offset - start], and its gradients: small products, tile by tile.
//
// From one row to the next the offset rises by one, and from one key to the next it falls by one. So the rows of a sliver are
// multiplied with the same run of the table, by falling offset, and their biases lie one number apart from row to row: a view,
// as of a strip. For the states of keys it is the other way round: the same run serves some keys, and what comes out are the
// columns of a tile.
#pragma once

#include <cstring>

#include "arena.h"
#include "bias.h"
#include "mask.h"
#include "pack.h"
#include "prefetch.h"
#include "problem.h"
#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

constexpr long MOST_TILE_ROWS = 48, MOST_TILE_KEYS = 256;  // of a tile of scores
constexpr long EDGE = (SLIVER_ROWS - 1 + W - 1) / W * W;   // offsets that only some rows of a sliver meet, in whole vectors
constexpr long PRODUCT_ROW = MOST_TILE_KEYS + EDGE + W, KEY_PRODUCT_ROW = MOST_TILE_ROWS + 2 * W;
static_assert(2 * (MOST_TILE_ROWS + MOST_TILE_KEYS / 2 + W) < STRIP_PAD);

inline long padded_states(const Factored& f) { return round_up(f.R, W); }  // Rp: R in whole vectors
inline long table_at(const Factored& f, long h) { return f.tables > 1 ? h : 0; }

// Whether the bias is 0 for all `rows` rows and `width` keys, of which the first two are `top` apart, from the table's start.
inline bool outside(const Factored& f, long top, long rows, long width) {
    return !f.clamp && (top + rows - 1 < 0 || top - (width - 1) >= f.K);
}

// Whether they all have the bias of one end of the table, where ends are clamped.
inline bool beyond(const Factored& f, long top, long rows, long width) {
    return f.clamp && (top + rows - 1 <= 0 || top - (width - 1) >= f.K - 1);
}

// Where the highest offset of such rows and keys lies in the table by falling offset: that of the last row and the first key.
// Far beyond either end all places are alike.
inline long place_of(const Factored& f, long top, long rows) {
    return smaller(larger(STRIP_PAD + f.K - 1 - top - (rows - 1), 0), STRIP_PAD + f.K);
}

inline Vec load_part(const float* from, long count) {  // zeros beyond `count`
    if (count >= W) return load(from);
    float part[W] = {};
    for (long x = 0; x < count; x++) part[x] = from[x];
    return load(part);
}

// Of offset number x of a table by falling offset: the numbers from r on.
inline Vec table_part(const Factored& f, const float* table, long x, long r) {
    const long k = f.K - 1 - (x - STRIP_PAD), nearest = smaller(larger(k, 0), f.K - 1);
    return k == nearest || f.clamp ? load_part(table + nearest * f.R + r, f.R - r) : Vec{};
}

// How many offsets later a lowered table begins, so that the products of whole q tiles begin at whole vectors.
inline long table_shift(const Problem& p, const Factored& f) { return (position(p, 0) - f.start - f.K) & 15; }

// Lowers the tables: by falling offset, (tables, table_offsets / 16, R, 16).
constexpr long TABLE_BLOCK = 512;  // offsets of an item
constexpr long BLOCK = RightBlocks::BLOCK;

inline long table_blocks(const Factored& f) { return (table_offsets(f) + TABLE_BLOCK - 1) / TABLE_BLOCK; }
inline long table_items(const Problem& p) {
    long items = 0;
    for (const Factored& f : p.factored) items += f.on ? f.tables * table_blocks(f) : 0;
    return items;
}
inline size_t table_bytes(const Problem&) { return 0; }
inline void lower_table(const Problem& p, long item, Arena) {
    const Factored& first = p.factored[QUERY];
    const long of_first = first.on ? first.tables * table_blocks(first) : 0;
    const Side side = item < of_first ? QUERY : KEY;
    const Factored& f = p.factored[side];
    if (side == KEY) item -= of_first;
    const long number = item / table_blocks(f), begin = item % table_blocks(f) * TABLE_BLOCK, shift = table_shift(p, f);
    const float* table = f.table + number * f.K * f.R;
    float* to = p.falling_table[side] + number * f.R * table_offsets(f);
    for (long x = begin; x < smaller(begin + TABLE_BLOCK, table_offsets(f)); x += W)
        for (long r = 0; r < f.R; r += W) {
            Vec block[W];
            FALLOFF_UNROLL
            for (int i = 0; i < W; i++) block[i] = table_part(f, table, x + i - shift, r);
            transpose(block);
            for (int i = 0; i < smaller(f.R - r, W); i++)
                store(to + x / BLOCK * BLOCK * f.R + (r + i) * BLOCK + x % BLOCK, block[i]);
        }
}

// What some rows and keys meet of a lowered table, from a whole vector of offsets on.
struct TableRun {
    RightBlocks columns;
    long before;  // offsets that come before the highest of these rows and keys
};

// For `rows` rows and their keys, of which the first two are `top` apart.
inline TableRun table_run(const Problem& p, Side side, long h, long top, long rows) {
    const Factored& f = p.factored[side];
    const float* table = p.falling_table[side] + table_at(f, h) * f.R * table_offsets(f);
    const long place = place_of(f, top, rows) + table_shift(p, f);
    return {{table + place / BLOCK * BLOCK * f.R, f.R * BLOCK, place % BLOCK / W * W}, place % W};
}

// For rows and keys that all lie beyond one end: its numbers fill the first vector.
inline RightBlocks end_of_table(const Problem& p, Side side, long h, long top) {
    const Factored& f = p.factored[side];
    const long all = table_offsets(f), low = top < f.K - 1;  // at the end of the lowest offset, which comes last
    return {p.falling_table[side] + (table_at(f, h) * all + (low ? all - BLOCK : 0)) * f.R, f.R * BLOCK, 0};
}

struct BiasScratch {
    float* products = nullptr;      // (SLIVER_ROWS, PRODUCT_ROW)
    float* key_products = nullptr;  // (W, KEY_PRODUCT_ROW)
    float* by_key = nullptr;        // (MOST_TILE_ROWS, MOST_TILE_KEYS)

    BiasScratch(const Problem& p, Arena& arena) {
        products = arena.take<float>(p.factored[QUERY].on ? SLIVER_ROWS * PRODUCT_ROW : 0);
        key_products = arena.take<float>(p.factored[KEY].on ? W * KEY_PRODUCT_ROW : 0);
        by_key = arena.take<float>(p.factored[KEY].on ? MOST_TILE_ROWS * MOST_TILE_KEYS : 0);
    }
};

// C = A B + start, where the sums of all rows begin at the same numbers.
template <class Start>
inline void multiply_states(
    const Factored& f, long rows, long columns, const float* states, RightBlocks table, float* c, long c_row, Start start
) {
    NoPrefetch none;
    multiply_sliver(
        rows, columns, f.R, Left{states, f.states.row, 1}, table, false, none, start,
        [=]<int V>(int i, long j, const Vec (&sums)[V]) {
            for (int v = 0; v < V; v++) store(c + i * c_row + j + v * W, sums[v]);
        }
    );
}

// The strip and the bias of the rows' states, for rows as strip_tile takes them. The sums begin at the strip's values.
inline BiasTile bias_tile(
    const Problem& p, const QTile& q_tile, long i, long rows, long key, long width, const BiasScratch& scratch
) {
    const BiasTile strip = strip_tile(p, q_tile, i, rows, key, width);
    const Factored& f = p.factored[QUERY];
    const long top = position(p, q_tile.first + i) - key - f.start;
    if (!f.on || outside(f, top, rows, width)) return strip;
    const float* states = row_of_float(f.states, q_tile.b, q_tile.h, q_tile.first + i);
    const float* begin = strip.data + (rows - 1) * strip.row;  // of the last row and the first key
    if (strip.row == 0 && beyond(f, top, rows, width)) {  // constant in each row
        multiply_states(
            f, rows, W, states, end_of_table(p, QUERY, q_tile.h, top), scratch.products, PRODUCT_ROW,
            [=](int, long) { return load(begin); }
        );
        for (long x = 0; x < rows; x++) {
            const Vec bias = load(scratch.products + x * PRODUCT_ROW);
            for (long c = W; c < width; c += W) store(scratch.products + x * PRODUCT_ROW + c, bias);
        }
        return {scratch.products, PRODUCT_ROW};
    }
    const TableRun run = table_run(p, QUERY, q_tile.h, top, rows);
    const float* first = strip.row == 0 ? begin : begin - run.before;
    multiply_states(
        f, rows, round_up(run.before + width + rows - 1, W), states, run.columns, scratch.products, PRODUCT_ROW,
        [=](int, long c) { return load(first + c); }
    );
    return {scratch.products + run.before + rows - 1, PRODUCT_ROW - 1};
}

// The bias of the keys' states for a q tile and a span: (rows, width) of (.., MOST_TILE_KEYS), or null where it is 0. The sums
// of a score are made in the same order whatever the tile is, so that the backward finds the scores of the forward.
inline const float* bias_by_key(const Problem& p, const QTile& q_tile, Span span, const BiasScratch& scratch) {
    const Factored& f = p.factored[KEY];
    const long count = span.count(), top = position(p, q_tile.first) - span.begin - f.start;
    if (!f.on || outside(f, top, q_tile.rows, count)) return nullptr;
    const long rows = q_tile.rows;
    const float* states = row_of_float(f.states, q_tile.b, q_tile.h, span.begin);
    for (long j = 0; j < count; j += W) {  // W keys at a time
        if (outside(f, top - j, rows, W)) {
            for (long i = 0; i < rows; i++) store(scratch.by_key + i * MOST_TILE_KEYS + j, Vec{});
            continue;
        }
        auto multiply = [&](long columns, RightBlocks table) {
            for (long first = 0; first < smaller(W, count - j); first += SLIVER_ROWS)
                multiply_states(
                    f, smaller(smaller(W, count - j) - first, SLIVER_ROWS), columns, states + (j + first) * f.states.row, table,
                    scratch.key_products + first * KEY_PRODUCT_ROW, KEY_PRODUCT_ROW, [](int, long) { return Vec{}; }
                );
        };
        if (beyond(f, top - j, rows, W)) {  // constant in each column
            multiply(W, end_of_table(p, KEY, q_tile.h, top - j));
            Vec block[W];
            FALLOFF_UNROLL
            for (int key = 0; key < W; key++) block[key] = load(scratch.key_products + key * KEY_PRODUCT_ROW);
            transpose(block);
            for (long i = 0; i < rows; i++) store(scratch.by_key + i * MOST_TILE_KEYS + j, block[0]);
            continue;
        }
        const TableRun run = table_run(p, KEY, q_tile.h, top - j, rows);
        multiply(round_up(run.before + rows + W - 1, W), run.columns);
        for (long from_last = 0; from_last < rows; from_last += W) {  // rows of the tile, the last one first
            Vec block[W];
            FALLOFF_UNROLL
            for (int key = 0; key < W; key++)
                block[key] = load(scratch.key_products + key * (KEY_PRODUCT_ROW + 1) + run.before + from_last);
            transpose(block);
            for (int x = 0; x < smaller(W, rows - from_last); x++)
                store(scratch.by_key + (rows - 1 - from_last - x) * MOST_TILE_KEYS + j, block[x]);
        }
    }
    return scratch.by_key;
}

// `count` states (R) as rows of Rp numbers.
inline void pack_states(const Factored& f, const float* states, long count, float* to) {
    for (long i = 0; i < count; i++)
        for (long r = 0; r < f.R; r += W) store(to + i * padded_states(f) + r, load_part(states + i * f.states.row + r, f.R - r));
}

// What the gradients need beside the tile of dS.
struct FactoredScratch {
    float *states[SIDES] = {}, *key_sums = nullptr;  // (rows or keys of a tile, Rp); key_sums: for the states of keys
    float* by_offset = nullptr;                      // (rows + keys of a tile, Rp): for the table

    FactoredScratch(const Backward& p, long rows, long keys, Arena& arena) {
        if (!p.needs_form) return;
        const Factored &query = p.factored[QUERY], &key = p.factored[KEY];
        states[QUERY] = arena.take<float>(query.on ? rows * padded_states(query) : 0);
        states[KEY] = arena.take<float>(key.on ? keys * padded_states(key) : 0);
        key_sums = arena.take<float>(key.on ? keys * padded_states(key) : 0);
        const long most = larger(query.on ? padded_states(query) : 0, key.on ? padded_states(key) : 0);
        by_offset = arena.take<float>((rows + keys) * most);
    }
};

// The tables by falling offset as rows, (tables, K + 2 STRIP_PAD, Rp), for the gradients of the states.
inline void write_table_rows(const Backward& p, Side side, long number) {
    const Factored& f = p.factored[side];
    const long count = f.K + 2 * STRIP_PAD;
    for (long x = 0; x < count; x++)
        for (long r = 0; r < f.R; r += W)
            store(
                p.table_rows[side] + (number * count + x) * padded_states(f) + r,
                table_part(f, f.table + number * f.K * f.R, x, r)
            );
}

// A tile of dS (rows, count) of (.., row). Zeros stand before and behind each row, and in SLIVER_ROWS - 1 rows above and below.
struct ScoreGradients {
    const float* data;
    long row, rows, count;
};

// Adds to the gradient of a table what a tile gives: dS, shifted, times `states`. `shifted(y, n, first)`: rows y .. y + n - 1 of
// dS by falling offset, (n, ..), from their `first` number on; `begin(y, n)` and `end(y, n)`: where these are not 0.
template <class Begin, class End, class Shifted>
inline void add_table_gradient(
    const Backward& p, Side side, long head, long top, const ScoreGradients& ds, const float* states, float* by_offset,
    Begin begin, End end, Shifted shifted
) {
    const Factored& f = p.factored[side];
    const long Rp = padded_states(f), offsets = ds.rows + ds.count - 1;
    NoPrefetch none;
    for (long y = 0; y < offsets; y += SLIVER_ROWS) {
        const long n = smaller(SLIVER_ROWS, offsets - y), first = begin(y, n);
        add_product(
            n, Rp, end(y, n) - first, shifted(y, first), Right{states + first * Rp, Rp, PANEL}, by_offset + y * Rp, Rp, false,
            true, none
        );
    }
    float* sums = p.table_sums[side] + head * f.K * Rp;
    double* ends = p.end_sums[side] + head * 2 * Rp;
    for (long y = 0; y < offsets; y++) {
        const long k = top + ds.rows - 1 - y;
        const float* here = by_offset + y * Rp;
        if (k >= 0 && k < f.K)
            for (long r = 0; r < Rp; r += W) store(sums + k * Rp + r, load(sums + k * Rp + r) + load(here + r));
        else if (f.clamp)  // an end may gather nearly all scores of a call, of both signs
            for (long r = 0; r < f.R; r++) ends[(k < 0 ? 0 : Rp) + r] += here[r];
    }
}

// Where all of a tile has the bias of one end of the table: `sums` of its rows or columns times that end are what it adds to the
// gradients of their states, and times the states to that of the end.
inline void add_end_gradient(
    const Backward& p, Side side, long head, long h, long top, long count, const float* sums, const float* states,
    float* state_sums
) {
    const Factored& f = p.factored[side];
    const long Rp = padded_states(f), table_rows = f.K + 2 * STRIP_PAD;
    const bool low = top < f.K - 1;  // at the end of the lowest offset, which comes last by falling offset
    const float* end = p.table_rows[side] + (table_at(f, h) * table_rows + (low ? table_rows - 1 : 0)) * Rp;
    double* ends = p.end_sums[side] + head * 2 * Rp + (low ? 0 : Rp);
    for (long r = 0; r < f.R; r += W) {
        const Vec of_end = load(end + r);
        Vec total{};
        for (long i = 0; i < count; i++) {
            store(state_sums + i * Rp + r, load(state_sums + i * Rp + r) + of_end * sums[i]);
            total += load(states + i * Rp + r) * sums[i];
        }
        for (int lane = 0; lane < smaller(W, f.R - r); lane++) ends[r + lane] += total[lane];
    }
}

// Adds what a tile of dS gives to the gradients of the rows' states and of their table.
inline void add_query_gradient(
    const Backward& p, long chunk, const QTile& q_tile, Span span, const SliverKeys& sliver_keys, const ScoreGradients& ds,
    const FactoredScratch& at
) {
    const Factored& f = p.factored[QUERY];
    const long top = position(p, q_tile.first) - span.begin - f.start, rows = ds.rows, Rp = padded_states(f);
    if (outside(f, top, rows, ds.count)) return;
    const long head = (chunk * p.B + q_tile.b) * p.H + q_tile.h;
    const float* table = p.table_rows[QUERY] + table_at(f, q_tile.h) * (f.K + 2 * STRIP_PAD) * Rp;
    float* sums = p.state_sums + (head * p.N + q_tile.first) * Rp;
    pack_states(f, row_of_float(f.states, q_tile.b, q_tile.h, q_tile.first), rows, at.states[QUERY]);
    if (beyond(f, top, rows, ds.count)) {
        float of_rows[MOST_TILE_ROWS];
        for (long i = 0; i < rows; i++) {
            Vec total{};
            for (long c = 0; c < ds.count; c += W) total += load(ds.data + i * ds.row + c);
            of_rows[i] = sum(total);
        }
        return add_end_gradient(p, QUERY, head, q_tile.h, top, rows, of_rows, at.states[QUERY], sums);
    }
    NoPrefetch none;
    for (long s = 0; s < sliver_keys.slivers; s++) {
        const long first = s * SLIVER_ROWS, n = sliver_keys.rows(q_tile, s), width = sliver_keys.count[s];
        if (width == 0 || outside(f, top + first, n, width)) continue;
        add_product(
            n, Rp, width + n - 1, Left{ds.data + first * ds.row - (n - 1), ds.row + 1, 1},
            Right{table + place_of(f, top + first, n) * Rp, Rp, PANEL}, sums + first * Rp, Rp, false, false, none
        );
    }
    add_table_gradient(
        p, QUERY, head, top, ds, at.states[QUERY], at.by_offset, [=](long y, long n) { return larger(rows - y - n, 0); },
        [=](long y, long) { return smaller(rows, ds.count + rows - 1 - y); },
        [=](long y, long i) { return Left{ds.data + y - (rows - 1) + i * (ds.row + 1), 1, ds.row + 1}; }
    );
}

// The same of keys, whose states and sums of a kv tile lie at `at`; the span begins `skipped` keys behind it.
inline void add_key_gradient(
    const Backward& p, long chunk, const QTile& q_tile, Span span, long skipped, const ScoreGradients& ds,
    const FactoredScratch& at
) {
    const Factored& f = p.factored[KEY];
    const long top = position(p, q_tile.first) - span.begin - f.start, rows = ds.rows, Rp = padded_states(f);
    if (outside(f, top, rows, ds.count)) return;
    const long head = (chunk * p.B + q_tile.b) * p.H + q_tile.h;
    const float* table = p.table_rows[KEY] + table_at(f, q_tile.h) * (f.K + 2 * STRIP_PAD) * Rp;
    if (beyond(f, top, rows, ds.count)) {
        float of_keys[MOST_TILE_KEYS];
        for (long c = 0; c < ds.count; c += W) {
            Vec total{};
            for (long i = 0; i < rows; i++) total += load(ds.data + i * ds.row + c);
            store(of_keys + c, total);
        }
        const float* states = at.states[KEY] + skipped * Rp;
        return add_end_gradient(p, KEY, head, q_tile.h, top, ds.count, of_keys, states, at.key_sums + skipped * Rp);
    }
    NoPrefetch none;
    for (long j = 0; j < ds.count; j += SLIVER_ROWS) {
        const long n = smaller(SLIVER_ROWS, ds.count - j);
        if (outside(f, top - j, rows, n)) continue;
        add_product(
            n, Rp, rows + n - 1, Left{ds.data + (rows - 1) * ds.row + j, ds.row + 1, -ds.row},
            Right{table + place_of(f, top - j, rows) * Rp, Rp, PANEL}, at.key_sums + (skipped + j) * Rp, Rp, false, false, none
        );
    }
    add_table_gradient(
        p, KEY, head, top, ds, at.states[KEY] + skipped * Rp, at.by_offset,
        [=](long y, long) { return larger(y - (rows - 1), 0); }, [=](long y, long n) { return smaller(ds.count, y + n); },
        [=](long y, long j) { return Left{ds.data + (rows - 1 - y) * ds.row + j * (ds.row + 1), -ds.row, ds.row + 1}; }
    );
}

// The sums that an item adds to: of the heads begin .. end - 1 of a chunk of keys, all zero.
inline void clear_factored_sums(const Backward& p, long begin, long end) {
    for (const Side side : {QUERY, KEY}) {
        const Factored& f = p.factored[side];
        if (!f.on) continue;
        const long of_table = f.K * padded_states(f), of_ends = f.clamp ? 2 * padded_states(f) : 0;
        std::memset(p.table_sums[side] + begin * of_table, 0, (end - begin) * of_table * sizeof(float));
        if (of_ends) std::memset(p.end_sums[side] + begin * of_ends, 0, (end - begin) * of_ends * sizeof(double));
    }
    const Factored& f = p.factored[QUERY];
    const long of_head = p.N * padded_states(f);
    if (f.on) std::memset(p.state_sums + begin * of_head, 0, (end - begin) * of_head * sizeof(float));
}

}  // namespace falloff::FALLOFF_ISA
