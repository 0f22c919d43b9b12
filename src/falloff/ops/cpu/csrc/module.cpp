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

// Tensors that were read, for as long as a Problem is made of them: a Tensor points to the sizes in here.
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
    std::vector<Tensor> all(const char* name, const nb::list& objects) {
        std::vector<Tensor> tensors;
        for (nb::handle object : objects) tensors.push_back((*this)(name, object));
        return tensors;
    }

private:
    static constexpr size_t MOST = 32;
    std::vector<TorchTensor> read;
};

// The arguments that make a Problem.
struct Call {
    nb::handle query, key, value;
    int threads;
    nb::list form_tensors;
    nb::object key_mask, document_ids;
    std::optional<int64_t> seed;
    std::string form_kind;
    int64_t form_start;
    bool causal;
    double scale;
    int64_t query_start;
    std::optional<int64_t> window;
    double dropout_p;

    Problem problem(Reader& read) const {
        return problem_of(
            {read("query", query), read("key", key), read("value", value), scale, query_start, causal, window,
             read.maybe("key_mask", key_mask), read.maybe("document_ids", document_ids), seed, dropout_p, form_kind,
             read.all("form_tensors", form_tensors), form_start, threads}
        );
    }
};

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

void forward(nb::handle out, nb::handle lse, nb::handle lowered, const Call& call) {
    Reader read;
    Problem p = call.problem(read);
    void* kept = add_outputs(p, {read("out", out), read("lse", lse), read.maybe("lowered", lowered)});
    const Kernels& kernels = chosen_kernels();
    without_gil([&] { run_forward(p, kernels, call.threads, kept, raised); });
}

void backward(
    nb::handle grad_out, nb::handle grad_lse, nb::handle out, nb::handle lse, nb::handle lowered, nb::handle grad_query,
    nb::handle grad_key, nb::handle grad_value, const nb::list& grad_form, const Call& call
) {
    Reader read;
    Problem p = call.problem(read);
    FormGradients form;
    void* kept = add_gradients(
        p,
        {read("grad_out", grad_out), read("out", out), read("lse", lse), read("lowered", lowered),
         read.maybe("grad_lse", grad_lse), read.maybe("grad_query", grad_query), read.maybe("grad_key", grad_key),
         read.maybe("grad_value", grad_value), read.all("grad_form", grad_form)},
        form
    );
    const Kernels& kernels = chosen_kernels();
    without_gil([&] { run_backward(p, form, kernels, call.threads, kept, raised); });
}

}  // namespace

// After what is of the direction come the arguments of Call, in its order.
#define FALLOFF_CALL \
    nb::handle query, nb::handle key, nb::handle value, int threads, nb::list form_tensors, nb::object key_mask, \
        nb::object document_ids, std::optional<int64_t> seed, std::string form_kind, int64_t form_start, bool causal, \
        double scale, int64_t query_start, std::optional<int64_t> window, double dropout_p
#define FALLOFF_AS_CALL \
    Call { \
        query, key, value, threads, form_tensors, key_mask, document_ids, seed, form_kind, form_start, causal, scale, \
            query_start, window, dropout_p \
    }
#define FALLOFF_NAMES \
    nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("threads"), nb::arg("form_tensors"), \
        nb::arg("key_mask").none(), nb::arg("document_ids").none(), nb::arg("seed").none(), nb::arg("form_kind"), \
        nb::arg("form_start"), nb::arg("causal"), nb::arg("scale"), nb::arg("query_start"), nb::arg("window").none(), \
        nb::arg("dropout_p")

NB_MODULE(_kernels, m) {
    m.doc() = "Attention on the CPU: see falloff/ops/cpu/__init__.py.";
    m.def("instruction_sets", &instruction_sets);
#if defined(__clang__)
    m.attr("compiler") = "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
    m.attr("compiler") = "GCC " __VERSION__;
#endif
    m.def(
        "forward",
        [](nb::object out, nb::object lse, nb::object lowered, FALLOFF_CALL) {
            forward(out, lse, lowered, FALLOFF_AS_CALL);
        },
        nb::arg("out"), nb::arg("lse"), nb::arg("lowered").none(), FALLOFF_NAMES
    );
    m.def(
        "backward",
        [](nb::object grad_out, nb::object grad_lse, nb::object out, nb::object lse, nb::object lowered,
           nb::object grad_query, nb::object grad_key, nb::object grad_value, nb::list grad_form, FALLOFF_CALL) {
            backward(grad_out, grad_lse, out, lse, lowered, grad_query, grad_key, grad_value, grad_form, FALLOFF_AS_CALL);
        },
        nb::arg("grad_out"), nb::arg("grad_lse").none(), nb::arg("out"), nb::arg("lse"), nb::arg("lowered"),
        nb::arg("grad_query").none(), nb::arg("grad_key").none(), nb::arg("grad_value").none(), nb::arg("grad_form"),
        FALLOFF_NAMES
    );
}
