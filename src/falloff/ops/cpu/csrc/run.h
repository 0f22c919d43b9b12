// From a call to kernels: the instruction set, what is computed once for all threads, and the order of the steps.
#pragma once

#include <string>
#include <vector>

#include "work.h"

namespace falloff {

// The instruction sets that this library was built with and this machine can run, the best first.
std::vector<std::string> instruction_sets();

// Gradients of a form's tensors, float32: nullptr where not needed.
struct FormGradients {
    float *values = nullptr;  // of a strip (H, K), of a band (B, H, N, E)
    float *g = nullptr, *a = nullptr, *slope = nullptr, *intercept = nullptr;  // of a warp; a: (N) or (B, N)
};

// The kernels of an instruction set; of the best one for null. Throws std::invalid_argument for one that is not there.
const Kernels& kernels_for(const char* isa);

// `problem` holds sizes, inputs, masks, the form's tensors, and where the results go; the rest is filled in here. `lowered`: memory
// of lowered_bytes (lower.h) for what the backward starts from; null, and it is not kept.
void run_forward(Problem problem, const Kernels& kernels, int threads, void* lowered, Pending pending = nullptr);
void run_backward(
    Problem problem, const FormGradients& form, const Kernels& kernels, int threads, void* lowered, Pending pending = nullptr
);

}  // namespace falloff
