// Vectors of floats, by the vector extensions that GCC (11 and later) and clang share: one source for AVX2, AVX-512 and NEON.
//
// This header and all that kernels.cpp includes are compiled once per instruction set, each time in a namespace of its own.
// They use nothing of the standard library that could be emitted as a function: the linker would merge such functions of all
// instruction sets, and might keep one that this machine cannot run.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>  // std::integer_sequence: a type, no function

#if defined(__AVX512F__)
#include <immintrin.h>
#define FALLOFF_WIDTH 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define FALLOFF_WIDTH 8
#else
#define FALLOFF_WIDTH 4
#endif

// Before a loop of at most 32 rounds, whose number the compiler knows: it unrolls the loop, and arrays become registers.
#if defined(__clang__)
#define FALLOFF_UNROLL _Pragma("clang loop unroll(full)")
#define FALLOFF_UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#else
#define FALLOFF_UNROLL _Pragma("GCC unroll 32")
#define FALLOFF_UNROLL_TWICE _Pragma("GCC unroll 2")
#endif

namespace falloff::FALLOFF_ISA {

constexpr int W = FALLOFF_WIDTH;  // floats in a vector

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Int __attribute__((vector_size(W * 4)));
typedef uint32_t Word __attribute__((vector_size(W * 4)));

constexpr float INF = __builtin_inff();

inline Vec load(const float* from) {  // of any alignment: unaligned loads cost nothing
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
inline Vec broadcast(float x) { return x - Vec{}; }

// The larger of a and b, lane by lane. Where a is NaN the result is b; where b is NaN it is NaN. As an intrinsic where there is
// one, for the compiler would compare and blend.
inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
inline float larger(float a, float b) { return a > b ? a : b; }
inline long larger(long a, long b) { return a > b ? a : b; }
inline long smaller(long a, long b) { return a < b ? a : b; }

inline Int iota() {
    Int lanes;
    for (int i = 0; i < W; i++) lanes[i] = i;
    return lanes;
}

// Lane i of the result is lane from(i) of a and b, whose lanes are numbered 0 .. W - 1 and W .. 2W - 1. `from` captures
// nothing.
template <class From, int... i>
inline Vec shuffled(Vec a, Vec b, From from, std::integer_sequence<int, i...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, from(i)...);
#else  // which has the other one from version 12 on
    return __builtin_shuffle(a, b, Int{from(i)...});
#endif
}
template <class From>
inline Vec shuffled(Vec a, Vec b, From from) {
    return shuffled(a, b, from, std::make_integer_sequence<int, W>());
}

// Lanes i and i ^ DISTANCE swap places.
template <int DISTANCE>
inline Vec swapped(Vec v) {
    return shuffled(v, v, [](int i) { return i ^ DISTANCE; });
}

inline Vec reversed(Vec v) {
    return shuffled(v, v, [](int i) { return W - 1 - i; });
}

template <int DISTANCE = W / 2>
inline float sum(Vec v) {
    if constexpr (DISTANCE == 0) return v[0];
    else return sum<DISTANCE / 2>(v + swapped<DISTANCE>(v));
}

template <int DISTANCE = W / 2>
inline float largest(Vec v) {
    if constexpr (DISTANCE == 0) return v[0];
    else return largest<DISTANCE / 2>(larger(swapped<DISTANCE>(v), v));
}

// e^x, with a relative error below 1.6e-7 + 1.3e-8 |x| for x from -87.6 to 88. Below -87.6 it falls to 0, which it is from -88
// on; NaN gives NaN. x = (n + f) * ln 2 with |f| <= 1/2. 2^f is a polynomial: degree 5, relative error below 9.2e-8, exactly 1
// at 0, by Estrin's scheme, whose chains are shorter than Horner's. 2^n is made of n as the bits of the exponent: adding
// `shifter` rounds to an integer and leaves n + 127 in the lowest bits of the sum. At -88 these bits are 0, and 2^n is 0.
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

// Transposes 2 x 2 blocks of STEP lanes in two rows: the second block of each pair in a swaps places with the first in b.
template <int STEP>
inline void exchange(Vec& a, Vec& b) {
    const Vec first = shuffled(a, b, [](int lane) { return lane & STEP ? lane - STEP + W : lane; });
    b = shuffled(a, b, [](int lane) { return lane & STEP ? lane + W : lane + STEP; });
    a = first;
}

// Of each four lanes of a and b, the first two or the last two, SIZE lanes of a and of b in turn: one instruction does it.
template <int SIZE, bool LAST>
inline Vec interleaved(Vec a, Vec b) {
    return shuffled(a, b, [](int lane) {
        const int from = lane / 4 * 4 + (LAST ? 2 : 0) + lane % 4 / (2 * SIZE) * SIZE + lane % SIZE;
        return lane / SIZE % 2 ? from + W : from;
    });
}

// W x W floats, transposed in registers: first the blocks of 4 x 4 swap places, then each is transposed by interleaving.
inline void transpose(Vec (&rows)[W]) {
    static_assert(W == 4 || W == 8 || W == 16);
    FALLOFF_UNROLL
    for (int i = 0; i < W; i++)
        if constexpr (W >= 16)
            if (!(i & 8)) exchange<8>(rows[i], rows[i + 8]);
    FALLOFF_UNROLL
    for (int i = 0; i < W; i++)
        if constexpr (W >= 8)
            if (!(i & 4)) exchange<4>(rows[i], rows[i + 4]);
    FALLOFF_UNROLL
    for (int i = 0; i < W; i += 4) {
        const Vec low = interleaved<1, false>(rows[i], rows[i + 1]), high = interleaved<1, true>(rows[i], rows[i + 1]);
        const Vec next_low = interleaved<1, false>(rows[i + 2], rows[i + 3]);
        const Vec next_high = interleaved<1, true>(rows[i + 2], rows[i + 3]);
        rows[i] = interleaved<2, false>(low, next_low);
        rows[i + 1] = interleaved<2, true>(low, next_low);
        rows[i + 2] = interleaved<2, false>(high, next_high);
        rows[i + 3] = interleaved<2, true>(high, next_high);
    }
}

}  // namespace falloff::FALLOFF_ISA
