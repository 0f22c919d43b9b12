// The Python module `falloff.bench._peak`: built in an editable install, not part of a wheel.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../ops/cpu/csrc/threads.h"

// Declares the function of peak.cpp, which is compiled once per instruction set.
#define FALLOFF_DECLARE(isa) \
    namespace falloff::isa { \
    double multiply_and_add(long steps, float* sink); \
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

namespace nb = nanobind;

namespace {

using Work = double (*)(long steps, float* sink);

Work work_for(const std::string& isa) {
#if defined(__x86_64__)
    if (isa == "avx2") return falloff::avx2::multiply_and_add;
    if (isa == "avx512") return falloff::avx512::multiply_and_add;
    if (isa == "avx512bf16") return falloff::avx512bf16::multiply_and_add;
#elif defined(__aarch64__)
    if (isa == "neon") return falloff::neon::multiply_and_add;
#else
    if (isa == "portable") return falloff::portable::multiply_and_add;
#endif
    throw std::invalid_argument("isa: got '" + isa + "', expected one of _kernels.instruction_sets()");
}

// 10^9 float operations per second: the best of several turns of multiply-adds in registers, on all threads at once.
double fma_peak(const std::string& isa, int threads) {
    using Clock = std::chrono::steady_clock;
    const Work work = work_for(isa);
    double best = 0.0;
    for (int turn = 0; turn < 8; turn++) {
        std::vector<double> operations(threads);
        const auto start = Clock::now();
        falloff::on_threads(threads, [&](int thread) {
            float sink[3] = {0.999f, 1e-3f, 0.0f};
            operations[thread] = work(1000000, sink);
        });
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        double total = 0.0;
        for (const double one : operations) total += one;
        best = std::max(best, total / seconds / 1e9);
    }
    return best;
}

}  // namespace

NB_MODULE(_peak, m) {
    m.doc() = "The peak of the processor: see falloff/bench/peak.py.";
    m.def("fma_peak", &fma_peak, nb::arg("isa"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
}
