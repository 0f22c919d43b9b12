// Runs the kernels over many shapes, forms and masks, without Python: what `make sanitize` builds with the compiler's
// sanitizers. Every buffer is as long as it must be and not longer. Beside what the sanitizers watch for, results must be the
// same bits for 1 and 4 threads, and agree among the instruction sets. That they are right is what the Python tests show.
//
// Then come calls that do not fit: each of the good ones is spoilt in a place or two, and check.cpp must refuse it, or the
// kernels stay within its buffers all the same. `sanitize CASES SPOILT` says how many of each.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "lower.h"

using namespace falloff;

namespace {

std::mt19937 generator(1);

long pick(long low, long high) { return std::uniform_int_distribution<long>(low, high)(generator); }
bool coin() { return pick(0, 1) == 1; }
template <class T>
T any(std::initializer_list<T> choices) {
    return choices.begin()[pick(0, long(choices.size()) - 1)];
}

// A tensor in memory of its own, which ends with the tensor's last number.
struct Owned {
    Dtype dtype;
    std::vector<int64_t> shape, strides;
    int64_t length;  // elements
    std::unique_ptr<char[]> memory;

    Owned(Dtype type, std::vector<int64_t> sizes, long gap = 0) : dtype(type), shape(sizes), strides(sizes.size()) {
        make_contiguous(gap);
        length = 1;
        for (size_t d = 0; d < shape.size(); d++) length = shape[d] == 0 ? 0 : length + (shape[d] - 1) * strides[d] * (length > 0);
        memory.reset(new char[bytes()]());
    }
    void make_contiguous(long gap = 0) {  // but for a gap after each row
        int64_t stride = 1;
        for (size_t d = shape.size(); d-- > 0; stride = stride * shape[d] + (d + 1 == shape.size() ? gap : 0)) strides[d] = stride;
    }
    long size() const { return size_of(dtype); }
    size_t bytes() const { return length * size(); }
    void set(long at, float value) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (dtype == Dtype::bfloat16) bits >>= 16;
        std::memcpy(memory.get() + at * size(), &bits, std::min<long>(size(), sizeof bits));
    }
    int32_t count(long at) const {
        int32_t number;
        std::memcpy(&number, memory.get() + at * sizeof number, sizeof number);
        return number;
    }
    float get(long at) const {
        uint32_t bits = 0;
        std::memcpy(&bits, memory.get() + at * size(), size());
        if (dtype == Dtype::bfloat16) bits <<= 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    template <class Make>
    Owned& fill(Make make) {
        for (long at = 0; at < length; at++) set(at, make(at));
        return *this;
    }
    Owned& fill_integers(long low, long high) {
        for (long at = 0; at < length; at++) {
            const int64_t number = pick(low, high);
            std::memcpy(memory.get() + at * size(), &number, size());
        }
        return *this;
    }
    Tensor tensor() const { return {memory.get(), dtype, int(shape.size()), shape.data(), strides.data(), length}; }
};

float normal(long) { return std::normal_distribution<float>()(generator); }

struct Case {
    Arguments in;
    std::vector<Owned> all;  // in the order of Part; what a call does not have is not given to it
    enum Part { QUERY, KEY, VALUE, KEY_MASK, DOCUMENTS, LOWERED, GRAD_OUT, GRAD_LSE, OUT, LSE, GRAD_QUERY, GRAD_KEY, GRAD_VALUE, FORM };
    static constexpr int PARTS = 6;
    size_t form_tensors = 0;  // from FORM on, and as many gradients behind them
    bool mask, documents, back_for_lse;

