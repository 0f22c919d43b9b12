// Forward: the q tiles of a chunk visit the kv tiles one by one, from the diagonal outwards.
// kernels.cpp says why tiles have their size.
#pragma once

#include <cstddef>
#include <cstring>

#include "arena.h"
#include "dropout.h"
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

constexpr long Q_TILE = 48, KV_TILE = 256;
static_assert(Q_TILE <= SliverKeys::MOST_SLIVERS * SLIVER_ROWS);
static_assert(Q_TILE % SLIVER_ROWS == 0);
static_assert(Q_TILE == VISIT_Q_TILE && KV_TILE == VISIT_KV_TILE);
static_assert(Q_TILE <= MOST_TILE_ROWS && KV_TILE <= MOST_TILE_KEYS);
static_assert(KV_TILE % PANEL == 0 && KV_TILE <= STRIP_PAD);

// A chunk: q tiles that share packed keys. They follow one another in one head or, where a head has no more than one q tile,
// belong to the heads of one group. Chunks depend on the shape alone, and so does the order of all sums.
struct Chunks {
    bool by_head;
    long all;       // q tiles of a head, or of a group
    long q_tiles;    // in a chunk
    long per_head;  // chunks of a head, or of a group

    explicit Chunks(const Problem& p) {
        by_head = p.N <= Q_TILE && p.group() > 1;
        q_tiles = larger(smaller(512 / p.D, 8), 2);
        all = by_head ? p.group() : (p.N + Q_TILE - 1) / Q_TILE;
        per_head = (all + q_tiles - 1) / q_tiles;
    }
    long heads(const Problem& p) const { return p.B * (by_head ? p.G : p.H); }
    long count(const Problem& p) const { return heads(p) * per_head; }
};

inline long chunks(const Problem& p) { return Chunks(p).count(p); }
inline long chunk_rows(const Problem& p) { return Q_TILE * Chunks(p).q_tiles; }

inline long forward_items(const Forward& p) { return chunks(p) * p.splits; }

// Numbers of A are broadcast one by one: rows of queries may lie anywhere. multiply_in_place reads them in whole vectors.
inline bool queries_in_place(const Problem& p) { return p.type == Type::float32 && !keys_in_place(p); }

struct ForwardScratch {
    float *query, *acc_out;               // (rows of a chunk, Dp); acc_out: O before it is divided by row_sum
    float *row_max, *row_sum, *norm;      // (rows of a chunk); norm: |query| |scale|
    bool* begun;                          // (slivers of a chunk): whether acc_out holds sums
    float* scores;                        // (SLIVER_ROWS, KV_TILE)
    float *key_panels, *values, *rows;    // (KV_TILE, Dp); rows: what pack_panels and query_norms need

    BiasScratch bias;

    ForwardScratch(const Forward& p, Arena& arena) : bias(p, arena) {
        const long Dp = padded(p), rows_of_chunk = chunk_rows(p);
        query = arena.take<float>(queries_in_place(p) ? 0 : rows_of_chunk * Dp);
        acc_out = arena.take<float>(rows_of_chunk * Dp);
        row_max = arena.take<float>(rows_of_chunk);
        row_sum = arena.take<float>(rows_of_chunk);
        norm = arena.take<float>(rows_of_chunk);
        begun = arena.take<bool>(rows_of_chunk / SLIVER_ROWS);
        scores = arena.take<float>(SLIVER_ROWS * KV_TILE);
        key_panels = arena.take<float>(KV_TILE * Dp);
        values = arena.take<float>(KV_TILE * Dp);
        rows = arena.take<float>(KV_TILE * Dp);
    }
};

inline size_t forward_bytes(const Forward& p) {
    Arena counted;
    ForwardScratch(p, counted);
    return counted.bytes();
}

