// Forward: a chunk of query rows visits the keys tile by tile, from the diagonal outwards.
// A tile is ROWS x KEYS scores; kernels.cpp says why of that size.
#pragma once

#include <cstddef>

#include "bias.h"
#include "pack.h"
#include "problem.h"
#include "simd.h"
#include "skip.h"
#include "softmax.h"
#include "tile.h"

namespace falloff::FALLOFF_ISA {

constexpr long ROWS = 48, KEYS = 256;
static_assert(ROWS <= Steps::MOST * BLOCK_ROWS);
static_assert(KEYS % PANEL == 0 && KEYS <= STRIP_PAD);

// Blocks of rows that share the packed keys: rows of one head that follow one another or, where a head has no more than a
// block of rows, heads that share a key head. Depends on the shape alone: so does the order of all sums.
struct Chunks {
    bool by_head;
    long all;       // blocks of a head, or of a key head
    long blocks;    // in a chunk
    long per_head;  // chunks of a head, or of a key head

    explicit Chunks(const Problem& p) {
        by_head = p.N <= ROWS && p.fold() > 1;
        blocks = larger(smaller(512 / p.D, 8), 2);
        all = by_head ? p.fold() : (p.N + ROWS - 1) / ROWS;
        per_head = (all + blocks - 1) / blocks;
    }
    long heads(const Problem& p) const { return p.B * (by_head ? p.G : p.H); }
    long count(const Problem& p) const { return heads(p) * per_head; }
};

inline long chunks(const Problem& p) { return Chunks(p).count(p); }
inline long chunk_rows(const Problem& p) { return ROWS * Chunks(p).blocks; }

inline long forward_items(const Problem& p) { return chunks(p) * p.splits; }

struct ForwardScratch {
    float *query, *sums, *maximum, *total, *norm, *scores, *keys, *values, *rows;

