// The Python module `falloff.ops.cpu._kernels`.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "torch_tensors.h"

namespace nb = nanobind;
using namespace falloff;

namespace {

// Reads the tensors of a call, and owns the sizes and strides that they point to: it must live as long as the call.
class Reader {
public:
    Reader() { read.reserve(MOST); }
    Tensor operator()(const char* name, nb::handle object) {
        if (read.size() == MOST) throw std::invalid_argument(std::string(name) + ": got too many tensors");
        return read.emplace_back(name, object).tensor();
    }
    std::optional<Tensor> maybe(const char* name, nb::handle object) {
        if (object.is_none()) return std::nullopt;
        return (*this)(name, object);
    }
    std::vector<Tensor> all(const char* name, nb::handle objects) {
        std::vector<Tensor> tensors;
        for (nb::handle object : objects) tensors.push_back((*this)(name, object));
        return tensors;
    }

private:
    static constexpr size_t MOST = 48;  // a call with all parts of a form, and their gradients, has 41
    std::vector<TorchTensor> read;
};

// The arguments that forward and backward share: `_arguments` of cpu/__init__.py, in its order.
Arguments arguments_of(Reader& read, const nb::tuple& call) {
    if (call.size() != 15) throw std::invalid_argument("call: got " + std::to_string(call.size()) + " arguments, expected 15");
    Arguments in;
    in.query = read("query", call[0]), in.key = read("key", call[1]), in.value = read("value", call[2]);
    in.threads = nb::cast<int>(call[3]);
    in.form_tensors = read.all("form_tensors", call[4]);
    in.key_mask = read.maybe("key_mask", call[5]), in.document_ids = read.maybe("document_ids", call[6]);
    in.seed = nb::cast<std::optional<int64_t>>(call[7]);
    in.form = nb::cast<std::string>(call[8]);
    in.form_numbers = nb::cast<std::vector<int64_t>>(call[9]);
    in.causal = nb::cast<bool>(call[10]);
    in.scale = nb::cast<double>(call[11]);
    in.query_start = nb::cast<int64_t>(call[12]);
    in.window = nb::cast<std::optional<int64_t>>(call[13]);
    in.dropout_p = nb::cast<double>(call[14]);
    return in;
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

const Kernels& chosen_kernels() { return kernels_for(std::getenv("FALLOFF_CPU_ISA")); }

void forward(nb::handle out, nb::handle lse, nb::handle lowered, const nb::tuple& call) {
    Reader read;
    const Forward p =
        forward_of(arguments_of(read, call), {read("out", out), read("lse", lse), read.maybe("lowered", lowered)});
    const Kernels& kernels = chosen_kernels();
    without_gil([&] { run_forward(p, kernels, raised); });
}

void backward(
    nb::handle grad_out, nb::handle grad_lse, nb::handle out, nb::handle lse, nb::handle lowered, nb::handle grad_query,
    nb::handle grad_key, nb::handle grad_value, const nb::list& grad_form, const nb::tuple& call
) {
    Reader read;
    const Backward p = backward_of(
        arguments_of(read, call),
        {read("grad_out", grad_out), read("out", out), read("lse", lse), read("lowered", lowered),
         read.maybe("grad_lse", grad_lse), read.maybe("grad_query", grad_query), read.maybe("grad_key", grad_key),
         read.maybe("grad_value", grad_value), read.all("grad_form", grad_form)}
    );
    const Kernels& kernels = chosen_kernels();
    without_gil([&] { run_backward(p, kernels, raised); });
}

void visits(nb::handle lse, nb::handle seen, nb::handle visited, const nb::tuple& call) {
    Reader read;
    const Visits p = visits_of(arguments_of(read, call), {read("lse", lse), read("seen", seen), read("visited", visited)});
    const Kernels& kernels = chosen_kernels();
    without_gil([&] { run_visits(p, kernels, raised); });
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.doc() = "Attention on the CPU: see falloff/ops/cpu/__init__.py.";
    m.def("instruction_sets", &instruction_sets);
#if defined(__clang__)
    m.attr("compiler") = "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
    m.attr("compiler") = "GCC " __VERSION__;
#endif
    m.def("forward", &forward, nb::arg("out"), nb::arg("lse"), nb::arg("lowered").none(), nb::arg("call"));
    m.def("visits", &visits, nb::arg("lse"), nb::arg("seen"), nb::arg("visited"), nb::arg("call"));
    m.def(
        "backward", &backward, nb::arg("grad_out"), nb::arg("grad_lse").none(), nb::arg("out"), nb::arg("lse"),
        nb::arg("lowered"), nb::arg("grad_query").none(), nb::arg("grad_key").none(), nb::arg("grad_value").none(),
        nb::arg("grad_form"), nb::arg("call")
    );
}