// One tile, sliver by sliver: a sliver's scores stay in the first-level cache from S = Q K^T to O += P V. The q tile's rows
// begin at `chunk_row` of the chunk. Queries and values are read in place, from the caller's tensor, or packed.
inline void attend(
    const Forward& p, const QTile& q_tile, Span kv_tile, Span span, const ForwardScratch& at, long chunk_row,
    bool values_in_place, Prefetch& prefetch
) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - kv_tile.begin;
    const SliverKeys sliver_keys(p, q_tile, span);
    const Right values = values_in_place
        ? Right{row_of_float(p.value, q_tile.b, q_tile.h / p.group(), span.begin), p.value.row, PANEL}
        : Right{at.values + inner_of_rows(p, skipped) * Dp, Dp, PANEL};
    const Left query = queries_in_place(p) ? Left{row_of_float(p.query, q_tile.b, q_tile.h, q_tile.first), p.query.row, 1}
                                           : Left{at.query + chunk_row * inner, inner, 1};
    const float* by_key = bias_by_key(p, q_tile, span, at.bias);
    for (long s = 0; s < sliver_keys.slivers; s++) {
        const long first = s * SLIVER_ROWS, rows = sliver_keys.rows(q_tile, s), width = sliver_keys.width(s);
        if (width == 0) continue;
        Vec row_max_lanes[SLIVER_ROWS];
        float *scores = at.scores, *out = at.acc_out + (chunk_row + first) * Dp;
        bool& begun = at.begun[(chunk_row + first) / SLIVER_ROWS];
        score_sliver(
            p, q_tile, span, sliver_keys, s, query, at.key_panels + skipped * inner, at.bias, by_key,
            scores, KV_TILE, row_max_lanes, prefetch
        );
        float *row_max = at.row_max + chunk_row + first, *row_sum = at.row_sum + chunk_row + first;
        softmax_sliver(rows, width, row_max_lanes, scores, KV_TILE, row_max, row_sum, begun ? out : nullptr, Dp);
        if (p.dropout.on)
            for (long i = 0; i < rows; i++)
                drop(p, q_tile, first + i, span.begin, width, scores + i * KV_TILE, scores + i * KV_TILE);
        if (in_pairs(p))
            for (long i = 0; i < rows; i++) pair_columns(scores + i * KV_TILE, width);
        add_product(
            rows, Dp, inner_of_rows(p, sliver_keys.count[s]), Left{scores, KV_TILE, 1}, values, out, Dp, in_pairs(p),
            !begun, prefetch
        );
        begun = true;
    }
}

// Writes output and log-sum-exp of row i of a head, from O before it is divided (Dp).
inline void write_row(const Forward& p, long head, long i, const float* acc_out, float row_max, float row_sum) {
    const bool nothing = row_sum == 0.0f;  // the row sees no key: zeros, and a log-sum-exp of -inf
    p.lse[head * p.N + i] = nothing ? -INF : row_max + __builtin_logf(row_sum);
    const long row_start = head / p.H * p.out.batch + head % p.H * p.out.head + i * p.out.row;
    unpack_row(p, acc_out, nothing ? 1.0f : 1.0f / row_sum, p.out.data, row_start);
}

// Writes the output and the log-sum-exp of a q tile, or what merge makes them of.
inline void finish_tile(const Forward& p, const QTile& q_tile, long split, const ForwardScratch& at, long chunk_row) {
    const long Dp = padded(p), head = q_tile.b * p.H + q_tile.h;
    for (long i = 0; i < q_tile.rows; i++) {
        if (!at.begun[(chunk_row + i) / SLIVER_ROWS]) std::memset(at.acc_out + (chunk_row + i) * Dp, 0, Dp * sizeof(float));
        const float* acc_out = at.acc_out + (chunk_row + i) * Dp;
        const float row_max = at.row_max[chunk_row + i], row_sum = at.row_sum[chunk_row + i];
        if (p.splits > 1) {
            float* partial = p.partial + ((head * p.splits + split) * p.N + q_tile.first + i) * (Dp + 2);
            for (long d = 0; d < Dp; d++) partial[d] = acc_out[d];
            partial[Dp] = row_max;
            partial[Dp + 1] = row_sum;
        } else {
            write_row(p, head, q_tile.first + i, acc_out, row_max, row_sum);
        }
    }
}

