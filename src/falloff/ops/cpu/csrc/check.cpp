#include "check.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "lower.h"

namespace falloff {
namespace {

// More numbers than memory can hold. Sizes below it, and positions below FARTHEST (offsets.py's bound too), leave all index
// arithmetic within 64 bits.
constexpr int64_t MOST = 1LL << 48, FARTHEST = 1LL << 60;
constexpr int64_t MOST_THREADS = 4096;

// Sizes of a call: those of an initializer list, or of a tensor.
using Sizes = std::initializer_list<int64_t>;

std::string show(const int64_t* sizes, size_t count) {
    std::string text = "(";
    for (size_t d = 0; d < count; d++) text += (d ? ", " : "") + std::to_string(sizes[d]);
    return text + ")";
}
std::string shape_of(const Tensor& t) { return "shape " + show(t.shape, t.ndim); }

[[noreturn]] void refuse(const std::string& name, const std::string& got, const std::string& expected) {
    throw std::invalid_argument(name + ": got " + got + ", expected " + expected);
}

const char* name_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return "float32";
        case Dtype::bfloat16: return "bfloat16";
        case Dtype::boolean: return "bool";
        case Dtype::uint8: return "uint8";
        case Dtype::int8: return "int8";
        case Dtype::int16: return "int16";
        case Dtype::int32: return "int32";
        case Dtype::int64: return "int64";
        case Dtype::other: break;
    }
    return "another dtype";
}

void check_dimensions(const char* name, const Tensor& t, int ndim) {
    if (t.ndim != ndim) refuse(name, std::to_string(t.ndim) + " dimensions", std::to_string(ndim));
}

// The product of sizes. Refuses one above MOST.
int64_t count(const char* name, const int64_t* sizes, size_t ndim) {
    __int128 product = 1;
    for (size_t d = 0; d < ndim; d++) {
        product *= sizes[d];
        if (sizes[d] < 0 || sizes[d] > MOST || product > MOST)
            refuse(name, "sizes " + show(sizes, ndim), "at most 2^48 numbers");
    }
    return int64_t(product);
}
int64_t count(const char* name, Sizes sizes) { return count(name, sizes.begin(), sizes.size()); }

enum class Layout { contiguous, rows, any };  // rows: the last dimension is contiguous

// Refuses a tensor of another dtype, shape or layout, or whose storage ends before its last number.
void check(
    const char* name, const Tensor& t, Dtype dtype, const int64_t* shape, size_t ndim, Layout layout = Layout::contiguous
) {
    if (t.dtype != dtype) refuse(name, name_of(t.dtype), name_of(dtype));
    if (size_t(t.ndim) != ndim || !std::equal(shape, shape + ndim, t.shape)) refuse(name, shape_of(t), show(shape, ndim));
    if (count(name, shape, ndim) == 0) return;
    __int128 last = 0;  // the place of the last element
    int64_t contiguous = 1;
    for (int d = t.ndim - 1; d >= 0; d--) {
        if (t.shape[d] == 1) continue;
        const bool exact = layout == Layout::contiguous || (layout == Layout::rows && d == t.ndim - 1);
        if (!(exact ? t.strides[d] == contiguous : t.strides[d] >= 0))
            refuse(name, "strides " + show(t.strides, t.ndim), exact ? "contiguous numbers" : "none below 0");
        last += __int128(t.shape[d] - 1) * t.strides[d];
        contiguous *= t.shape[d];
    }
    if (last >= std::min(t.length, FARTHEST))
        refuse(
            name, "a storage with " + std::to_string(std::max<int64_t>(t.length, 0)) + " numbers for this tensor",
            "one that reaches as far as " + shape_of(t) + " and strides " + show(t.strides, t.ndim) + " need"
        );
    if (!t.data) refuse(name, "a tensor without memory", "one with memory");
}

void check(const char* name, const Tensor& t, Dtype dtype, Sizes shape, Layout layout = Layout::contiguous) {
    check(name, t, dtype, shape.begin(), shape.size(), layout);
}

// A tensor (.., .., .., D) as kernels take it.
template <class T>
T rows_of(const Tensor& t) {
    return {t.data, long(t.strides[0]), long(t.strides[1]), long(t.strides[2])};
}