    Case(int number, bool small) {
        const Dtype dtype = number % 3 == 2 ? Dtype::bfloat16 : Dtype::float32;
        const long B = pick(1, 2), G = pick(1, 2), H = G * pick(1, 2);
        const long N = pick(1, number % 5 == 0 ? 3 : small ? 20 : 130);
        const long M = number % 11 == 0 ? N : pick(1, small ? 40 : number % 7 ? 330 : 2500), D = pick(1, small ? 20 : 70);
        in.scale = 1 / std::sqrt(double(D)), in.query_start = coin() ? M - N : pick(-20, 500), in.causal = coin();
        if (coin()) in.window = pick(1, 100);
        mask = coin(), documents = N == M && coin(), back_for_lse = coin();
        all.reserve(FORM + 2 * 16);
        auto add = [&](Dtype type, std::vector<int64_t> shape, long gap = 0) -> Owned& {
            return all.emplace_back(type, shape, gap).fill(normal);
        };
        add(dtype, {B, H, N, D}, pick(0, 3)), add(dtype, {B, G, M, D}, pick(0, 3)), add(dtype, {B, G, M, D}, pick(0, 3));
        add(Dtype::boolean, {B, M}).fill_integers(0, 1);
        add(any({Dtype::uint8, Dtype::int8, Dtype::int16, Dtype::int32, Dtype::int64}), {B, N}).fill_integers(0, 2);
        add(Dtype::int32, {0});  // LOWERED, when its size is known
        add(dtype, {B, H, N, D}, pick(0, 3)), add(Dtype::float32, {B, H, N});
        add(dtype, {B, H, N, D}), add(Dtype::float32, {B, H, N});
        add(dtype, {B, H, N, D}), add(dtype, {B, G, M, D}), add(dtype, {B, G, M, D});
        if (coin()) in.seed = 5 + (7LL << 32), in.dropout_p = 0.3;
        // None, one of the parts, or a sum of some.
        bool has[PARTS] = {};
        if (number % 5 == 4) for (bool& part : has) part = coin();
        else if (number % 7) has[number % PARTS] = true;
        auto add_part = [&](const char* kind, std::vector<int64_t> numbers) {
            in.form += (in.form.empty() ? "" : "+") + std::string(kind);
            in.form_numbers.insert(in.form_numbers.end(), numbers.begin(), numbers.end());
        };
        const long falls = pick(0, 1);  // where a bias falls, keys are skipped
        if (has[0]) {
            const long K = pick(1, small ? 60 : 700);
            add_part("strip", {pick(-300, 300)});
            add(Dtype::float32, {H, K}).fill([&](long x) { return normal(x) - float(falls * (x % K)); });
        }
        if (has[1]) add_part("band", {}), add(Dtype::float32, {B, H, N, pick(1, small ? 30 : 200)});
        if (has[2]) {
            const long S = pick(1, 9);
            add_part("warp", {1});
            add(Dtype::float32, {pick(1, 300)}).fill([](long n) { return 0.03f * float(n); });
            add(Dtype::float32, coin() ? std::vector<int64_t>{B, N} : std::vector<int64_t>{N})
                .fill([](long) { return float(pick(1, 100)) / 100; });
            add(Dtype::float32, {S - 1}).fill([](long s) { return 0.3f * float(s); });
            add(Dtype::float32, {H, S}), add(Dtype::float32, {H, S});
        }
        for (const int64_t side : {0, 1})
            if (has[3 + side]) {
                const long R = pick(1, 20);
                add_part("factored", {pick(-300, 300), pick(0, 1), side});
                add(Dtype::float32, {B, H, side ? M : N, R}, pick(0, 3)), add(Dtype::float32, {coin() ? H : 1, pick(1, small ? 60 : 700), R});
            }
        if (has[5]) {
            add_part("potential", {}), add(Dtype::float32, {B, H, N});
            add(Dtype::float32, {B, H, M}).fill([&](long x) { return normal(x) + float(falls * (x % M)); });
        }
        form_tensors = all.size() - FORM;
        for (size_t t = 0; t < form_tensors; t++) add(Dtype::float32, all[FORM + t].shape);
        give(1);
        all[LOWERED] = Owned(Dtype::int32, {int64_t(lowered_bytes(problem_of(in)) / sizeof(float))});
    }

    std::vector<Tensor> tensors(size_t from) const {
        std::vector<Tensor> some;
        for (size_t t = from; t < from + form_tensors && t < all.size(); t++) some.push_back(all[t].tensor());
        return some;
    }

