// The kernels, compiled once per instruction set: FALLOFF_ISA names it.
//
// A reader who knows FlashAttention finds here:
//   simd.h      vectors, exp, transposing in registers
//   arena.h     scratch memory, handed out in parts
//   product.h   the micro kernel: blocks of 6 x 4 vectors of a product, held in registers
//   pack.h      copies into the shapes that product.h reads: left factors, right factors, panels
//   prefetch.h  what is needed next, asked for while the processor multiplies
//   mask.h      which keys the rows of a q tile see
//   skip.h      certified skipping: which keys cannot matter
//   bias.h      the bias of a row of a tile for each form, and the gradient of the form
//   factored.h  the bias of states and a table, and its gradients: small products
//   scores.h    S = Q K^T * scale + bias
//   softmax.h   S into P; online softmax
//   dropout.h   which weights are kept
//   forward.h, backward.h   the order of tiles, and what each of them does
//   visits.h    how many keys of each tile skipping leaves, for who wants to see it
// Compiled once for all instruction sets: problem.h (a call as plain data), module.cpp and torch_tensors.cpp (Python),
// check.cpp (that arguments fit together), lower.cpp (what is worked out before the first tile), run.cpp (the order of steps),
// work.cpp and threads.cpp (which thread does which item), memory.h (scratch memory that threads keep). sanitize.cpp runs it
// all under sanitizers.
//
// Words, as in FlashAttention (S, P, O, dS, delta, row_max, row_sum) and, of the products, as in BLIS:
//   q tile, kv tile   consecutive query rows of one head; consecutive keys. A tile of scores is one times the other
//   group             the query heads that share a key head (GQA)
//   chunk             the q tiles that share packed keys: one item of the forward
//   split             a part of the keys, where a few rows meet many keys (FlashDecoding)
//   panel             64 keys (16 with AVX2 and NEON), transposed: a row of it is one number of each key
//   sliver            6 rows of a q tile, as high as a register block; it computes only the keys that its rows see (SliverKeys)
//   span              the keys of a kv tile that some row of a q tile sees and that can matter
//   label             what a row and a key must share to see each other: the number of a document; -1 is padding
//   in place          read from the caller's tensor, without packing
//
// Sizes, and why (Zen 4, 32 KB and 1 MB of cache a core; benchmarks/cpu.md has the measurements):
//   forward 48 x 256: a sliver's scores (6 KB) stay in the first-level cache; packed keys and values (64 KB each), and the
//     chunk's queries and O (98 KB each), stay in the second-level one;
//   a chunk of up to 8 q tiles: packing keys and values is 1 to 2% of its work, and no memory grows with the length;
//   backward 48 x 192: five products a tile, and 192 keys are 32 whole slivers of dK and dV.
//
// A bias costs what its loads cost. A strip is stored by falling offset: the biases of consecutive keys are consecutive
// numbers, wherever a row starts, and a vector of them is one unaligned load. A band is stored by rising offset: a load and a
// permutation. States and a table cost a product of R numbers a score. A warp's row is cut into runs, each in one segment of the
// piecewise linear function: a load and two multiply-adds.
//
// Determinism: one thread does an item of work from beginning to end, in an order that depends on the shape alone; what several
// items give together is added up in a fixed order.
#include "backward.h"
#include "bias.h"
#include "factored.h"
#include "forward.h"
#include "pack.h"
#include "problem.h"
#include "skip.h"
#include "visits.h"

namespace falloff::FALLOFF_ISA {

extern const Kernels kernels;
const Kernels kernels{
    {key_norm_items, key_norm_bytes, key_norms},
    {bend_items, bend_bytes, find_bends},
    {table_items, table_bytes, lower_table},
    {forward_items, forward_bytes, forward},
    {merge_items, merge_bytes, merge},
    {prepare_items, prepare_bytes, prepare_backward},
    {backward_items, backward_bytes, backward},
    {finish_items, finish_bytes, finish_backward},
    {visit_items, visit_bytes, count_visits},
    padded,
    padded_states,
    chunks,
};

}  // namespace falloff::FALLOFF_ISA
