// What this module knows of torch: how to read a tensor through its Python methods. Nothing of torch is linked.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <vector>

#include "check.h"

namespace falloff {

// A torch.Tensor or Parameter on the CPU, read. Sizes and strides are copied. Methods are torch's own, looked up once: an
// attribute of the instance cannot take their place.
class TorchTensor {
public:
    // Throws std::invalid_argument, which names the argument, for what is no such tensor.
    TorchTensor(const char* name, nanobind::handle object);
    Tensor tensor() const { return {data, dtype, int(ndim), shape, strides, length}; }

private:
    static constexpr size_t MOST_DIMENSIONS = 8;
    void* data;
    Dtype dtype;
    size_t ndim;
    int64_t shape[MOST_DIMENSIONS], strides[MOST_DIMENSIONS], length;
};

}  // namespace falloff
