// A call is lowered once: what kernels read beside the tensors themselves. The forward writes it; the backward starts from it.
//
// It may lie in memory that a caller hands back for the backward, so nothing in it is trusted: kernels use its values as
// numbers and as labels to compare, and clamp what they use as places (`bends`).
#pragma once

#include "work.h"

namespace falloff {

// Bytes of the lowered call, by its shapes alone. `lowered_size` of cpu/__init__.py says the same.
size_t lowered_bytes(const Problem& p);

// Writes the lowered call to `memory`, and lets the problem point to it.
void lower(Problem& p, void* memory, const Kernels& kernels, Interrupt& interrupt);

// Lets the problem point to a lowered call that was written before.
void restore(Problem& p, void* memory);

}  // namespace falloff
