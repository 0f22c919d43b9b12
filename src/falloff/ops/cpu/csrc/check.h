// Checks the arguments of a call: a Problem that comes out of here reads and writes within its tensors alone. Nothing is taken
// on trust. module.cpp passes what Python gave; sanitize.cpp also passes what does not fit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "run.h"

namespace falloff {

enum class Dtype { float32, bfloat16, boolean, uint8, int8, int16, int32, int64, other };

int size_of(Dtype dtype);  // bytes; 1 for another dtype

// A tensor of any shape; strides in elements.
struct Tensor {
    void* data = nullptr;
    Dtype dtype = Dtype::other;
    int ndim = 0;
    const int64_t *shape = nullptr, *strides = nullptr;
    int64_t length = 0;  // elements that exist from `data` on
};

struct Arguments {
    Tensor query, key, value;
    double scale = 1.0;
    int64_t query_start = 0;
    bool causal = false;
    std::optional<int64_t> window;
    std::optional<Tensor> key_mask, document_ids;
    std::optional<int64_t> seed;
    double dropout_p = 0.0;
    // The kinds of the parts, joined by "+"; their tensors and their numbers, one part after the other.
    std::string form;
    std::vector<Tensor> form_tensors;
    std::vector<int64_t> form_numbers;
    int threads = 1;
};

struct Outputs {
    Tensor out, lse;
    std::optional<Tensor> lowered;  // none: no backward will need it
};

struct Counts {
    Tensor lse, seen, visited;
};

struct Gradients {
    Tensor grad_out, out, lse, lowered;
    std::optional<Tensor> grad_lse, grad_query, grad_key, grad_value;  // none of the last three: not needed
    std::vector<Tensor> grad_form;                                     // empty: not needed
};

// Each throws std::invalid_argument, which names the argument, what was got and what is expected.
Problem problem_of(const Arguments& arguments);  // what both directions have
Forward forward_of(const Arguments& arguments, const Outputs& outputs);
Visits visits_of(const Arguments& arguments, const Counts& counts);
Backward backward_of(const Arguments& arguments, const Gradients& gradients);

}  // namespace falloff
