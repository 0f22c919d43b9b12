#include "lower.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "arena.h"

namespace falloff {
namespace {

// The parts of a lowered call, in their order. A part that a call does not need takes no memory.
struct Parts {
    int32_t *row_labels = nullptr, *key_labels = nullptr;
    float *strip = nullptr, *strip_max = nullptr, *strip_tail = nullptr, *key_norm = nullptr, *key_norm_before = nullptr;
    int32_t* bounded = nullptr;  // whether the last four are filled
    float* distances = nullptr;
    int32_t* bends = nullptr;

    Parts(const Problem& p, Arena& arena) {
        if (p.key_mask.bytes || p.documents.bytes) {
            row_labels = arena.take<int32_t>(p.B * p.N);
            key_labels = arena.take<int32_t>(p.B * p.M);
        }
        if (p.form == Form::strip) {
            strip = arena.take<float>(p.H * (p.K + 2 * STRIP_PAD));
            strip_max = arena.take<float>(p.H * strip_blocks(p));
            strip_tail = arena.take<float>(p.H * strip_blocks(p));
            key_norm = arena.take<float>(p.B * p.G * key_blocks(p));
            key_norm_before = arena.take<float>(p.B * p.G * key_blocks(p));
            bounded = arena.take<int32_t>(1);
        }
        if (p.form == Form::warp) {
            distances = arena.take<float>(p.N + p.M + 2 * STRIP_PAD);
            bends = arena.take<int32_t>((p.a_batch ? p.B : 1) * p.N * (p.S - 1));
        }
    }

    void give(Problem& p) const {
        p.row_labels = row_labels, p.key_labels = key_labels;
        p.strip = strip, p.strip_row = p.K + 2 * STRIP_PAD;
        if (bounded && *bounded == 1) {
            p.strip_max = strip_max, p.strip_tail = strip_tail;
            p.key_norm = key_norm, p.key_norm_before = key_norm_before;
        }
        p.distances = distances, p.bends = bends;
    }
};

int64_t id_at(const Ids& ids, long b, long i) {
    const char* at = static_cast<const char*>(ids.data) + (b * ids.batch + i * ids.row) * ids.bytes;
    auto read = [&](auto id) {
        std::memcpy(&id, at, sizeof id);
        return int64_t(id);
    };
    switch (ids.bytes) {
        case 1: return read(int8_t());
        case 2: return read(int16_t());
        case 4: return read(int32_t());
        default: return read(int64_t());
    }
}

// Documents are numbered in the order in which they come, per batch entry. What key_mask hides has label -1.
void write_labels(const Problem& p, const Parts& to) {
    for (long b = 0; b < p.B; b++) {
        int32_t *rows = to.row_labels + b * p.N, *keys = to.key_labels + b * p.M;
        std::fill(rows, rows + p.N, 0);
        if (p.documents.bytes) {
            std::unordered_map<int64_t, int32_t> numbers;
            for (long i = 0; i < p.N; i++) {
                const int64_t id = id_at(p.documents, b, i);
                const bool same = i > 0 && id == id_at(p.documents, b, i - 1);
                rows[i] = same ? rows[i - 1] : numbers.emplace(id, int32_t(numbers.size())).first->second;
            }
            std::copy(rows, rows + p.N, keys);  // as many queries as keys: see check.cpp
        } else {
            std::fill(keys, keys + p.M, 0);
        }
        for (long j = 0; p.key_mask.bytes && j < p.M; j++)
            if (id_at(p.key_mask, b, j) == 0) keys[j] = -1;
    }
}

// By falling offset, with STRIP_PAD copies of the value at either end.
void write_strip(const Problem& p, float* strip) {
    for (long h = 0; h < p.H; h++) {
        const float* values = p.values + h * p.K;
        float* to = strip + h * (p.K + 2 * STRIP_PAD);
        to = std::fill_n(to, STRIP_PAD, values[p.K - 1]);
        to = std::reverse_copy(values, values + p.K, to);
        std::fill_n(to, STRIP_PAD, values[0]);
    }
}

// Whether a strip falls so far that keys may be skipped, and rows and keys are so many that looking for them can pay.
bool falls_far(const Problem& p) {
    if (p.N < 32 || p.M <= 256) return false;
    const auto [low, high] = std::minmax_element(p.values, p.values + p.H * p.K);
    return !(*high - *low < 17.0f);
}

// strip_max and strip_tail: the largest value of each block of a strip, and an upper bound of the log-sum-exp of all values
// from there on. NaN counts as infinity. Tails are summed in double and rounded upwards: in float, a large bias would swallow
// the logarithm of a count.
void write_bounds(const Problem& p, const Parts& to) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const long blocks = strip_blocks(p);
    for (long h = 0; h < p.H; h++) {
        const float* values = p.values + h * p.K;
        double tail = values[p.K - 1] + std::log(double(p.M));  // the last value, as often as keys may meet it
        for (long block = blocks - 1; block >= 0; block--) {
            const long begin = block * STRIP_BLOCK, end = std::min(begin + STRIP_BLOCK, p.K);
            float most = -infinity, total = 0.0f;
            for (long k = begin; k < end; k++) most = std::isnan(values[k]) ? infinity : std::max(most, values[k]);
            for (long k = begin; k < end; k++) total += std::exp(values[k] - most);
            // log(exp(sum) + exp(tail)); infinite where either is infinite or NaN. 1e-4: `total` is rounded.
            const double sum = most + std::log(double(total)), high = std::max(sum, tail), low = std::min(sum, tail);
            const bool finite = most < infinity && high < infinity;
            tail = !finite ? infinity : high == -infinity ? high : high + std::log1p(std::exp(low - high)) + 1e-4;
            to.strip_max[h * blocks + block] = most;
            to.strip_tail[h * blocks + block] = std::nextafter(float(tail), infinity);
        }
    }
}

// g by falling offset, for every offset of the call and the padding of a tile on either side.
void write_distances(const Problem& p, float* distances) {
    const long top = p.query_start + p.N - 1;  // the largest offset; they fall from here
    for (long x = 0; x < p.N + p.M + 2 * STRIP_PAD; x++)
        distances[x] = p.g[std::min(std::abs(top - (x - STRIP_PAD)), p.K - 1)];
}

}  // namespace

size_t lowered_bytes(const Problem& p) {
    Arena counted;
    Parts(p, counted);
    return counted.bytes();
}

void lower(Problem& p, void* memory, const Kernels& kernels, Interrupt& interrupt) {
    Arena arena(memory);
    const Parts parts(p, arena);
    if (parts.row_labels) write_labels(p, parts);
    if (p.form == Form::strip) {
        write_strip(p, parts.strip);
        *parts.bounded = falls_far(p);
        if (*parts.bounded) write_bounds(p, parts);
    }
    if (p.form == Form::warp) write_distances(p, parts.distances);
    parts.give(p);
    if (p.key_norm) run(kernels.key_norms, p, 4.0 * p.B * p.G * p.M * p.D, interrupt);
    if (p.form == Form::warp) run(kernels.bends, p, 16.0 * p.N * p.S, interrupt);
}

void restore(Problem& p, void* memory) {
    Arena arena(memory);
    Parts(p, arena).give(p);
}

}  // namespace falloff