// An item of the forward: the q tiles of a chunk, and the kv tiles of a split in the order in which they are visited.
struct ForwardItem {
    Chunks chunks;
    long split, chunk, b, h, g, q_tiles;  // h: where the q tiles are of one head
    Span part;                            // the split, in kv tiles: the only span that is not one of keys
    long nearest;                         // the kv tile on the diagonal; without `causal`, at the position of the middle row

    ForwardItem(const Forward& p, long item) : chunks(p) {
        const long head = item / p.splits % chunks.heads(p);
        split = item % p.splits;
        chunk = chunks.per_head - 1 - item / p.splits / chunks.heads(p);  // causal: the longest rows first
        b = chunks.by_head ? head / p.G : head / p.H, h = chunks.by_head ? 0 : head % p.H;
        g = chunks.by_head ? head % p.G : h / p.group();
        q_tiles = smaller(chunks.q_tiles, chunks.all - chunk * chunks.q_tiles);
        const long kv_tiles = (p.M + KV_TILE - 1) / KV_TILE;
        part = {kv_tiles * split / p.splits, kv_tiles * (split + 1) / p.splits};
        const QTile first = q_tile(p, 0), last = q_tile(p, q_tiles - 1);
        const long middle = position(p, p.causal ? last.first + last.rows - 1 : (first.first + last.first + last.rows) / 2);
        nearest = smaller(larger(middle / KV_TILE, part.begin), part.end - 1);
    }
    QTile q_tile(const Problem& p, long n) const {
        const long index = chunk * chunks.q_tiles + n;
        if (chunks.by_head) return {b, g * p.group() + index, 0, p.N};
        return {b, h, index * Q_TILE, smaller(Q_TILE, p.N - index * Q_TILE)};
    }
    // From the nearest kv tile back to the first, then on from the nearest to the last.
    Span kv_tile(const Problem& p, long n) const {
        const long index = n <= nearest - part.begin ? nearest - n : part.begin + n;
        return {index * KV_TILE, smaller((index + 1) * KV_TILE, p.M)};
    }
};

// While the n-th kv tile of an item is attended to, asks for what is read next: the next kv tile or, at the last one, what this
// thread's next item begins with, and for the memory of the output.
inline void look_ahead(const Forward& p, const ForwardItem& now, long item, long n, Prefetch& prefetch) {
    prefetch.clear();
    if (keys_in_place(p)) return;  // which is as fast as memory is read
    auto add_keys = [&](const ForwardItem& of, Span kv_tile) {
        prefetch.add(p, p.key, of.b, of.g, kv_tile.begin, kv_tile.count());
        prefetch.add(p, p.value, of.b, of.g, kv_tile.begin, kv_tile.count());
    };
    auto add_queries = [&](const Rows& t, const ForwardItem& of) {
        const QTile first = of.q_tile(p, 0), last = of.q_tile(p, of.q_tiles - 1);
        if (!of.chunks.by_head) prefetch.add(p, t, of.b, of.h, first.first, last.first + last.rows - first.first);
    };
    const long next = item + p.threads * p.splits;  // each thread takes about every so many-th item
    if (n + 1 < now.part.count()) {
        add_keys(now, now.kv_tile(p, n + 1));
    } else {
        add_queries({p.out.data, p.out.batch, p.out.head, p.out.row}, now);
        if (next < forward_items(p)) {
            const ForwardItem then(p, next);
            add_queries(p.query, then);
            add_keys(then, then.kv_tile(p, 0));
        }
    }
    const long rows = now.q_tiles * smaller(p.N, Q_TILE), blocks = (now.kv_tile(p, n).count() + padded(p)) / PANEL;
    // On a diagonal, half of the tile is computed. An eighth less than all steps, so that nothing is left when they end.
    prefetch.spread(rows * blocks * 7 / (p.causal && n == 0 ? 16 : 8));
}

