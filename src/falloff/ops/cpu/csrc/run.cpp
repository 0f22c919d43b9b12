#include "run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>

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

std::vector<Entry> entries() {
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

const Kernels& kernels_for(const std::string& isa) {
    for (const Entry& entry : entries())
        if (isa == entry.name) return *entry.kernels;
    throw std::invalid_argument("no kernels for " + isa);
}

// Scratch memory on a cache line's boundary.
struct Scratch {
    static constexpr std::align_val_t alignment{64};
    explicit Scratch(size_t floats) : data(static_cast<float*>(::operator new(floats * sizeof(float) + 64, alignment))) {}
    ~Scratch() { ::operator delete(data, alignment); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    float* data;
};

// Scratch that a thread keeps from call to call: for short calls, asking the system for it would take as long as the work.
// Borrowed while it is in use: a signal's handler may call attention on the same thread, in the middle of an item.
class Borrowed {
public:
    explicit Borrowed(size_t floats) : scratch(std::move(kept)), size(std::exchange(kept_size, 0)) {
        if (scratch && size >= floats) return;
        scratch = std::make_unique<Scratch>(floats);
        size = floats;
    }
    ~Borrowed() {
        if (size < kept_size) return;
        kept = std::move(scratch);
        kept_size = size;
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    float* data() const { return scratch->data; }

private:
    static thread_local std::unique_ptr<Scratch> kept;
    static thread_local size_t kept_size;
    std::unique_ptr<Scratch> scratch;
    size_t size;
};
thread_local std::unique_ptr<Scratch> Borrowed::kept;
thread_local size_t Borrowed::kept_size = 0;

// Whether a call is to be given up. The thread that called asks `pending`, every 50 ms: a short call never does, and a long
// one does not notice. The others see what it found.
class Interrupt {
public:
    explicit Interrupt(Pending pending) : pending(pending) {}

    bool operator()() {
        if (found.load(std::memory_order_relaxed)) return true;
        if (!pending || std::this_thread::get_id() != caller || Clock::now() < next) return false;
        next = Clock::now() + std::chrono::milliseconds(50);
        looked = true;
        if (pending()) found.store(true, std::memory_order_relaxed);
        return found.load(std::memory_order_relaxed);
    }

    // The caller, out of work in a long call, goes on looking while others work.
    void look_until_alone(const std::atomic<int>& working) {
        if (std::this_thread::get_id() != caller) return;
        while (looked && working.load() > 0 && !(*this)()) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }

private:
    using Clock = std::chrono::steady_clock;
    const Pending pending;
    const std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> found{false};
    // Of the caller alone.
    bool looked = false;
    Clock::time_point next = Clock::now() + std::chrono::milliseconds(50);
};

// Counts a thread that works, for as long as it does: until an exception, too.
struct Working {
    explicit Working(std::atomic<int>& count) : count(count) { count++; }
    ~Working() { count--; }
    std::atomic<int>& count;
};

// Threads take items in order, so that the first are the first to start; which thread runs which does not matter.
void run(const Work& work, const Problem& p, int threads, Interrupt& interrupt) {
    const long items = work.items(p);
    std::atomic<long> next{0};
    std::atomic<int> working{0};
    on_threads(int(std::min<long>(threads, items)), [&](int) {
        {
            const Working counted(working);
            const Borrowed scratch(work.floats(p));
            for (long item; !interrupt() && (item = next.fetch_add(1)) < items;) work.run(p, item, scratch.data());
        }
        interrupt.look_until_alone(working);
    });
    if (interrupt()) throw Interrupted();
}

void watch(Problem& p, Interrupt& interrupt) {
    p.interrupt = &interrupt;
    p.stopped = [](void* one) { return (*static_cast<Interrupt*>(one))(); };
}

// A form in the shape that kernels read, alive as long as the call.
struct Prepared {
    std::vector<float> strip, strip_max, strip_tail, distances, key_norm, key_norm_before;
    std::vector<int32_t> bends;

    Prepared(Problem& p, const Kernels& kernels, int threads, Interrupt& interrupt) {
        if (p.form == Form::strip) prepare_strip(p);
        if (p.form == Form::warp) prepare_warp(p, kernels, threads, interrupt);
        if (p.form == Form::strip && falls_far(p)) {
            prepare_bounds(p);
            key_norm.resize(p.B * p.G * key_blocks(p));
            key_norm_before.resize(key_norm.size());
            p.key_norm = key_norm.data(), p.key_norm_before = key_norm_before.data();
            run(kernels.key_norms, p, threads, interrupt);
        }
    }

    // Whether a strip may hide keys by itself, for so many rows that looking for keys to skip can pay.
    bool falls_far(const Problem& p) const {
        const auto [low, high] = std::minmax_element(strip.begin(), strip.end());
        return p.N >= 32 && p.M > 256 && !(*high - *low < 17.0f);
    }

    void prepare_strip(Problem& p) {
        p.strip_row = p.K + 2 * STRIP_PAD;
        strip.resize(p.H * p.strip_row);
        for (long h = 0; h < p.H; h++) {
            const float* values = p.values + h * p.K;
            float* to = strip.data() + h * p.strip_row;
            for (long x = 0; x < p.strip_row; x++) to[x] = values[std::clamp(p.K - 1 + STRIP_PAD - x, 0L, p.K - 1)];
        }
        p.strip = strip.data();
    }

    // The largest value of each block of a strip, and at least the log-sum-exp of all from there on. A NaN counts as infinity.
    // Tails are added up in double and rounded upwards: in float, a large bias would swallow the logarithm of a count.
    void prepare_bounds(Problem& p) {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        const long blocks = strip_blocks(p);
        strip_max.resize(p.H * blocks);
        strip_tail.resize(p.H * blocks);
        for (long h = 0; h < p.H; h++) {
            const float* values = p.values + h * p.K;
            double tail = values[p.K - 1] + std::log(double(p.M));  // the last value, as often as keys may meet it
            for (long block = blocks - 1; block >= 0; block--) {
                const long begin = block * STRIP_BLOCK, end = std::min(begin + STRIP_BLOCK, p.K);
                float most = -infinity, total = 0.0f;
                for (long k = begin; k < end; k++) most = std::isnan(values[k]) ? infinity : std::max(most, values[k]);
                for (long k = begin; k < end; k++) total += std::exp(values[k] - most);
                // Largest first; what is infinite, or not a number by way of it, stays infinite. 1e-4: `total` is rounded.
                const double sum = most + std::log(double(total)), high = std::max(sum, tail), low = std::min(sum, tail);
                const bool finite = most < infinity && high < infinity;
                tail = !finite ? infinity : high == -infinity ? high : high + std::log1p(std::exp(low - high)) + 1e-4;
                strip_max[h * blocks + block] = most;
                strip_tail[h * blocks + block] = std::nextafter(float(tail), infinity);
            }
        }
        p.strip_max = strip_max.data();
        p.strip_tail = strip_tail.data();
    }

    void prepare_warp(Problem& p, const Kernels& kernels, int threads, Interrupt& interrupt) {
        const long top = p.query_start + p.N - 1;  // the largest offset; they fall from here
        distances.resize(p.N + p.M + 2 * STRIP_PAD);
        for (long x = 0; x < long(distances.size()); x++)
            distances[x] = p.g[std::min(std::abs(top - (x - STRIP_PAD)), p.K - 1)];
        p.distances = distances.data();
        bends.resize((p.a_batch ? p.B : 1) * p.N * (p.S - 1));
        p.bends = bends.data();
        run(kernels.bends, p, threads, interrupt);
    }
};

// sums (parts, size) added up in order into to[size].
template <class T>
void add_parts(const std::vector<double>& sums, long parts, long size, T* to, long stride = 0) {
    for (long x = 0; x < size; x++) {
        double total = 0.0;
        for (long part = 0; part < parts; part++) total += sums[part * (stride ? stride : size) + x];
        to[x] = T(total);
    }
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Entry& entry : entries()) names.emplace_back(entry.name);
    return names;
}

void run_forward(Problem p, const std::string& isa, int threads, Pending pending) {
    const Kernels& kernels = kernels_for(isa);
    Interrupt interrupt(pending);
    watch(p, interrupt);
    const Prepared prepared(p, kernels, threads, interrupt);
    // Few rows against many keys (decoding): the keys are split, so that several threads have work. By shape alone.
    const long items = kernels.row_chunks(p), most = (p.M + 1023) / 1024;
    p.splits = std::clamp((15 + items) / items, 1L, std::max(most, 1L));
    std::vector<float> partial;
    if (p.splits > 1) {
        partial.resize(p.B * p.H * p.splits * p.N * (kernels.padded_head_size(p) + 2));
        p.partial = partial.data();
    }
    run(kernels.forward, p, threads, interrupt);
    run(kernels.merge, p, threads, interrupt);
}

void run_backward(
    Problem p, const FormGradients& form, const std::string& isa, int threads, Pending pending
) {
    const Kernels& kernels = kernels_for(isa);
    Interrupt interrupt(pending);
    watch(p, interrupt);
    const Prepared prepared(p, kernels, threads, interrupt);
    const long heads = p.B * p.H, Dp = kernels.padded_head_size(p);
    std::vector<float> delta(heads * p.N), query_norm(heads * p.N), reached(heads * p.N);
    p.delta = delta.data();
    p.query_norm = query_norm.data();
    p.reached = reached.data();
    run(kernels.prepare_backward, p, threads, interrupt);

    // A single key head: its keys are split, by shape alone, at the cost of a second gradient of the queries.
    p.key_chunks = p.B * p.G == 1 && p.M >= 512 ? 2 : 1;
    std::unique_ptr<Scratch> grad_query;
    const bool in_place = p.type == Type::float32 && p.key_chunks == 1 && Dp == p.D;
    if (p.needs_query && in_place) p.grad_query = static_cast<float*>(p.grad_query_out);
    if (p.needs_query && !in_place) {
        grad_query = std::make_unique<Scratch>(p.key_chunks * heads * p.N * Dp);
        p.grad_query = grad_query->data;
    }
    std::vector<double> grad_strip, grad_lines, grad_a;
    if (p.needs_form && p.form != Form::band) grad_strip.resize(p.key_chunks * heads * p.K);
    if (p.needs_form && p.form == Form::warp) {
        grad_lines.resize(p.key_chunks * heads * 2 * p.S);
        grad_a.resize(p.key_chunks * heads * p.N);
    }
    p.grad_strip = grad_strip.data();
    p.grad_lines = grad_lines.data();
    p.grad_a = grad_a.data();
    p.grad_band = form.values;
    run(kernels.backward, p, threads, interrupt);
    run(kernels.finish_backward, p, threads, interrupt);
    if (!p.needs_form) return;

    const long entries = p.key_chunks * p.B;  // parts in which each head's gradient comes
    if (p.form == Form::strip) add_parts(grad_strip, entries, p.H * p.K, form.values);
    if (p.form == Form::warp) {
        add_parts(grad_strip, entries * p.H, p.K, form.g);
        std::vector<double> lines(p.H * 2 * p.S);
        add_parts(grad_lines, entries, p.H * 2 * p.S, lines.data());
        for (long h = 0; h < p.H; h++)
            for (long s = 0; s < p.S; s++) {
                form.slope[h * p.S + s] = float(lines[(2 * h) * p.S + s]);
                form.intercept[h * p.S + s] = float(lines[(2 * h + 1) * p.S + s]);
            }
        if (p.a_batch == 0) add_parts(grad_a, entries * p.H, p.N, form.a);
        else  // (key_chunks, B, H, N): sum over chunks and heads
            for (long b = 0; b < p.B; b++)
                for (long i = 0; i < p.N; i++) {
                    double total = 0.0;
                    for (long chunk = 0; chunk < p.key_chunks; chunk++)
                        for (long h = 0; h < p.H; h++) total += grad_a[((chunk * p.B + b) * p.H + h) * p.N + i];
                    form.a[b * p.N + i] = float(total);
                }
    }
}

double fma_peak(const std::string& isa, int threads) {
    using Clock = std::chrono::steady_clock;
    const Kernels& kernels = kernels_for(isa);
    double best = 0.0;
    for (int turn = 0; turn < 8; turn++) {
        std::vector<double> operations(threads);
        const auto start = Clock::now();
        on_threads(threads, [&](int thread) {
            float sink[3] = {0.999f, 1e-3f, 0.0f};
            operations[thread] = kernels.multiply_and_add(1000000, sink);
        });
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        double total = 0.0;
        for (const double one : operations) total += one;
        best = std::max(best, total / seconds / 1e9);
    }
    return best;
}

}  // namespace falloff