template <class T = float>
T* data_of(const Tensor& t) {
    return static_cast<T*>(t.data);
}

Dtype dtype_of(const Problem& p) { return p.type == Type::float32 ? Dtype::float32 : Dtype::bfloat16; }

void check_position(const char* name, int64_t position) {
    if (position < -FARTHEST || position > FARTHEST) refuse(name, std::to_string(position), "a position within 2^60");
}

void add_sizes(Problem& p, const Arguments& in) {
    check_dimensions("query", in.query, 4);
    check_dimensions("key", in.key, 4);
    if (in.query.dtype != Dtype::float32 && in.query.dtype != Dtype::bfloat16)
        refuse("query", name_of(in.query.dtype), "float32 or bfloat16");
    p.type = in.query.dtype == Dtype::float32 ? Type::float32 : Type::bfloat16;
    p.B = in.query.shape[0], p.H = in.query.shape[1], p.N = in.query.shape[2], p.D = in.query.shape[3];
    p.G = in.key.shape[1], p.M = in.key.shape[2];
    if (p.B < 1 || p.H < 1 || p.N < 1) refuse("query", shape_of(in.query), "at least one batch entry, head and row");
    if (p.D < 1 || p.D > MOST_HEAD_SIZE) refuse("query", shape_of(in.query), "a head size D of 1 .. 256");
    if (p.G < 1 || p.H % p.G) refuse("key", shape_of(in.key), "a number of heads that divides query's " + std::to_string(p.H));
    count("query", {p.B, p.H, p.N, 2 * MOST_HEAD_SIZE});  // what is kept of rows, for two chunks of keys
    check("query", in.query, in.query.dtype, {p.B, p.H, p.N, p.D}, Layout::rows);
    check("key", in.key, in.query.dtype, {p.B, p.G, p.M, p.D}, Layout::rows);
    check("value", in.value, in.query.dtype, {p.B, p.G, p.M, p.D}, Layout::rows);
    p.query = rows_of<Rows>(in.query), p.key = rows_of<Rows>(in.key), p.value = rows_of<Rows>(in.value);
}

void add_masks(Problem& p, const Arguments& in) {
    auto ids = [](const Tensor& t) { return Ids{t.data, size_of(t.dtype), long(t.strides[0]), long(t.strides[1])}; };
    if (in.key_mask) {
        check("key_mask", *in.key_mask, Dtype::boolean, {p.B, p.M}, Layout::any);
        p.key_mask = ids(*in.key_mask);
    }
    if (in.document_ids) {
        const Dtype dtype = in.document_ids->dtype;
        if (p.N != p.M)
            refuse("document_ids", std::to_string(p.N) + " queries and " + std::to_string(p.M) + " keys", "as many queries as keys");
        const bool integers = dtype != Dtype::float32 && dtype != Dtype::bfloat16 && dtype != Dtype::boolean;
        check("document_ids", *in.document_ids, integers && dtype != Dtype::other ? dtype : Dtype::int64, {p.B, p.N}, Layout::any);
        p.documents = ids(*in.document_ids);
    }
    if (p.key_mask.bytes || p.documents.bytes) count("key_mask", {p.B, p.M, 2});
}

void add_dropout(Problem& p, const Arguments& in) {
    if (!(in.dropout_p >= 0.0 && in.dropout_p <= 1.0)) refuse("dropout_p", std::to_string(in.dropout_p), "a probability");
    if (!in.seed && in.dropout_p > 0.0) refuse("seed", "none", "one where dropout_p is above 0");
    if (!in.seed) return;
    const uint64_t bits = uint64_t(*in.seed);
    p.dropout = {
        true, uint32_t(bits), uint32_t(bits >> 32), uint64_t(std::nearbyint(in.dropout_p * 4294967296.0)),
        in.dropout_p < 1.0 ? float(1.0 / (1.0 - in.dropout_p)) : 1.0f
    };
}

// A part of a form: its tensors and numbers, and what it is called where there is something to refuse.
struct Part {
    std::string kind;
    std::vector<Tensor> tensors;
    std::vector<int64_t> numbers;

