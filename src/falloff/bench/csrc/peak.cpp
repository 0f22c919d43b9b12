// Multiply-adds in registers only. Compiled once per instruction set, as the kernels are: FALLOFF_ISA names it.
#include "../../ops/cpu/csrc/simd.h"

namespace falloff::FALLOFF_ISA {

double multiply_and_add(long steps, float* sink);

// Runs `steps` rounds of independent multiply-adds in registers. Returns the number of float operations.
double multiply_and_add(long steps, float* sink) {
    constexpr int CHAINS = W == 8 ? 12 : 24;  // enough to hide the latency, few enough to fit into registers
    Vec chains[CHAINS];
    const Vec x = broadcast(sink[0]), y = broadcast(sink[1]);
    FALLOFF_UNROLL
    for (int i = 0; i < CHAINS; i++) chains[i] = y * float(i);
    for (long step = 0; step < steps; step++) {
        FALLOFF_UNROLL
        for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * x + y;
    }
    Vec total{};
    FALLOFF_UNROLL
    for (int i = 0; i < CHAINS; i++) total += chains[i];
    sink[2] = sum(total);
    return 2.0 * W * CHAINS * double(steps);
}

}  // namespace falloff::FALLOFF_ISA