    void give(int threads) {
        in.query = all[QUERY].tensor(), in.key = all[KEY].tensor(), in.value = all[VALUE].tensor();
        if (mask) in.key_mask = all[KEY_MASK].tensor();
        if (documents) in.document_ids = all[DOCUMENTS].tensor();
        in.form_tensors = tensors(FORM), in.threads = threads;
    }

    // Forward and backward. Throws what check.cpp does. Between them `spoil_lowered` may write anything to the lowered call.
    template <class Spoil>
    void run(const Kernels& kernels, int threads, Spoil spoil_lowered) {
        give(threads);
        run_forward(forward_of(in, {all[OUT].tensor(), all[LSE].tensor(), all[LOWERED].tensor()}), kernels);
        count_visits(kernels);
        spoil_lowered(all[LOWERED]);
        Gradients grads{all[GRAD_OUT].tensor(), all[OUT].tensor(), all[LSE].tensor(), all[LOWERED].tensor(), std::nullopt,
                        all[GRAD_QUERY].tensor(), all[GRAD_KEY].tensor(), all[GRAD_VALUE].tensor(), tensors(FORM + form_tensors)};
        if (back_for_lse) grads.grad_lse = all[GRAD_LSE].tensor();
        run_backward(backward_of(in, grads), kernels);
    }

    // Keys seen and visited. Memory for one count less than there are is refused.
    void count_visits(const Kernels& kernels) {
        const Tensor &query = all[QUERY].tensor(), &key = all[KEY].tensor();
        auto tiles = [](int64_t count, long size) { return (count + size - 1) / size; };
        const std::vector<int64_t> shape{
            query.shape[0], query.shape[1], tiles(query.shape[2], VISIT_Q_TILE), tiles(key.shape[2], VISIT_KV_TILE)
        };
        Owned seen(Dtype::int32, shape), visited(Dtype::int32, shape);
        run_visits(visits_of(in, {all[LSE].tensor(), seen.tensor(), visited.tensor()}), kernels);
        for (long at = 0; at < visited.length; at++)
            if (seen.count(at) < visited.count(at)) throw std::logic_error("more keys visited than seen");
        if (seen.length-- == 0) return;
        try {
            visits_of(in, {all[LSE].tensor(), seen.tensor(), visited.tensor()});
        } catch (const std::invalid_argument&) {
            return;
        }
        throw std::logic_error("counts beyond their memory");
    }

    // Everything that forward and backward give, one after another.
    std::vector<float> results(const std::string& isa, int threads) {
        run(kernels_for(isa.c_str()), threads, [](Owned&) {});
        std::vector<float> numbers;
        for (size_t t = OUT; t < all.size(); t++)
            for (long at = 0; (t < FORM || t >= FORM + form_tensors) && at < all[t].length; at++) numbers.push_back(all[t].get(at));
        return numbers;
    }