    const Tensor& tensor(size_t index, const char* name, int ndim) const {
        check_dimensions(name, tensors[index], ndim);
        return tensors[index];
    }
};

constexpr struct {
    const char* kind;
    size_t tensors, numbers;
} PARTS[] = {{"strip", 1, 1}, {"band", 1, 0}, {"warp", 5, 1}, {"factored", 2, 3}, {"potential", 2, 0}};

// Cuts tensors and numbers into parts, each as many as its kind has.
std::vector<Part> parts_of(const Arguments& in) {
    std::vector<Part> parts;
    size_t tensors = 0, numbers = 0;
    for (size_t begin = 0; !in.form.empty() && begin <= in.form.size();) {
        const size_t end = std::min(in.form.find('+', begin), in.form.size());
        const std::string kind = in.form.substr(begin, end - begin);
        const auto* known = std::find_if(std::begin(PARTS), std::end(PARTS), [&](const auto& one) { return one.kind == kind; });
        if (known == std::end(PARTS))
            refuse("form", "'" + in.form + "'", "kinds joined by '+': strip, band, warp, factored, potential");
        parts.push_back({kind, {}, {}});
        for (size_t end_of = tensors + known->tensors; tensors < end_of; tensors++)
            if (tensors < in.form_tensors.size()) parts.back().tensors.push_back(in.form_tensors[tensors]);
        for (size_t end_of = numbers + known->numbers; numbers < end_of; numbers++)
            if (numbers < in.form_numbers.size()) parts.back().numbers.push_back(in.form_numbers[numbers]);
        begin = end + 1;
    }
    if (tensors != in.form_tensors.size())
        refuse("form_tensors", std::to_string(in.form_tensors.size()), std::to_string(tensors));
    if (numbers != in.form_numbers.size())
        refuse("form_numbers", std::to_string(in.form_numbers.size()), std::to_string(numbers));
    return parts;
}

// A warp's `a`: one for all batch entries, or one each.
void check_a(const char* name, const Problem& p, const Tensor& a) {
    if (a.ndim == 2) check(name, a, Dtype::float32, {p.B, p.N});
    else check(name, a, Dtype::float32, {p.N});
}

void add_strip(Problem& p, const Part& part) {
    const Tensor& values = part.tensor(0, "values", 2);
    check_position("start", part.numbers[0]);
    const long K = values.shape[1];
    if (K < 1) refuse("values", shape_of(values), "at least one offset");
    count("values", {p.B, p.H, K, 2});  // its gradient, for two chunks of keys
    check("values", values, Dtype::float32, {p.H, K});
    p.strip = {true, data_of(values), K, part.numbers[0]};
}

void add_band(Problem& p, const Part& part) {
    const Tensor& values = part.tensor(0, "values", 4);
    const long E = values.shape[3];
    if (E < 1) refuse("values", shape_of(values), "at least one offset");
    check("values", values, Dtype::float32, {p.B, p.H, p.N, E});
    p.band = {true, data_of(values), E};
}

void add_warp(Problem& p, const Part& part) {
    const Tensor &g = part.tensor(0, "g", 1), &a = part.tensors[1];
    const Tensor &knots = part.tensor(2, "knots", 1), &slope = part.tensor(3, "slope", 2), &intercept = part.tensors[4];
    const long K = g.shape[0], S = slope.shape[1];
    if (K < 1 || K >= INT32_MAX) refuse("g", shape_of(g), "1 .. 2^31 - 2 distances");
    if (S < 1 || S > 1 << 20) refuse("slope", shape_of(slope), "1 .. 2^20 segments");
    count("g", {p.B, p.H, K, 2}), count("slope", {p.B, p.H, S, 4}), count("a", {p.B, p.N, S});
    check("g", g, Dtype::float32, {K});
    check_a("a", p, a);
    check("knots", knots, Dtype::float32, {S - 1});
    check("slope", slope, Dtype::float32, {p.H, S});
    check("intercept", intercept, Dtype::float32, {p.H, S});
    const long a_batch = a.ndim == 2 ? p.N : 0;
    p.warp = {true, data_of(g), data_of(a), data_of(knots), data_of(slope), data_of(intercept), K, a_batch, int(S)};
}

