// Lowering: works out, once per call, what kernels read beside the tensors themselves. The forward writes it; the backward
// reads it again.
//
// A caller may hold its memory between forward and backward, so nothing in it is trusted: kernels calculate with its values and
// compare its labels, and clamp what they use as an index (`bends`).
#pragma once

#include "work.h"

namespace falloff {

// Bytes of the lowered call, by its shapes alone. `lowered_size` of cpu/__init__.py says the same.
size_t lowered_bytes(const Problem& p);

// Writes the lowered call to `memory`, and lets the problem point to it.
void lower(Problem& p, void* memory, const Kernels& kernels, Interrupt& interrupt);

// Lets the problem point to a lowered call that the forward wrote.
void restore(Problem& p, void* memory);

}  // namespace falloff
