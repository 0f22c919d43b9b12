// One call of attention as the kernels get it: plain data, the same for all instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"

namespace falloff {

static_assert(sizeof(long) == 8);  // sizes, strides and places are longs

enum class Type { float32, bfloat16 };

// A tensor (B, heads, length, D) whose last dimension is contiguous; strides in elements.
struct Rows {
    const void* data = nullptr;
    long batch = 0, head = 0, row = 0;
};

// The same, to write to.
struct Target {
    void* data = nullptr;
    long batch = 0, head = 0, row = 0;
};

// An integer of `bytes` bytes for each batch entry and row, or key: documents, or a mask. 0 bytes: the call has none.
struct Ids {
    const void* data = nullptr;
    int bytes = 0;
    long batch = 0, row = 0;
};

// Which weights dropout keeps: see dropout.h.
struct Dropout {
    bool on = false;
    uint32_t seed_low = 0, seed_high = 0;
    uint64_t threshold = 0;  // a weight is kept where its 32 random bits are not below
    float kept_scale = 1.0f;
};

// What the caller asks for: sizes, tensors, masks, settings.
struct Inputs {
    long B = 0, H = 0, G = 0, N = 0, M = 0, D = 0;
    Type type = Type::float32;
    Rows query, key, value;  // (B, H, N, D), (B, G, M, D), (B, G, M, D)
    float scale = 1.0f;
    long query_start = 0;
    bool causal = false;
    long window = 0;          // keys at this offset and beyond are hidden
    Ids key_mask, documents;  // (B, M): 0 is hidden; (B, N)
    Dropout dropout;
    int threads = 1;

    [[gnu::always_inline]] long group() const { return H / G; }
};

// The parts of a form, each on or off: their biases are added.
struct Strip {
    bool on = false;
    const float* values = nullptr;  // (H, K)
    long K = 0, start = 0;
};
struct Band {
    bool on = false;
    const float* values = nullptr;  // (B, H, N, E)
    long E = 0;
};
struct Warp {
    bool on = false;
    // (K), (N) or (B, N), (S - 1), (H, S), (H, S)
    const float *g = nullptr, *a = nullptr, *knots = nullptr, *slope = nullptr, *intercept = nullptr;
    long K = 0;
    long a_batch = 0;  // stride of `a` along the batch: N, or 0 where all entries share it
    int S = 0;         // segments
};
// states . table[offset - start], of the states of query rows or of keys.
struct Factored {
    bool on = false;
    Rows states = {};              // (B, H, N or M, R), float32
    const float* table = nullptr;  // (tables, K, R)
    long tables = 0;                                   // H, or 1 for all heads
    long K = 0, R = 0, start = 0;
    bool clamp = false;  // outside the table the nearest end holds; else the bias is 0
};
enum Side { QUERY, KEY, SIDES };
struct Potential {
    bool on = false;
    const float *row = nullptr, *key = nullptr;  // (B, H, N), (B, H, M)
};

struct Bias {
    Strip strip;
    Band band;
    Warp warp;
    Factored factored[SIDES];
    Potential potential;
};

// What is worked out once, before the first tile: see lower.h.
struct Lowered {
    // A row sees only keys of its own label: the number of its document. A key that key_mask hides has label -1. Null: no
    // labels.
    const int32_t *row_labels = nullptr, *key_labels = nullptr;  // (B, N), (B, M)
    // By falling offset, with STRIP_PAD copies of the value at either end.
    const float* falling_strip = nullptr;  // (H, strip_row), strip_row = K + 2 STRIP_PAD
    long strip_row = 0;
    // By falling offset, with STRIP_PAD or more of them at either end: copies of the end's numbers, or zeros. The numbers r of 16
    // offsets lie side by side, whatever the instruction set: the backward may be given another than the forward.
    float* falling_table[SIDES] = {};  // (tables, table_offsets / 16, R, 16)
    // Of a warp: g by falling offset, for every offset of the call; for each row, the first distance beyond each knot.
    const float* distances = nullptr;  // (N + M + 2 STRIP_PAD)
    int32_t* bends = nullptr;  // (N, S - 1), or (B, N, S - 1) where `a` has a batch
    // Certified skipping (skip.h): the largest |key| of each block of KEY_BLOCK keys, +inf where a key or value is not finite.
    float* key_norm = nullptr;         // (B, G, blocks); null: nothing is skipped
    float* key_norm_before = nullptr;  // (B, G, blocks): the largest of a block and all before it
    const float* strip_max = nullptr;  // (H, blocks): the largest value of each block of STRIP_BLOCK values of `values`
    // (H, blocks): at least the log-sum-exp of the values of a block and all beyond, for M keys
    const float* strip_tail = nullptr;
    // (B, H, blocks): the largest potential of each block of KEY_BLOCK keys; at least the log-sum-exp of those of a block and all
    // before it
    const float *key_max = nullptr, *key_tail = nullptr;
};

struct Problem : Inputs, Bias, Lowered {
    void* kept = nullptr;  // where the lowered call is, for the backward; null: it is not kept

