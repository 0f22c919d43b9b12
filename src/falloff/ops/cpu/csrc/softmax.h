// S into P = exp(S - row_max), with the running maximum and sum of the online softmax.
#pragma once

#include "product.h"
#include "simd.h"

namespace falloff::FALLOFF_ISA {

// A row of S (width) becomes exp(S - shift), in place; returns its sum. The shift is the row's maximum or its log-sum-exp.
inline float exponentiate(float* scores, long width, float shift) {
    Vec row_sum{};
    for (long c = 0; c < width; c += W) {
        const Vec prob = exp(load(scores + c) - shift);
        store(scores + c, prob);
        row_sum += prob;
    }
    return sum(row_sum);
}

// Online softmax of a sliver: its scores (rows, width) become P, in place. row_max and row_sum (rows) take in the new scores;
// where row_max rises, row_sum and the row of O (rows, Dp) are rescaled by exp(old_max - new_max). `out` is null where there is
// no O yet. All rows take each step together, for within one row each step waits for the one before.
inline void softmax_sliver(
    long rows, long width, const Vec* row_max_lanes, float* scores, long score_row, float* row_max, float* row_sum, float* out,
    long Dp
) {
    constexpr int ROWS = (SLIVER_ROWS + W - 1) / W * W;  // in whole vectors
    float shift[ROWS] = {}, rescale[ROWS] = {};
    bool rises[ROWS] = {};
    for (long i = 0; i < rows; i++) {
        const float old_max = row_max[i], new_max = larger(largest(row_max_lanes[i]), old_max);
        // In a row that has seen nothing but -inf, row_max counts as 0: exp(-inf - 0) is 0, exp(-inf + inf) would be NaN.
        shift[i] = new_max == -INF ? 0.0f : new_max;
        rescale[i] = old_max - shift[i];
        rises[i] = new_max != old_max;
        row_max[i] = new_max;
    }
    for (int i = 0; i < ROWS && out; i += W) store(rescale + i, exp(load(rescale + i)));
    for (long i = 0; i < rows && out; i++) {
        if (!rises[i]) continue;
        row_sum[i] *= rescale[i];
        for (long d = 0; d < Dp; d += W) store(out + i * Dp + d, load(out + i * Dp + d) * rescale[i]);
    }
    for (long i = 0; i < rows; i++) row_sum[i] += exponentiate(scores + i * score_row, width, shift[i]);
}

}  // namespace falloff::FALLOFF_ISA