Side side_of(const Part& part) {
    for (const size_t number : {1, 2})
        if (part.numbers[number] != 0 && part.numbers[number] != 1)
            refuse(number == 1 ? "outside" : "side", std::to_string(part.numbers[number]), "0 or 1");
    return part.numbers[2] == 0 ? QUERY : KEY;
}

void add_factored(Problem& p, const Part& part) {
    const Tensor &states = part.tensor(0, "states", 4), &table = part.tensor(1, "table", 3);
    const int64_t tables = table.shape[0], K = table.shape[1], R = table.shape[2];
    check_position("start", part.numbers[0]);
    if (tables != 1 && tables != p.H) refuse("table", shape_of(table), std::to_string(p.H) + " or 1 heads");
    if (K < 1 || R < 1) refuse("table", shape_of(table), "at least one offset and one number");
    count("table", {tables, K, R});
    // What is kept of it, padded, for two chunks of keys.
    const int64_t length = side_of(part) == QUERY ? p.N : p.M;
    count("table", {p.B, p.H, K + 3 * STRIP_PAD, R + 64, 2}), count("states", {p.B, p.H, length, R + 64, 2});
    check("table", table, Dtype::float32, {tables, K, R});
    check("states", states, Dtype::float32, {p.B, p.H, length, R}, Layout::rows);
    p.factored[side_of(part)] = {true, rows_of<Rows>(states), data_of(table), tables, K, R, part.numbers[0], part.numbers[1] == 1};
}

void add_potential(Problem& p, const Part& part) {
    count("key", {p.B, p.H, p.M, 2});
    check("row", part.tensors[0], Dtype::float32, {p.B, p.H, p.N});
    check("key", part.tensors[1], Dtype::float32, {p.B, p.H, p.M});
    p.potential = {true, data_of(part.tensors[0]), data_of(part.tensors[1])};
}

void add_form(Problem& p, const Arguments& in) {
    auto once = [&](bool already) {
        if (already) refuse("form", "'" + in.form + "'", "each part once");
    };
    for (const Part& part : parts_of(in)) {
        if (part.kind == "strip") once(p.strip.on), add_strip(p, part);
        if (part.kind == "band") once(p.band.on), add_band(p, part);
        if (part.kind == "warp") once(p.warp.on), add_warp(p, part);
        if (part.kind == "factored") once(p.factored[side_of(part)].on), add_factored(p, part);
        if (part.kind == "potential") once(p.potential.on), add_potential(p, part);
    }
}

// Where the gradients of the form go: tensors in the order of the form's own. They have the shapes of these, which are checked.
void add_gradients(Backward& p, const Arguments& in, const std::vector<Tensor>& grads) {
    if (grads.size() != in.form_tensors.size())
        refuse("grad_form", std::to_string(grads.size()) + " tensors", std::to_string(in.form_tensors.size()));
    for (size_t i = 0; i < grads.size(); i++) {
        const std::string name = "grad_form[" + std::to_string(i) + "]";
        check(name.c_str(), grads[i], Dtype::float32, in.form_tensors[i].shape, size_t(in.form_tensors[i].ndim));
    }
    BiasGradients& to = p.grad_bias;
    auto next = grads.begin();
    for (const Part& part : parts_of(in)) {
        if (part.kind == "strip") to.strip = data_of(next[0]);
        if (part.kind == "band") to.band = data_of(next[0]);
        if (part.kind == "warp")
            to.g = data_of(next[0]), to.a = data_of(next[1]), to.slope = data_of(next[3]), to.intercept = data_of(next[4]);
        if (part.kind == "factored") to.states[side_of(part)] = data_of(next[0]), to.table[side_of(part)] = data_of(next[1]);
        if (part.kind == "potential") to.row_potential = data_of(next[0]), to.key_potential = data_of(next[1]);
        next += part.tensors.size();
    }
}

// The memory of a lowered call. Refuses another size than lower.cpp writes.
void* lowered_of(const Problem& p, const Tensor& lowered) {
    check("lowered", lowered, Dtype::int32, {int64_t(lowered_bytes(p) / sizeof(int32_t))});
    return lowered.data;
}

}  // namespace

