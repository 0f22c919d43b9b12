// From a call to kernels: the instruction set, what is computed once for all threads, and the order of the steps.
#pragma once

#include <string>
#include <vector>

#include "work.h"

namespace falloff {

// The instruction sets that this library was built with and this machine can run, the best first.
std::vector<std::string> instruction_sets();

// The kernels of an instruction set; of the best one for null. Throws std::invalid_argument for one that is not there.
const Kernels& kernels_for(const char* isa);

// A call comes from check.h with sizes, inputs, the form's tensors and where the results go; the rest is filled in here.
void run_forward(Forward call, const Kernels& kernels, Pending pending = nullptr);
void run_backward(Backward call, const Kernels& kernels, Pending pending = nullptr);
void run_visits(Visits call, const Kernels& kernels, Pending pending = nullptr);

}  // namespace falloff