    static size_t floats(const Problem& p) {
        const long Dp = padded(p), n = chunk_rows(p);
        return 2 * n * Dp + 3 * n + BLOCK_ROWS * KEYS + 3 * KEYS * Dp + 16 * 9;
    }
    ForwardScratch(const Problem& p, float* scratch) {
        const long Dp = padded(p), n = chunk_rows(p);
        auto take = [&](long count) {
            float* part = scratch;
            scratch += round_up(count, 16);
            return part;
        };
        query = take(n * Dp);
        sums = take(n * Dp);
        maximum = take(n);
        total = take(n);
        norm = take(n);
        scores = take(BLOCK_ROWS * KEYS);
        keys = take(KEYS * Dp);
        values = take(KEYS * Dp);
        rows = take(KEYS * Dp);
    }
};

inline size_t forward_floats(const Problem& p) { return ForwardScratch::floats(p); }

// One tile, strip by strip, so that a strip's scores stay in the first-level cache from S = Q K^T to O += P V.
inline void attend(
    const Problem& p, const Block& block, Span tile, Span span, const ForwardScratch& at, long local, bool in_place
) {
    const long Dp = padded(p), inner = padded_inner(p), skipped = span.begin - tile.begin;
    const Steps steps(p, block, span);
    const Right values = in_place
        ? Right{row_of_float(p.value, block.b, block.h / p.fold(), span.begin), p.value.row, PANEL}
        : Right{at.values + along(p, skipped) * Dp, Dp, PANEL};
    for (long s = 0; s < steps.strips; s++) {
        const long first = s * BLOCK_ROWS, rows = steps.rows(block, s), width = steps.width(s);
        if (width == 0) continue;
        Vec most[BLOCK_ROWS];
        float *scores = at.scores, *out = at.sums + (local + first) * Dp;
        score_strip(
            p, block, span, steps, s, at.query + local * inner, at.keys + skipped * inner, scores, KEYS, most
        );
        softmax_strip(rows, width, most, scores, KEYS, at.maximum + local + first, at.total + local + first, out, Dp);
        if (p.dropout.on)
            for (long i = 0; i < rows; i++)
                drop(p, block, first + i, span.begin, width, scores + i * KEYS, scores + i * KEYS);
        if (in_pairs(p))
            for (long i = 0; i < rows; i++) pair_columns(scores + i * KEYS, width);
        add_product(
            rows, Dp, along(p, steps.count[s]), Left{scores, KEYS, 1}, values, out, Dp, in_pairs(p)
        );
    }
}

// What a block of rows gives: its share of a split, or the output.
inline void finish_block(const Problem& p, const Block& block, long split, const ForwardScratch& at, long local) {
    const long Dp = padded(p), head = block.b * p.H + block.h;
    for (long i = 0; i < block.rows; i++) {
        const float *sums = at.sums + (local + i) * Dp, maximum = at.maximum[local + i], total = at.total[local + i];
        const long row = head * p.N + block.first + i;
        if (p.splits > 1) {
            float* partial = p.partial + ((head * p.splits + split) * p.N + block.first + i) * (Dp + 2);
            for (long d = 0; d < Dp; d++) partial[d] = sums[d];
            partial[Dp] = maximum;
            partial[Dp + 1] = total;
        } else {
            const bool nothing = total == 0.0f;  // nothing to attend to: zeros, and a log-sum-exp of -inf
            p.lse[row] = nothing ? -INF : maximum + __builtin_logf(total);
            const long row_start = block.b * p.out.batch + block.h * p.out.head + (block.first + i) * p.out.row;
            unpack_row(p, sums, nothing ? 1.0f : 1.0f / total, p.out.data, row_start);
        }
    }
}

inline void forward(const Problem& p, long item, float* scratch) {
    const ForwardScratch at(p, scratch);
    const Chunks chunks(p);
    const long Dp = padded(p), split = item % p.splits, head = item / p.splits % chunks.heads(p);
    const long chunk = chunks.per_head - 1 - item / p.splits / chunks.heads(p);  // causal: the longest rows first
    const long b = chunks.by_head ? head / p.G : head / p.H, g = chunks.by_head ? head % p.G : head % p.H / p.fold();
    const long blocks = smaller(chunks.blocks, chunks.all - chunk * chunks.blocks);
    auto block_at = [&](long n) {
        const long index = chunk * chunks.blocks + n;
        if (chunks.by_head) return Block{b, g * p.fold() + index, 0, p.N};
        return Block{b, head % p.H, index * ROWS, smaller(ROWS, p.N - index * ROWS)};
    };
    for (long n = 0; n < blocks; n++) {
        const Block block = block_at(n);
        pack_left(p, p.query, b, block.h, block.first, block.rows, at.query + n * ROWS * padded_inner(p));
        if (p.key_norm) query_norms(p, block, at.rows, at.norm + n * ROWS);
        for (long i = 0; i < block.rows; i++) {
            at.maximum[n * ROWS + i] = -INF;
            at.total[n * ROWS + i] = 0.0f;
        }
    }
    for (long x = 0; x < blocks * ROWS * Dp; x += W) store(at.sums + x, Vec{});

    const long tiles = (p.M + KEYS - 1) / KEYS;
    const Span part{tiles * split / p.splits, tiles * (split + 1) / p.splits};
    const Block first = block_at(0), last = block_at(blocks - 1);
    const long middle = position(p, p.causal ? last.first + last.rows - 1 : (first.first + last.first + last.rows) / 2);
    const long nearest = smaller(larger(middle / KEYS, part.begin), part.end - 1);
    auto visit = [&](long index) {
        if (p.given_up()) return;
        const Span tile{index * KEYS, smaller((index + 1) * KEYS, p.M)};
        // Values need no packing where they lie as packed ones would.
        const bool in_place = p.type == Type::float32 && p.D % W == 0 && (few(p) || p.value.row == p.D) &&
                              !hides_some(p, b, tile);
        bool packed = few(p) && in_place;
        for (long n = 0; n < blocks; n++) {
            const Block block = block_at(n);
            Span span = seen_by_block(p, block, tile);
            if (span.empty()) continue;
            span = that_matters(p, block, span, at.norm + n * ROWS, at.maximum + n * ROWS);
            if (span.empty()) continue;
            if (!packed) {
                if (!few(p)) pack_panels(p, p.key, b, g, tile.begin, tile.count(), at.rows, at.keys);
                if (!in_place) pack_right(p, p.value, b, g, tile.begin, tile.count(), at.values, hidden_from(p, b, tile.begin));
                packed = true;
            }
            attend(p, block, tile, span, at, n * ROWS, in_place);
        }
    };
    for (long index = nearest; index >= part.begin; index--) visit(index);
    for (long index = nearest + 1; index < part.end; index++) visit(index);
    for (long n = 0; n < blocks; n++) finish_block(p, block_at(n), split, at, n * ROWS);
}

// Merges the splits of a head's rows.
inline long merge_items(const Problem& p) { return p.splits > 1 ? p.B * p.H : 0; }
inline size_t merge_floats(const Problem& p) { return padded(p); }
inline void merge(const Problem& p, long head, float* sums) {
    const long Dp = padded(p);
    for (long i = 0; i < p.N; i++) {
        auto part = [&](long split) { return p.partial + ((head * p.splits + split) * p.N + i) * (Dp + 2); };
        float maximum = -INF, total = 0.0f;
        for (long split = 0; split < p.splits; split++) maximum = larger(part(split)[Dp], maximum);
        for (long d = 0; d < Dp; d++) sums[d] = 0.0f;
        for (long split = 0; split < p.splits; split++) {
            const float weight = exp(part(split)[Dp] - (maximum == -INF ? 0.0f : maximum));
            total += part(split)[Dp + 1] * weight;
            for (long d = 0; d < Dp; d++) sums[d] += part(split)[d] * weight;
        }
        const bool nothing = total == 0.0f;
        p.lse[head * p.N + i] = nothing ? -INF : maximum + __builtin_logf(total);
        const long row_start = head / p.H * p.out.batch + head % p.H * p.out.head + i * p.out.row;
        unpack_row(p, sums, nothing ? 1.0f : 1.0f / total, p.out.data, row_start);
    }
}

}  // namespace falloff::FALLOFF_ISA
