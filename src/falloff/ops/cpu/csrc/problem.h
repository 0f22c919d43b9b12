// One call of attention, as the kernels see it. Known to all instruction sets; plain data.
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

// The same to write into.
struct Target {
    void* data = nullptr;
    long batch = 0, head = 0, row = 0;
};

// Integers of `bytes` bytes for each batch entry and row: documents, or a mask. 0 bytes: there are none.
struct Ids {
    const void* data = nullptr;
    int bytes = 0;
    long batch = 0, along = 0;
};

enum class Form { none, strip, band, warp };

// Which weights dropout keeps: see dropout.py, whose function this is.
struct Dropout {
    bool on = false;
    uint32_t seed_low = 0, seed_high = 0;
    uint64_t threshold = 0;  // kept where the 32 random bits are not below
    float kept_scale = 1.0f;
};

// What was asked for, as the caller has it: sizes, tensors, masks, settings.
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

// The tensors of the form.
struct Bias {
    Form form = Form::none;
    const float* values = nullptr;  // strip (H, K); band (B, H, N, E)
    long K = 0, start = 0;          // of a strip; K also of a warp's g
    long E = 0;                     // of a band
    // warp: (K), (N) or (B, N), (S - 1), (H, S), (H, S)
    const float *g = nullptr, *a = nullptr, *knots = nullptr, *slope = nullptr, *intercept = nullptr;
    long a_batch = 0;  // stride of `a` along the batch: N, or 0 where all entries share it
    int S = 0;         // segments
};

// What is worked out once, before the first tile: see lower.h.
struct Lowered {
    // A row sees only keys of its label: documents, and -1 for padding. Null: it sees all.
    const int32_t *row_labels = nullptr, *key_labels = nullptr;  // (B, N), (B, M)
    // By falling offset, the ends continued by STRIP_PAD values.
    const float* strip = nullptr;  // (H, strip_row)
    long strip_row = 0;
    // `distances` holds g by falling offset for every offset of the call; `bends` the first distance beyond each knot.
    const float* distances = nullptr;
    int32_t* bends = nullptr;  // (N, S - 1), or (B, N, S - 1) where `a` has a batch
    // Certified skipping: the largest |key| of each block of KEY_BLOCK keys, +inf where a key or value is not finite.
    float* key_norm = nullptr;         // (B, G, blocks); null: nothing is skipped
    float* key_norm_before = nullptr;  // the largest of a block and all before it
    const float* strip_max = nullptr;  // (H, blocks): the largest value of each block of STRIP_BLOCK values of `values`
    const float* strip_tail = nullptr; // (H, blocks): log-sum-exp of the values of a block and all beyond, for M keys
};

struct Problem : Inputs, Bias, Lowered {
    void* kept = nullptr;  // where the lowered call is, for the backward; null: it is not kept

    // Asked between tiles by whoever works on the call; see run.cpp.
    bool (*stopped)(void*) = nullptr;
    void* interrupt = nullptr;
    [[gnu::always_inline]] bool given_up() const { return stopped && stopped(interrupt); }
};

struct Forward : Problem {
    Target out;                // (B, H, N, D)
    float* lse = nullptr;      // (B, H, N)
    long splits = 1;           // parts of the keys that are attended to apart and merged
    float* partial = nullptr;  // (B, H, splits, N, Dp + 2): sums, row maximum, row sum; null where splits is 1
};

// Gradients of the form's tensors, float32: null where not needed.
struct BiasGradients {
    float* values = nullptr;  // of a strip (H, K), of a band (B, H, N, E)
    float *g = nullptr, *a = nullptr, *slope = nullptr, *intercept = nullptr;  // of a warp; a: (N) or (B, N)
};

struct Backward : Problem {
    Rows grad_out, out;           // (B, H, N, D)
    const float *lse = nullptr, *grad_lse = nullptr;  // (B, H, N)
    bool needs_query = false, needs_key = false, needs_value = false, needs_form = false;
    void* grad_query = nullptr;                      // (B, H, N, D), contiguous
    void *grad_key = nullptr, *grad_value = nullptr;  // (B, G, M, D), contiguous
    BiasGradients grad_bias;

    // Scratch.
    float* delta = nullptr;       // (B, H, N): sum of grad_out * out, less grad_lse
    float* query_norm = nullptr;  // (B, H, N): |query| |scale|
    float* reached = nullptr;     // (B, H, N): the log-sum-exp; +inf where nothing was seen, -inf for NaN
    long key_chunks = 1;          // parts of the keys whose gradients are summed apart
    float* query_sums = nullptr;   // (key_chunks, B, H, N, Dp), before the factor `scale`; may be grad_query itself
    double* strip_sums = nullptr;  // (key_chunks, B, H, K): of a strip, or of a warp's g
    double* line_sums = nullptr;   // (key_chunks, B, H, 2, S): slope, intercept
    double* a_sums = nullptr;      // (key_chunks, B, H, N)
};

constexpr long MOST_HEAD_SIZE = 256;  // the largest D
constexpr long KEY_BLOCK = 64;    // keys that share a norm
constexpr long STRIP_BLOCK = 64;  // values of a strip that share a maximum
[[gnu::always_inline]] inline long key_blocks(const Problem& p) { return (p.M + KEY_BLOCK - 1) / KEY_BLOCK; }
[[gnu::always_inline]] inline long strip_blocks(const Problem& p) { return (p.K + STRIP_BLOCK - 1) / STRIP_BLOCK; }
constexpr long STRIP_PAD = 512;   // more than the offsets that a tile spans

// What each instruction set offers. An item is a piece of work that one thread does alone; items write apart from each other,
// and no result depends on which thread does which.
template <class P>
struct Work {
    long (*items)(const P&);
    size_t (*bytes)(const P&);  // of scratch memory for each thread
    void (*run)(const P&, long item, Arena scratch);
};

struct Kernels {
    Work<Problem> key_norms, bends;
    Work<Forward> forward, merge;
    Work<Backward> prepare_backward, backward, finish_backward;
    long (*padded_head_size)(const Problem&);
    long (*row_chunks)(const Problem&);  // pieces of work of the forward, before keys are split
};

}  // namespace falloff
