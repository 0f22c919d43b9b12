// The Python module `falloff.ops.cpu._kernels`. Tensors come through DLPack; nothing here knows torch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "check.h"

namespace nb = nanobind;
using namespace falloff;

namespace {

using Array = nb::ndarray<nb::device::cpu>;

Dtype dtype_of(const Array& a) {
    const nb::dlpack::dtype dtype = a.dtype();
    if (dtype == nb::dtype<float>()) return Dtype::float32;
    if (dtype == nb::dtype<int32_t>()) return Dtype::int32;
    if (dtype.code == uint8_t(nb::dlpack::dtype_code::Bfloat) && dtype.bits == 16 && dtype.lanes == 1) return Dtype::bfloat16;
    return Dtype::other;
}

Tensor tensor(const Array& a) { return {a.data(), dtype_of(a), int(a.ndim()), a.shape_ptr(), a.stride_ptr()}; }

std::optional<Tensor> tensor(const std::optional<Array>& a) {
    if (!a) return std::nullopt;
    return tensor(*a);
}

std::vector<Tensor> tensors(const std::vector<Array>& arrays) {
    std::vector<Tensor> all;
    for (const Array& a : arrays) all.push_back(tensor(a));
    return all;
}

// Whether a signal's handler, such as Ctrl-C's, has raised an error. Only Python's main thread runs handlers.
bool raised() {
    nb::gil_scoped_acquire locked;
    return PyErr_CheckSignals() != 0;
}

template <class Run>
void without_gil(Run run) {
    try {
        nb::gil_scoped_release unlocked;
        run();
    } catch (const Interrupted&) {
        throw nb::python_error();  // what the handler raised
    }
}

struct Call {
    Problem problem;
    std::string isa;
    int threads;
    std::vector<Array> alive;  // what the problem points into

    Call(
        const Array& query, const Array& key, const Array& value, double scale, int64_t query_start, bool causal,
        std::optional<int64_t> window, const std::optional<Array>& row_labels, const std::optional<Array>& key_labels,
        std::optional<int64_t> seed, double dropout_p, const std::string& form, const std::vector<Array>& form_tensors,
        int64_t form_start, std::string isa, int threads
    )
        : isa(std::move(isa)), threads(threads), alive{query, key, value} {
        problem = problem_of(
            {tensor(query), tensor(key), tensor(value), scale, query_start, causal, window, tensor(row_labels),
             tensor(key_labels), seed, dropout_p, form, tensors(form_tensors), form_start, threads}
        );
        if (row_labels) alive.push_back(*row_labels), alive.push_back(*key_labels);
        alive.insert(alive.end(), form_tensors.begin(), form_tensors.end());
    }

    void forward(const Array& out, const Array& lse) const {
        Problem p = problem;
        add_outputs(p, {tensor(out), tensor(lse)});
        without_gil([&] { run_forward(p, isa, threads, raised); });
    }

    void backward(
        const Array& grad_out, const std::optional<Array>& grad_lse, const Array& out, const Array& lse,
        const std::optional<Array>& grad_query, const std::optional<Array>& grad_key,
        const std::optional<Array>& grad_value, const std::vector<Array>& grad_form
    ) const {
        Problem p = problem;
        const FormGradients form = add_gradients(
            p, {tensor(grad_out), tensor(out), tensor(lse), tensor(grad_lse), tensor(grad_query), tensor(grad_key),
                tensor(grad_value), tensors(grad_form)}
        );
        without_gil([&] { run_backward(p, form, isa, threads, raised); });
    }
};

}  // namespace

NB_MODULE(_kernels, m) {
    m.doc() = "Attention on the CPU: see falloff/ops/cpu/__init__.py.";
    m.def("instruction_sets", &instruction_sets);
    m.def("fma_peak", &fma_peak, nb::arg("isa"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
    nb::class_<Call>(m, "Call")
        .def(
            nb::init<
                const Array&, const Array&, const Array&, double, int64_t, bool, std::optional<int64_t>,
                const std::optional<Array>&, const std::optional<Array>&, std::optional<int64_t>, double,
                const std::string&, const std::vector<Array>&, int64_t, std::string, int>(),
            nb::kw_only(), nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("scale"), nb::arg("query_start"),
            nb::arg("causal"), nb::arg("window").none(), nb::arg("row_labels").none(), nb::arg("key_labels").none(),
            nb::arg("seed").none(), nb::arg("dropout_p"), nb::arg("form"), nb::arg("form_tensors"), nb::arg("form_start"),
            nb::arg("isa"), nb::arg("threads")
        )
        .def("forward", &Call::forward)
        .def(
            "backward", &Call::backward, nb::arg("grad_out"), nb::arg("grad_lse").none(), nb::arg("out"), nb::arg("lse"),
            nb::arg("grad_query").none(), nb::arg("grad_key").none(), nb::arg("grad_value").none(), nb::arg("grad_form")
        );
}