inline void forward(const Forward& p, long item, Arena arena) {
    const ForwardScratch scratch(p, arena);
    const ForwardItem now(p, item);
    for (long n = 0; n < now.q_tiles; n++) {
        const QTile q_tile = now.q_tile(p, n);
        if (!queries_in_place(p))
            pack_left(p, p.query, now.b, q_tile.h, q_tile.first, q_tile.rows, scratch.query + n * Q_TILE * padded_inner(p));
        if (p.key_norm) query_norms(p, q_tile, scratch.rows, scratch.norm + n * Q_TILE);
        for (long i = 0; i < q_tile.rows; i++) {
            scratch.row_max[n * Q_TILE + i] = -INF;
            scratch.row_sum[n * Q_TILE + i] = 0.0f;
        }
    }
    for (long s = 0; s < now.q_tiles * (Q_TILE / SLIVER_ROWS); s++) scratch.begun[s] = false;

    Prefetch prefetch;
    for (long visit = 0; visit < now.part.count() && !p.given_up(); visit++) {
        const Span kv_tile = now.kv_tile(p, visit);
        look_ahead(p, now, item, visit, prefetch);
        // Values need no packing where they lie in memory as packed ones would.
        const bool values_in_place = p.type == Type::float32 && p.D % W == 0 && (keys_in_place(p) || p.value.row == p.D) &&
                                     !hides_some(p, now.b, kv_tile);
        bool packed = keys_in_place(p) && values_in_place;
        for (long n = 0; n < now.q_tiles; n++) {
            const QTile q_tile = now.q_tile(p, n);
            Span span = seen_by_tile(p, q_tile, kv_tile);
            if (span.empty()) continue;
            span = that_matters(p, q_tile, span, scratch.norm + n * Q_TILE, scratch.row_max + n * Q_TILE);
            if (span.empty()) continue;
            if (!packed) {
                const long first = kv_tile.begin, count = kv_tile.count();
                if (!keys_in_place(p)) pack_panels(p, p.key, now.b, now.g, first, count, scratch.rows, scratch.key_panels);
                const int32_t* labels = labels_from(p, now.b, first);
                if (!values_in_place) pack_right(p, p.value, now.b, now.g, first, count, scratch.values, labels);
                packed = true;
            }
            attend(p, q_tile, kv_tile, span, scratch, n * Q_TILE, values_in_place, prefetch);
        }
    }
    for (long n = 0; n < now.q_tiles; n++) finish_tile(p, now.q_tile(p, n), now.split, scratch, n * Q_TILE);
}

// Merges the splits of one head's rows, as FlashDecoding does.
inline long merge_items(const Forward& p) { return p.splits > 1 ? p.B * p.H : 0; }
inline size_t merge_bytes(const Forward& p) { return padded(p) * sizeof(float); }
inline void merge(const Forward& p, long head, Arena arena) {
    const long Dp = padded(p);
    float* acc_out = arena.take<float>(Dp);  // (Dp)
    for (long i = 0; i < p.N; i++) {
        auto part = [&](long split) { return p.partial + ((head * p.splits + split) * p.N + i) * (Dp + 2); };
        float row_max = -INF, row_sum = 0.0f;
        for (long split = 0; split < p.splits; split++) row_max = larger(part(split)[Dp], row_max);
        for (long d = 0; d < Dp; d++) acc_out[d] = 0.0f;
        for (long split = 0; split < p.splits; split++) {
            const float weight = exp(part(split)[Dp] - (row_max == -INF ? 0.0f : row_max));
            row_sum += part(split)[Dp + 1] * weight;
            for (long d = 0; d < Dp; d++) acc_out[d] += part(split)[d] * weight;
        }
        write_row(p, head, i, acc_out, row_max, row_sum);
    }
}

}  // namespace falloff::FALLOFF_ISA