    // Whether the call is to end early: each thread asks between tiles. See Interrupt in work.h.
    bool (*stopped)(void*) = nullptr;
    void* interrupt = nullptr;
    [[gnu::always_inline]] bool given_up() const { return stopped && stopped(interrupt); }
};

struct Forward : Problem {
    Target out;                // (B, H, N, D)
    float* lse = nullptr;      // (B, H, N)
    long splits = 1;           // parts of the keys, whose results are merged
    float* partial = nullptr;  // (B, H, splits, N, Dp + 2): O, row_max, row_sum; null where splits is 1
};

// Gradients of the form's tensors, float32: null where not needed.
struct BiasGradients {
    float *strip = nullptr, *band = nullptr;  // (H, K), (B, H, N, E)
    float *g = nullptr, *a = nullptr, *slope = nullptr, *intercept = nullptr;  // of a warp; a: (N) or (B, N)
    float *states[SIDES] = {}, *table[SIDES] = {};                             // (B, H, N or M, R), (tables, K, R)
    float *row_potential = nullptr, *key_potential = nullptr;                  // (B, H, N), (B, H, M)
};

struct Backward : Problem {
    Rows grad_out, out;           // (B, H, N, D)
    const float *lse = nullptr, *grad_lse = nullptr;  // (B, H, N)
    bool needs_query = false, needs_key = false, needs_value = false, needs_form = false;
    void* grad_query = nullptr;                      // (B, H, N, D), contiguous
    void *grad_key = nullptr, *grad_value = nullptr;  // (B, G, M, D), contiguous
    BiasGradients grad_bias;

    // Scratch.
    float* delta = nullptr;       // (B, H, N): rowsum(grad_out * out) - grad_lse
    float* query_norm = nullptr;  // (B, H, N): |query| |scale|
    // (B, H, N), for skipping: the log-sum-exp; +inf of a row that sees no key, -inf of one with NaN
    float* log_mass = nullptr;
    long key_chunks = 1;          // parts of the keys, each with sums of its own
    float* query_sums = nullptr;   // (key_chunks, B, H, N, Dp): dQ / scale; may be the memory of grad_query
    double* strip_sums = nullptr;  // (key_chunks, B, H, K)
    double* g_sums = nullptr;      // (key_chunks, B, H, K): of a warp's g
    double* line_sums = nullptr;   // (key_chunks, B, H, 2, S): slope, intercept
    double* a_sums = nullptr;      // (key_chunks, B, H, N)
    float* table_rows[SIDES] = {};  // (tables, K + 2 STRIP_PAD, Rp): by falling offset
    float* state_sums = nullptr;    // (key_chunks, B, H, N, Rp): of the states of rows
    float* table_sums[SIDES] = {};  // (key_chunks, B, H, K, Rp)
    double* end_sums[SIDES] = {};   // (key_chunks, B, H, 2, Rp): of offsets before and behind the table, where ends are clamped
};

// For each q tile and kv tile of the forward, how many keys the span has that its rows see, and how many are visited: visits.h.
struct Visits : Problem {
    const float* lse = nullptr;                     // (B, H, N)
    int32_t *seen = nullptr, *visited = nullptr;    // (B, H, q tiles, kv tiles)
};
constexpr long VISIT_Q_TILE = 48, VISIT_KV_TILE = 256;  // forward.h asserts that they are its own

constexpr long MOST_HEAD_SIZE = 256;  // the largest D
constexpr long KEY_BLOCK = 64;    // keys that share a norm
constexpr long STRIP_BLOCK = 64;  // values of a strip that share a maximum
[[gnu::always_inline]] inline long key_blocks(const Problem& p) { return (p.M + KEY_BLOCK - 1) / KEY_BLOCK; }
[[gnu::always_inline]] inline long strip_blocks(const Problem& p) { return (p.strip.K + STRIP_BLOCK - 1) / STRIP_BLOCK; }
constexpr long STRIP_PAD = 512;   // more than the offsets that a tile spans
// Offsets of a lowered table, in blocks of 16, also where it begins up to 15 offsets later.
[[gnu::always_inline]] inline long table_offsets(const Factored& f) { return (f.K + 2 * STRIP_PAD + 30) / 16 * 16; }

// What each instruction set offers. An item is a piece of work that one thread does alone. No two items write to the same
// place, so that no result depends on which thread does which.
template <class P>
struct Work {
    long (*items)(const P&);
    size_t (*bytes)(const P&);  // of scratch memory for each thread
    void (*run)(const P&, long item, Arena scratch);
};

struct Kernels {
    Work<Problem> key_norms, bends, tables;
    Work<Forward> forward, merge;
    Work<Backward> prepare_backward, backward, finish_backward;
    Work<Visits> visits;
    long (*padded_head_size)(const Problem&);
    long (*padded_states)(const Factored&);
    long (*row_chunks)(const Problem&);  // pieces of work of the forward, before keys are split
};

}  // namespace falloff
