// The kernels, compiled once per instruction set: FALLOFF_ISA names it.
#include "backward.h"
#include "forward.h"
#include "peak.h"

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
    multiply_and_add,
    chunks,
};

}  // namespace falloff::FALLOFF_ISA
