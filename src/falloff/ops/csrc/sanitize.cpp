// Runs the kernels over many shapes, forms and masks, without Python: what `make sanitize` builds with the compiler's
// sanitizers. Every buffer is as long as it must be and not longer. Beside what the sanitizers watch for, results must be the
// same bits for 1 and 4 threads, and agree among the instruction sets. That they are right is what the Python tests show.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "run.h"

using namespace falloff;

namespace {

std::mt19937 generator(1);

long pick(long low, long high) { return std::uniform_int_distribution<long>(low, high)(generator); }
bool coin() { return pick(0, 1) == 1; }

std::vector<float> normal(long count) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(count);
    for (float& value : values) value = distribution(generator);
    return values;
}

// A tensor (B, heads, length, D) in memory that ends with its last number, with gaps between rows.
struct Input {
    std::vector<float> floats;
    std::vector<uint16_t> halves;
    Rows rows;

    Input(long B, long heads, long length, long D, Type type) {
        const long row = D + pick(0, 3), head = length * row, batch = heads * head;
        const long count = (B - 1) * batch + (heads - 1) * head + (length - 1) * row + D;
        floats = normal(count);
        rows = {floats.data(), batch, head, row};
        if (type == Type::float32) return;
        for (const float value : floats) {
            uint32_t bits;
            __builtin_memcpy(&bits, &value, sizeof bits);
            halves.push_back(uint16_t(bits >> 16));
        }
        rows.data = halves.data();
    }
};

struct Case {
    Problem p{};
    std::vector<Input> inputs;
    std::vector<float> values, g, a, knots, slope, intercept, grad_lse;
    std::vector<int32_t> row_labels, key_labels;

    explicit Case(int number) {
        p.type = number % 3 == 2 ? Type::bfloat16 : Type::float32;
        p.B = pick(1, 2), p.G = pick(1, 2), p.H = p.G * pick(1, 2);
        p.N = pick(1, number % 5 ? 130 : 3), p.M = pick(1, number % 7 ? 330 : 2500), p.D = pick(1, 70);
        p.scale = 1.0f / std::sqrt(float(p.D));
        p.query_start = coin() ? p.M - p.N : pick(-20, 500);
        p.causal = coin();
        p.window = coin() ? pick(1, 100) : 1L << 61;
        inputs.reserve(4);
        for (const long length : {p.N, p.M, p.M, p.N})
            inputs.emplace_back(p.B, length == p.N && inputs.size() % 3 == 0 ? p.H : p.G, length, p.D, p.type);
        p.query = inputs[0].rows, p.key = inputs[1].rows, p.value = inputs[2].rows, p.grad_out = inputs[3].rows;
        if (coin()) {
            for (long i = 0; i < p.B * p.N; i++) row_labels.push_back(int32_t(pick(0, 2)));
            for (long j = 0; j < p.B * p.M; j++) key_labels.push_back(int32_t(pick(-1, 2)));
            p.row_labels = row_labels.data(), p.key_labels = key_labels.data();
        }
        if (coin()) p.dropout = {true, 5, 7, uint64_t(0.3 * 4294967296.0), 1 / 0.7f};
        p.form = Form(number % 4);
        if (p.form == Form::strip) {
            p.K = pick(1, 700), p.start = pick(-300, 300);
            values = normal(p.H * p.K);
            if (coin())
                for (long x = 0; x < p.H * p.K; x++) values[x] -= float(x % p.K);  // falls, so that keys are skipped
        }
        if (p.form == Form::band) {
            p.E = pick(1, 200);
            values = normal(p.B * p.H * p.N * p.E);
        }
        p.values = values.data();
        if (p.form == Form::warp) {
            p.K = pick(1, 300), p.S = int(pick(1, 9));
            for (long n = 0; n < p.K; n++) g.push_back(float(n));
            for (long i = 0; i < p.B * p.N; i++) a.push_back(float(pick(1, 100)) / 100);
            for (long s = 0; s < p.S - 1; s++) knots.push_back(float(10 * s));
            slope = normal(p.H * p.S), intercept = normal(p.H * p.S);
            p.g = g.data(), p.a = a.data(), p.knots = knots.data(), p.slope = slope.data();
            p.intercept = intercept.data();
            p.a_batch = coin() ? p.N : 0;
        }
        grad_lse = normal(p.B * p.H * p.N);
        p.grad_lse = coin() ? grad_lse.data() : nullptr;
        p.needs_query = p.needs_key = p.needs_value = true;
        p.needs_form = p.form != Form::none;
    }

    // Everything that forward and backward give, one after another.
    std::vector<float> results(const std::string& isa, int threads) {
        const long size = p.type == Type::float32 ? sizeof(float) : sizeof(uint16_t);
        std::vector<char> out(p.B * p.H * p.N * p.D * size), grad_query(out.size());
        std::vector<char> grad_key(p.B * p.G * p.M * p.D * size), grad_value(grad_key.size());
        std::vector<float> lse(p.B * p.H * p.N), grad_form(values.size()), grad_g(g.size()), grad_a(a.size());
        std::vector<float> grad_slope(slope.size()), grad_intercept(intercept.size());
        p.out = {out.data(), p.H * p.N * p.D, p.N * p.D, p.D}, p.lse = lse.data();
        run_forward(p, isa, threads);
        p.out_rows = {out.data(), p.H * p.N * p.D, p.N * p.D, p.D};
        p.grad_query_out = grad_query.data(), p.grad_key = grad_key.data(), p.grad_value = grad_value.data();
        const FormGradients form{
            grad_form.data(), grad_g.data(), grad_a.data(), grad_slope.data(), grad_intercept.data()
        };
        run_backward(p, form, isa, threads);

        std::vector<float> all = lse;
        for (const auto* part : {&grad_form, &grad_g, &grad_a, &grad_slope, &grad_intercept})
            all.insert(all.end(), part->begin(), part->end());
        for (const auto* part : {&out, &grad_query, &grad_key, &grad_value})
            for (size_t at = 0; at < part->size(); at += size) {
                uint32_t bits = 0;
                __builtin_memcpy(reinterpret_cast<char*>(&bits) + (sizeof bits - size), part->data() + at, size);
                float value;
                __builtin_memcpy(&value, &bits, sizeof value);
                all.push_back(value);
            }
        return all;
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

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 120;
    for (int number = 0; number < cases; number++) {
        Case one(number);
        std::vector<float> first;
        for (const std::string& isa : instruction_sets()) {
            const std::vector<float> alone = one.results(isa, 1), together = one.results(isa, 4);
            if (first.empty()) first = alone;
            const double tolerance = one.p.type == Type::float32 ? 1e-3 : 5e-2;
            if (!same_bits(alone, together) || !(furthest(first, alone) < tolerance)) {
                std::printf("case %d, %s: results differ (%g)\n", number, isa.c_str(), furthest(first, alone));
                return 1;
            }
        }
    }
    std::printf("%d cases, the same bits for 1 and 4 threads on each of:", cases);
    for (const std::string& isa : instruction_sets()) std::printf(" %s", isa.c_str());
    std::printf("\n");
}
