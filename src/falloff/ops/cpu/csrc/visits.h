// What certified skipping leaves of a call: counted tile by tile, without attending to a key.
#pragma once

#include "forward.h"

namespace falloff::FALLOFF_ISA {

inline long visit_tiles(const Problem& p) { return (p.N + Q_TILE - 1) / Q_TILE; }
inline long visit_items(const Visits& p) { return p.B * p.H * visit_tiles(p); }
inline size_t visit_bytes(const Visits& p) { return Q_TILE * (padded(p) + 1) * sizeof(float) + 2 * 64; }

// An item: a q tile. Its rows' log-sum-exps certify what is skipped, as in the backward.
inline void count_visits(const Visits& p, long item, Arena arena) {
    float* rows = arena.take<float>(Q_TILE * padded(p));  // (Q_TILE, Dp)
    float* norms = arena.take<float>(Q_TILE);
    const long head = item / visit_tiles(p), first = item % visit_tiles(p) * Q_TILE;
    const QTile q_tile{head / p.H, head % p.H, first, smaller(Q_TILE, p.N - first)};
    if (p.key_norm) query_norms(p, q_tile, rows, norms);
    const long kv_tiles = (p.M + KV_TILE - 1) / KV_TILE;
    for (long index = 0; index < kv_tiles; index++) {
        const Span seen = seen_by_tile(p, q_tile, {index * KV_TILE, smaller((index + 1) * KV_TILE, p.M)});
        const Span kept = seen.empty() ? seen : that_matters(p, q_tile, seen, norms, p.lse + head * p.N + first);
        p.seen[item * kv_tiles + index] = seen.empty() ? 0 : int32_t(seen.count());
        p.visited[item * kv_tiles + index] = kept.empty() ? 0 : int32_t(kept.count());
    }
}

}  // namespace falloff::FALLOFF_ISA
