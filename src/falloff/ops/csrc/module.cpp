// The Python module `falloff.ops._cpu`. Tensors come through DLPack; nothing here knows torch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "run.h"

namespace nb = nanobind;
using namespace falloff;

namespace {

using Tensor = nb::ndarray<nb::device::cpu>;

float* floats(const Tensor& t) { return static_cast<float*>(t.data()); }

Rows rows_of(const Tensor& t) { return {t.data(), t.stride(0), t.stride(1), t.stride(2)}; }

struct Call {
    Problem problem{};
    std::string isa;
    int threads;
    std::vector<Tensor> alive;  // what the problem points into

    Call(
        const Tensor& query, const Tensor& key, const Tensor& value, double scale, long query_start, bool causal,
        std::optional<long> window, const std::optional<Tensor>& row_labels, const std::optional<Tensor>& key_labels,
        std::optional<int64_t> seed, double dropout_p, const std::string& form, const std::vector<Tensor>& form_tensors,
        long form_start, std::string isa, int threads
    )
        : isa(std::move(isa)), threads(threads), alive{query, key, value} {
        Problem& p = problem;
        p.B = long(query.shape(0)), p.H = long(query.shape(1)), p.N = long(query.shape(2)), p.D = long(query.shape(3));
        p.G = long(key.shape(1)), p.M = long(key.shape(2));
        p.type = query.dtype() == nb::dtype<float>() ? Type::float32 : Type::bfloat16;
        p.query = rows_of(query), p.key = rows_of(key), p.value = rows_of(value);
        p.scale = float(scale), p.query_start = query_start, p.causal = causal;
        p.window = window.value_or(1L << 61);
        if (row_labels) {
            p.row_labels = static_cast<const int32_t*>(row_labels->data());
            p.key_labels = static_cast<const int32_t*>(key_labels->data());
            alive.push_back(*row_labels), alive.push_back(*key_labels);
        }
        if (seed) {
            const uint64_t bits = uint64_t(*seed);
            p.dropout = {
                true, uint32_t(bits), uint32_t(bits >> 32), uint64_t(__builtin_nearbyint(dropout_p * 4294967296.0)),
                dropout_p < 1.0 ? float(1.0 / (1.0 - dropout_p)) : 1.0f
            };
        }
        const auto& t = form_tensors;
        alive.insert(alive.end(), t.begin(), t.end());
        if (form == "strip") {
            p.form = Form::strip, p.values = floats(t[0]), p.K = long(t[0].shape(1)), p.start = form_start;
        } else if (form == "band") {
            p.form = Form::band, p.values = floats(t[0]), p.E = long(t[0].shape(3));
        } else if (form == "warp") {
            p.form = Form::warp, p.K = long(t[0].shape(0)), p.S = int(t[3].shape(1));
            p.g = floats(t[0]), p.a = floats(t[1]), p.knots = floats(t[2]), p.slope = floats(t[3]);
            p.intercept = floats(t[4]);
            p.a_batch = t[1].ndim() == 2 ? p.N : 0;
        }
    }

    void forward(const Tensor& out, const Tensor& lse) const {
        Problem p = problem;
        p.out = {out.data(), out.stride(0), out.stride(1), out.stride(2)}, p.lse = floats(lse);
        nb::gil_scoped_release unlocked;
        run_forward(p, isa, threads);
    }

    void backward(
        const Tensor& grad_out, const std::optional<Tensor>& grad_lse, const Tensor& out, const Tensor& lse,
        const std::optional<Tensor>& grad_query, const std::optional<Tensor>& grad_key,
        const std::optional<Tensor>& grad_value, const std::vector<Tensor>& grad_form
    ) const {
        Problem p = problem;
        p.grad_out = rows_of(grad_out), p.out_rows = rows_of(out), p.lse = floats(lse);
        p.grad_lse = grad_lse ? floats(*grad_lse) : nullptr;
        p.needs_query = grad_query.has_value(), p.needs_key = grad_key.has_value();
        p.needs_value = grad_value.has_value(), p.needs_form = !grad_form.empty();
        if (grad_query) p.grad_query_out = grad_query->data();
        if (grad_key) p.grad_key = grad_key->data();
        if (grad_value) p.grad_value = grad_value->data();
        FormGradients form;
        if (p.needs_form && p.form == Form::warp)
            form = {nullptr, floats(grad_form[0]), floats(grad_form[1]), floats(grad_form[3]), floats(grad_form[4])};
        else if (p.needs_form)
            form.values = floats(grad_form[0]);
        nb::gil_scoped_release unlocked;
        run_backward(p, form, isa, threads);
    }
};

}  // namespace

NB_MODULE(_cpu, m) {
    m.doc() = "Attention on the CPU: see falloff/ops/cpu.py.";
    m.def("instruction_sets", &instruction_sets);
    m.def("fma_peak", &fma_peak, nb::arg("isa"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
    nb::class_<Call>(m, "Call")
        .def(
            nb::init<
                const Tensor&, const Tensor&, const Tensor&, double, long, bool, std::optional<long>,
                const std::optional<Tensor>&, const std::optional<Tensor>&, std::optional<int64_t>, double,
                const std::string&, const std::vector<Tensor>&, long, std::string, int>(),
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
