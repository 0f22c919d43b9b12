// The kernels, compiled once per instruction set: FALLOFF_ISA names it.
//
// A reader who knows FlashAttention finds here:
//   simd.h      vectors, exp, transposing in registers
//   arena.h     scratch memory, handed out in parts
//   product.h   the one place that multiplies: blocks of 6 x 4 vectors of a product, held in registers
//   pack.h      copies into the shapes that product.h reads: left factors, right factors, panels
//   tile.h      what the rows of a tile of scores see, and its products
//   skip.h      certified skipping: which keys cannot matter
//   bias.h      the bias of a row of a tile for each form, and the gradient of the form
//   softmax.h   scores into weights; dropout
//   forward.h, backward.h   the order of tiles, and what each of them does
// and, known to no instruction set: problem.h (a call as plain data), module.cpp and torch_tensors.cpp (Python), check.cpp (what
// was handed over fits together), lower.cpp (what is worked out before the first tile), run.cpp (the order of steps), work.cpp
// and threads.cpp (who does which item). sanitize.cpp runs it all under sanitizers.
//
// Words, as in FlashAttention (S, P, O, dS, delta, row_max, row_sum) and, of the products, as in BLIS:
//   q tile, kv tile   consecutive query rows of one head; consecutive keys. A tile of scores is one times the other
//   group             the query heads that share a key head (GQA)
//   chunk             the q tiles that share packed keys, one item of the forward
//   split             a part of the keys, where a few rows meet many keys (FlashDecoding)
//   panel             64 keys (16 with AVX2 and NEON), transposed: a row of it is one number of each key
//   sliver            6 rows of a q tile, one register block high; each goes only as far as its rows see (Steps)
//   span              the keys of a kv tile that some row of a q tile sees and that can matter
//   label             what a row and a key must share to see each other: a document, or padding
//
// Sizes, and why (Zen 4, 32 KB and 1 MB of cache a core; benchmarks/cpu.md has the measurements):
//   forward 48 x 256: the panel in use (16 KB at D = 64) stays in the first-level cache while 8 slivers pass it; the scores of
//     a sliver (6 KB) too; packed keys and values (64 KB each), and the chunk's queries and O (98 KB each), stay in the
//     second-level one;
//   up to 8 q tiles, a chunk, share packed keys and values, so that packing is 1 to 2% of the work and no memory grows with
//     the length;
//   backward 48 x 192: five products a tile, and 192 keys are 32 whole slivers of dK and dV.
//
// A bias costs what its loads cost. A strip is stored by falling offset, so that the biases of consecutive keys are consecutive
// numbers, wherever a row starts: an unaligned load a vector. A band lies the other way round: a load and a permutation. A
// warp's row is cut into runs, each in one segment of the piecewise linear function: a load and a multiply-add.
//
// Determinism: an item of work is done by one thread, from beginning to end, in an order that depends on the shape alone; what
// several items give together is added up in a fixed order.
#include "backward.h"
#include "bias.h"
#include "forward.h"
#include "pack.h"
#include "problem.h"
#include "skip.h"

namespace falloff::FALLOFF_ISA {

extern const Kernels kernels;
const Kernels kernels{
    {key_norm_items, key_norm_bytes, key_norms},
    {bend_items, bend_bytes, find_bends},
    {forward_items, forward_bytes, forward},
    {merge_items, merge_bytes, merge},
    {prepare_items, prepare_bytes, prepare_backward},
    {backward_items, backward_bytes, backward},
    {finish_items, finish_bytes, finish_backward},
    padded,
    chunks,
};

}  // namespace falloff::FALLOFF_ISA
