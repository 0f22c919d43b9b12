// What was handed over for a call, checked: a Problem that comes out of here reads and writes within its tensors alone.
// Beyond the memory's length, which DLPack does not tell (operators.py looks at it), nothing is taken on trust. Known to
// module.cpp, which fills it from Python, and to sanitize.cpp, which fills it with what does not fit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "run.h"

namespace falloff {

enum class Dtype { float32, bfloat16, int32, other };

// A tensor of any shape; strides in elements.
struct Tensor {
    void* data = nullptr;
    Dtype dtype = Dtype::other;
    int ndim = 0;
    const int64_t *shape = nullptr, *strides = nullptr;
    int64_t length = INT64_MAX;  // elements that exist from `data` on, where that is known
};

struct Inputs {
    Tensor query, key, value;
    double scale = 1.0;
    int64_t query_start = 0;
    bool causal = false;
    std::optional<int64_t> window;
    std::optional<Tensor> row_labels, key_labels;
    std::optional<int64_t> seed;
    double dropout_p = 0.0;
    std::string form;  // "", "strip", "band" or "warp"
    std::vector<Tensor> form_tensors;
    int64_t form_start = 0;
    int threads = 1;
};

struct Outputs {
    Tensor out, lse;
};

struct Gradients {
    Tensor grad_out, out, lse;
    std::optional<Tensor> grad_lse, grad_query, grad_key, grad_value;  // none of the last three: not needed
    std::vector<Tensor> grad_form;                                     // empty: not needed
};

// Each throws std::invalid_argument, which names the argument, what was got and what is expected.
Problem problem_of(const Inputs& inputs);
void add_outputs(Problem& p, const Outputs& outputs);
FormGradients add_gradients(Problem& p, const Gradients& gradients);

}  // namespace falloff
