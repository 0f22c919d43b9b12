#include "run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "memory.h"
#include "lower.h"
#include "threads.h"

#define FALLOFF_DECLARE(isa) \
    namespace falloff::isa { \
    extern const Kernels kernels; \
    }
#if defined(__x86_64__)
FALLOFF_DECLARE(avx2)
FALLOFF_DECLARE(avx512)
FALLOFF_DECLARE(avx512bf16)
#elif defined(__aarch64__)
FALLOFF_DECLARE(neon)
#else
FALLOFF_DECLARE(portable)
#endif

namespace falloff {
namespace {

struct Entry {
    const char* name;
    const Kernels* kernels;
};

std::vector<Entry> find_entries() {
    std::vector<Entry> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4 && __builtin_cpu_supports("avx512bf16")) found.push_back({"avx512bf16", &avx512bf16::kernels});
    if (v4) found.push_back({"avx512", &avx512::kernels});
    if (v3) found.push_back({"avx2", &avx2::kernels});
#elif defined(__aarch64__)
    found.push_back({"neon", &neon::kernels});
#else
    found.push_back({"portable", &portable::kernels});
#endif
    return found;
}

const std::vector<Entry>& entries() {
    static const std::vector<Entry> found = find_entries();
    return found;
}

void watch(Problem& p, Interrupt& interrupt) {
    p.interrupt = &interrupt;
    p.stopped = [](void* one) { return (*static_cast<Interrupt*>(one))(); };
}

// Multiply-adds of `products` products of a tile each.
double work_of(const Problem& p, int products) {
    return double(products) * p.B * p.H * p.N * p.M * p.D * (p.causal ? 0.5 : 1.0);
}

// sums (parts, size) added up in order into to[size].
template <class T>
void add_parts(const double* sums, long parts, long size, T* to) {
    for (long x = 0; x < size; x++) {
        double total = 0.0;
        for (long part = 0; part < parts; part++) total += sums[part * size + x];
        to[x] = T(total);
    }
}

// Adds up the gradients of a table that heads and chunks of keys gave, in their order.
void add_tables(const Backward& p, Side side, long Rp) {
    const Factored& f = p.factored[side];
    const long heads = p.key_chunks * p.B * p.H;
    std::vector<double> totals(f.R);
    for (long table = 0; table < f.tables; table++)
        for (long k = 0; k < f.K; k++) {
            std::fill(totals.begin(), totals.end(), 0.0);
            for (long head = table; head < heads; head += f.tables) {
                const float* sums = p.table_sums[side] + (head * f.K + k) * Rp;
                for (long r = 0; r < f.R; r++) totals[r] += sums[r];
                const double* ends = p.end_sums[side] + head * 2 * Rp;
                for (long r = 0; f.clamp && k == 0 && r < f.R; r++) totals[r] += ends[r];
                for (long r = 0; f.clamp && k == f.K - 1 && r < f.R; r++) totals[r] += ends[Rp + r];
            }
            std::copy(totals.begin(), totals.end(), p.grad_bias.table[side] + (table * f.K + k) * f.R);
        }
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Entry& entry : entries()) names.emplace_back(entry.name);
    return names;
}

const Kernels& kernels_for(const char* isa) {
    std::string names;
    for (const Entry& entry : entries()) {
        if (!isa || std::strcmp(isa, entry.name) == 0) return *entry.kernels;
        names += (names.empty() ? "" : ", ") + std::string(entry.name);
    }
    throw std::invalid_argument(
        isa ? "FALLOFF_CPU_ISA: got '" + std::string(isa) + "', expected one of " + names : "no kernels for this processor"
    );
}

void run_forward(Forward p, const Kernels& kernels, Pending pending) {
    Interrupt interrupt(pending);
    watch(p, interrupt);
    // Few rows against many keys (decoding): the keys are split, so that several threads have work. By shape alone.
    const long items = kernels.row_chunks(p), most = (p.M + 1023) / 1024;
    p.splits = std::clamp((15 + items) / items, 1L, std::max(most, 1L));
    const long partials = p.splits > 1 ? p.B * p.H * p.splits * p.N * (kernels.padded_head_size(p) + 2) : 0;
    char* lowered = nullptr;
    const CallMemory memory([&](Arena& arena) {
        lowered = arena.take<char>(p.kept ? 0 : lowered_bytes(p));
        p.partial = arena.take<float>(partials);
    });
    lower(p, p.kept ? p.kept : lowered, kernels, interrupt);
    run(kernels.forward, p, work_of(p, 2), interrupt);
    run(kernels.merge, p, partials, interrupt);
}

