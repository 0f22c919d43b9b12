// Vectors of float by the compiler's vector extensions: one source for AVX2, AVX-512 and NEON.
//
// This header and all that kernels.cpp includes are compiled once per instruction set, each time in a namespace of its own,
// and use nothing of the standard library that could be emitted as a function: the linker would merge such functions across
// instruction sets and might keep one that this machine cannot run.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define FALLOFF_WIDTH 16
#elif defined(__AVX2__)
#define FALLOFF_WIDTH 8
#else
#define FALLOFF_WIDTH 4
#endif

namespace falloff::FALLOFF_ISA {

constexpr int W = FALLOFF_WIDTH;  // floats in a vector

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Int __attribute__((vector_size(W * 4)));
typedef uint32_t Word __attribute__((vector_size(W * 4)));

constexpr float INF = __builtin_inff();

inline Vec load(const float* from) {  // no alignment is asked for: unaligned loads are free
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
inline Vec broadcast(float x) { return x - Vec{}; }

// Of a NaN in `a` the result is `b`; of one in `b`, it is NaN.
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline float larger(float a, float b) { return a > b ? a : b; }
inline long larger(long a, long b) { return a > b ? a : b; }
inline long smaller(long a, long b) { return a < b ? a : b; }

inline Int iota() {
    Int lanes;
    for (int i = 0; i < W; i++) lanes[i] = i;
    return lanes;
}

// Lanes i and i ^ distance change places.
inline Vec swapped(Vec v, int distance) { return __builtin_shuffle(v, iota() ^ distance); }

inline float sum(Vec v) {
#pragma GCC unroll 4
    for (int distance = W / 2; distance > 0; distance /= 2) v += swapped(v, distance);
    return v[0];
}

inline float largest(Vec v) {
#pragma GCC unroll 4
    for (int distance = W / 2; distance > 0; distance /= 2) v = larger(swapped(v, distance), v);
    return v[0];
}

inline Vec reversed(Vec v) {
    return __builtin_shuffle(v, W - 1 - iota());
}

// e^x, to a relative error of 1.6e-7 + 1.3e-8 |x|, for x from -87.6 to 88; below that it falls to 0, which it is from -88 on; NaN
// for NaN. x = (n + f) * ln 2 with |f| <= 1/2; 2^f is a polynomial (degree 5, relative error below 9.2e-8, 1 at 0, by Estrin's
// scheme: shorter chains than Horner's), and 2^n is built from n in the exponent's bits: adding `shifter` rounds to an integer
// and leaves n + 127 in the lowest bits of the sum. At -88 that is 0, and so is what it builds.
inline Vec exp(Vec x) {
    const float log2_e = 1.44269504f, shifter = 12582912.0f + 127.0f;  // 1.5 * 2^23: there floats are the integers
    x = larger(broadcast(-88.0f), x);
    const Vec shifted = x * log2_e + shifter;
    const Vec f = x * log2_e - (shifted - shifter);
    const Vec f2 = f * f;
    const Vec high = f * 1.32647272e-3f + 9.67151269e-3f;
    const Vec middle = f * 5.55073374e-2f + 2.40222421e-1f + f2 * high;
    const Vec p = f * 6.93146978e-1f + 1.0f + f2 * middle;
    Int exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent <<= 23;
    Vec power;
    std::memcpy(&power, &exponent, sizeof power);
    return p * power;
}
inline float exp(float x) { return exp(broadcast(x))[0]; }

// W x W floats, transposed in registers: at each step blocks of `step` x `step` change places.
inline void transpose(Vec (&rows)[W]) {
#pragma GCC unroll 4
    for (int step = W / 2; step > 0; step /= 2) {
        Int low, high;
        for (int i = 0; i < W; i++) {
            low[i] = i & step ? i - step + W : i;
            high[i] = i & step ? i + W : i + step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) {
            if (i & step) continue;
            Vec a = rows[i], b = rows[i + step];
            rows[i] = __builtin_shuffle(a, b, low);
            rows[i + step] = __builtin_shuffle(a, b, high);
        }
    }
}

}  // namespace falloff::FALLOFF_ISA