    void spoil() {
        Owned& one = all[pick(0, long(all.size()) - 1)];
        const size_t d = one.shape.empty() ? 0 : size_t(pick(0, long(one.shape.size()) - 1));
        for (const auto* numbers : {&one.shape, &one.strides})
            for (const int64_t x : *numbers) if (x < 0 || x > 1 << 20) return;  // spoilt already
        const int64_t wild = any<int64_t>({0, 1, 2, 3, 5, -1, 257, 1L << 31, 1L << 40, 1L << 62, INT64_MAX, INT64_MIN});
        switch (pick(0, 11)) {
            case 0: if (!one.shape.empty()) one.shape[d] += coin() ? 1 : -1; break;
            case 1: if (!one.shape.empty()) one.shape[d] = wild; break;
            case 2: if (!one.shape.empty()) one.strides[d] = coin() ? wild : one.strides[d] + (coin() ? 1 : -1); break;
            case 3:  // a size that fits its strides, and maybe its memory
                if (one.shape.empty()) break;
                one.shape[d] = pick(0, 2 * one.shape[d] + 1), one.make_contiguous();
                break;
            case 4: {  // memory that ends early, or is not there
                const int64_t left = coin() ? 0 : pick(0, one.length);
                std::unique_ptr<char[]> shorter(left ? new char[left * one.size()] : nullptr);
                if (left) std::memcpy(shorter.get(), one.memory.get(), left * one.size());
                one.memory = std::move(shorter), one.length = left;
                break;
            }
            case 5: one.shape.push_back(pick(0, 2)), one.strides.push_back(1); break;
            case 6: if (!one.shape.empty()) one.shape.pop_back(), one.strides.pop_back(); break;
            case 7:
                // Of two bytes a number, there are twice as many; of four, half.
                one.length = one.length * one.size();
                one.dtype = any({Dtype::float32, Dtype::bfloat16, Dtype::int32, Dtype::int64, Dtype::boolean, Dtype::other});
                one.length /= one.size();
                break;
            case 8: in.query_start = coin() ? wild : pick(-1000, 1000); break;
            case 9:
                if (!in.form_numbers.empty() && coin()) in.form_numbers[pick(0, long(in.form_numbers.size()) - 1)] = wild;
                else in.form_numbers.resize(pick(0, 9), pick(-1000, 1000));
                break;
            case 10:
                if (coin()) in.window = wild;
                else in.dropout_p = any({-1.0, 0.0, 1.0, 2.0, std::nan("")}), in.seed = wild;
                break;
            case 11:
                in.form = any<const char*>(
                    {"", "strip", "band", "warp", "potential", "factored", "factored+factored", "other", "+", "strip+",
                     "strip+strip", "band+potential"}
                );
                form_tensors = size_t(pick(0, 6));
                break;
        }
    }
};

bool same_bits(const std::vector<float>& x, const std::vector<float>& y) {
    return __builtin_memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

double furthest(const std::vector<float>& x, const std::vector<float>& y) {
    double most = 0.0, scale = 1.0;
    for (size_t i = 0; i < x.size(); i++) {
        if (x[i] == y[i]) continue;  // infinities too
        const double difference = std::abs(double(x[i]) - y[i]);
        most = std::isnan(most) || difference <= most ? most : difference;
        scale = std::max(scale, std::abs(double(x[i])));
    }
    return most / scale;
}

// Whether a spoilt call is refused; else it ran, and the sanitizers saw nothing.
bool refused(int number) {
    Case one(number, true);
    for (long places = pick(1, 2); places > 0; places--) one.spoil();
    const auto sets = instruction_sets();
    try {
        one.run(kernels_for(sets[number % sets.size()].c_str()), number % 50 ? 1 : 2, [](Owned& lowered) {
            if (pick(0, 3)) return;
            for (long at = 0; at < lowered.length; at++)
                if (pick(0, 9) == 0) lowered.set(at, any({0.0f, 1e-40f, 1e30f, -1e30f, std::nanf(""), -std::nanf(""), 3.0f}));
        });
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 120, spoilt = argc > 2 ? std::atoi(argv[2]) : 3000;
    for (int number = 0; number < cases; number++) {
        Case one(number, false);
        std::vector<float> first;
        for (const std::string& isa : instruction_sets()) {
            const std::vector<float> alone = one.results(isa, 1), together = one.results(isa, 4);
            if (first.empty()) first = alone;
            const double tolerance = one.all[Case::QUERY].dtype == Dtype::float32 ? 1e-3 : 5e-2;
            if (!same_bits(alone, together) || !(furthest(first, alone) < tolerance)) {
                std::printf("case %d, %s: results differ (%g)\n", number, isa.c_str(), furthest(first, alone));
                return 1;
            }
        }
    }
    std::printf("%d cases, the same bits for 1 and 4 threads on each of:", cases);
    for (const std::string& isa : instruction_sets()) std::printf(" %s", isa.c_str());
    int refusals = 0;
    for (int number = 0; number < spoilt; number++) refusals += refused(number);
    std::printf("\n%d spoilt calls: %d refused, %d ran within their buffers\n", spoilt, refusals, spoilt - refusals);
}
