// The kernels, compiled once per instruction set: FALLOFF_ISA names it.
//
// A reader who knows FlashAttention finds here:
//   simd.h      vectors, exp, transposing in registers
//   product.h   the one place that multiplies: blocks of 6 x 4 vectors of a product, held in registers
//   pack.h      copies into the shapes that product.h reads: left factors, right factors, panels
//   tile.h      what the rows of a tile of scores see, and its products
//   skip.h      certified skipping: which keys cannot matter
//   bias.h      the bias of a row of a tile for each form, and the gradient of the form
//   softmax.h   scores into weights; dropout
//   forward.h, backward.h   the order of tiles, and what each of them does
// and, known to no instruction set, problem.h (a call as plain data), run.cpp (what is prepared once, the order of steps),
// threads.cpp, check.cpp (what was handed over fits together), and module.cpp (Python). sanitize.cpp runs it all under sanitizers.
//
// Words: a tile is a block of query rows times a span of keys. A panel is 64 keys (16 with AVX2), transposed, so that a row
// of a panel is one number of each key: the right factor of scores. A strip of rows is 6 rows, one register block high: causal
// tiles are computed in steps, each strip only as far as it sees. Row maximum and row sum are those of online softmax.
//
// Sizes, and why (Zen 4, 32 KB and 1 MB of cache a core; benchmarks/cpu.md has the measurements):
//   forward 48 x 256: the panel in use (16 KB at D = 64) stays in the first-level cache while 8 strips pass it; scores (48 KB),
//     packed keys and values (64 KB each) and the chunk's queries and sums (98 KB each) stay in the second-level one;
//   up to 8 blocks of 48 rows, a chunk, share packed keys and values, so that packing is 1 to 2% of the work and no memory
//     grows with the length;
//   backward 48 x 192: five products a tile, and 192 keys are 32 whole strips of the gradients of keys and values.
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
    {key_norm_items, key_norm_floats, key_norms},
    {bend_items, bend_floats, find_bends},
    {forward_items, forward_floats, forward},
    {merge_items, merge_floats, merge},
    {prepare_items, prepare_floats, prepare_backward},
    {backward_items, backward_floats, backward},
    {finish_items, finish_floats, finish_backward},
    padded,
    chunks,
};

}  // namespace falloff::FALLOFF_ISA