int size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return 4;
        case Dtype::bfloat16: return 2;
        case Dtype::int16: return 2;
        case Dtype::int32: return 4;
        case Dtype::int64: return 8;
        default: return 1;
    }
}

Problem problem_of(const Arguments& in) {
    Problem p{};
    add_sizes(p, in);
    check_position("query_start", in.query_start);
    if (in.window && *in.window < 1) refuse("window", std::to_string(*in.window), "at least 1");
    if (in.threads < 1 || in.threads > MOST_THREADS) refuse("threads", std::to_string(in.threads), "1 .. 4096");
    p.threads = in.threads, p.scale = float(in.scale), p.query_start = in.query_start, p.causal = in.causal;
    p.window = std::min(in.window.value_or(FARTHEST * 2), FARTHEST * 2);  // further than any offset
    add_masks(p, in);
    add_dropout(p, in);
    add_form(p, in);
    return p;
}

Forward forward_of(const Arguments& in, const Outputs& outputs) {
    Forward p;
    static_cast<Problem&>(p) = problem_of(in);
    check("out", outputs.out, dtype_of(p), {p.B, p.H, p.N, p.D}, Layout::rows);
    check("lse", outputs.lse, Dtype::float32, {p.B, p.H, p.N});
    p.out = rows_of<Target>(outputs.out), p.lse = data_of(outputs.lse);
    if (outputs.lowered) p.kept = lowered_of(p, *outputs.lowered);
    return p;
}

Visits visits_of(const Arguments& in, const Counts& counts) {
    Visits p;
    static_cast<Problem&>(p) = problem_of(in);
    const int64_t q_tiles = (p.N + VISIT_Q_TILE - 1) / VISIT_Q_TILE, kv_tiles = (p.M + VISIT_KV_TILE - 1) / VISIT_KV_TILE;
    check("lse", counts.lse, Dtype::float32, {p.B, p.H, p.N});
    check("seen", counts.seen, Dtype::int32, {p.B, p.H, q_tiles, kv_tiles});
    check("visited", counts.visited, Dtype::int32, {p.B, p.H, q_tiles, kv_tiles});
    p.lse = data_of(counts.lse);
    p.seen = static_cast<int32_t*>(counts.seen.data), p.visited = static_cast<int32_t*>(counts.visited.data);
    return p;
}

Backward backward_of(const Arguments& in, const Gradients& grads) {
    Backward p;
    static_cast<Problem&>(p) = problem_of(in);
    const Dtype dtype = dtype_of(p);
    check("grad_out", grads.grad_out, dtype, {p.B, p.H, p.N, p.D}, Layout::rows);
    check("out", grads.out, dtype, {p.B, p.H, p.N, p.D}, Layout::rows);
    check("lse", grads.lse, Dtype::float32, {p.B, p.H, p.N});
    p.grad_out = rows_of<Rows>(grads.grad_out), p.out = rows_of<Rows>(grads.out), p.lse = data_of(grads.lse);
    p.kept = lowered_of(p, grads.lowered);
    if (grads.grad_lse) {
        check("grad_lse", *grads.grad_lse, Dtype::float32, {p.B, p.H, p.N});
        p.grad_lse = data_of(*grads.grad_lse);
    }
    p.needs_query = grads.grad_query.has_value(), p.needs_key = grads.grad_key.has_value();
    p.needs_value = grads.grad_value.has_value(), p.needs_form = !grads.grad_form.empty();
    if (p.needs_query) {
        check("grad_query", *grads.grad_query, dtype, {p.B, p.H, p.N, p.D});
        p.grad_query = grads.grad_query->data;
    }
    if (p.needs_key) {
        check("grad_key", *grads.grad_key, dtype, {p.B, p.G, p.M, p.D});
        p.grad_key = grads.grad_key->data;
    }
    if (p.needs_value) {
        check("grad_value", *grads.grad_value, dtype, {p.B, p.G, p.M, p.D});
        p.grad_value = grads.grad_value->data;
    }
    if (!p.needs_form) return p;
    add_gradients(p, in, grads.grad_form);
    return p;
}

}  // namespace falloff