void run_visits(Visits p, const Kernels& kernels, Pending pending) {
    Interrupt interrupt(pending);
    watch(p, interrupt);
    char* lowered = nullptr;
    const CallMemory memory([&](Arena& arena) { lowered = arena.take<char>(lowered_bytes(p)); });
    lower(p, lowered, kernels, interrupt);
    run(kernels.visits, p, 1.0 * p.B * p.H * p.N * p.D, interrupt);
}

void run_backward(Backward p, const Kernels& kernels, Pending pending) {
    Interrupt interrupt(pending);
    watch(p, interrupt);
    restore(p, p.kept);
    const long heads = p.B * p.H, Dp = kernels.padded_head_size(p);
    // A single key head: its keys are split, by shape alone, at the cost of a second gradient of the queries.
    p.key_chunks = p.B * p.G == 1 && p.M >= 512 ? 2 : 1;
    const bool in_place = p.type == Type::float32 && p.key_chunks == 1 && Dp == p.D;
    const long parts = p.needs_form ? p.key_chunks * heads : 0;  // each with sums of its own
    const long of_strip = p.strip.on ? parts * p.strip.K : 0, of_g = p.warp.on ? parts * p.warp.K : 0;
    const long of_lines = p.warp.on ? parts * 2 * p.warp.S : 0, of_a = p.warp.on ? parts * p.N : 0;
    const CallMemory memory([&](Arena& arena) {
        p.delta = arena.take<float>(heads * p.N);
        p.query_norm = arena.take<float>(heads * p.N);
        p.log_mass = arena.take<float>(heads * p.N);
        p.query_sums = arena.take<float>(p.needs_query && !in_place ? p.key_chunks * heads * p.N * Dp : 0);
        p.strip_sums = arena.take<double>(of_strip);
        p.g_sums = arena.take<double>(of_g);
        p.line_sums = arena.take<double>(of_lines);
        p.a_sums = arena.take<double>(of_a);
        for (const Side side : {QUERY, KEY}) {
            const Factored& f = p.factored[side];
            const long Rp = kernels.padded_states(f), sums = f.on ? parts : 0;
            p.table_rows[side] = arena.take<float>(sums ? f.tables * (f.K + 2 * STRIP_PAD) * Rp : 0);
            p.table_sums[side] = arena.take<float>(sums * f.K * Rp);
            p.end_sums[side] = arena.take<double>(f.clamp ? sums * 2 * Rp : 0);
            if (side == QUERY) p.state_sums = arena.take<float>(sums * p.N * Rp);
        }
    });
    std::fill_n(p.strip_sums, of_strip, 0.0);
    std::fill_n(p.g_sums, of_g, 0.0);
    std::fill_n(p.line_sums, of_lines, 0.0);
    std::fill_n(p.a_sums, of_a, 0.0);
    if (in_place) p.query_sums = static_cast<float*>(p.grad_query);
    run(kernels.prepare_backward, p, 4.0 * heads * p.N * Dp, interrupt);
    run(kernels.backward, p, work_of(p, 5), interrupt);
    run(kernels.finish_backward, p, 2.0 * p.key_chunks * heads * p.N * Dp, interrupt);
    if (!p.needs_form) return;
    const BiasGradients& form = p.grad_bias;

    const long entries = p.key_chunks * p.B;  // parts in which each head's gradient comes
    if (p.strip.on) add_parts(p.strip_sums, entries, p.H * p.strip.K, form.strip);
    for (const Side side : {QUERY, KEY})
        if (p.factored[side].on) add_tables(p, side, kernels.padded_states(p.factored[side]));
    if (p.warp.on) {
        const long S = p.warp.S;
        add_parts(p.g_sums, entries * p.H, p.warp.K, form.g);
        std::vector<double> lines(p.H * 2 * S);
        add_parts(p.line_sums, entries, p.H * 2 * S, lines.data());
        for (long h = 0; h < p.H; h++)
            for (long s = 0; s < S; s++) {
                form.slope[h * S + s] = float(lines[(2 * h) * S + s]);
                form.intercept[h * S + s] = float(lines[(2 * h + 1) * S + s]);
            }
        if (p.warp.a_batch == 0) add_parts(p.a_sums, entries * p.H, p.N, form.a);
        else  // (key_chunks, B, H, N): sum over chunks and heads
            for (long b = 0; b < p.B; b++)
                for (long i = 0; i < p.N; i++) {
                    double total = 0.0;
                    for (long chunk = 0; chunk < p.key_chunks; chunk++)
                        for (long h = 0; h < p.H; h++) total += p.a_sums[((chunk * p.B + b) * p.H + h) * p.N + i];
                    form.a[b * p.N + i] = float(total);
                }
    }
}

}  // namespace falloff
