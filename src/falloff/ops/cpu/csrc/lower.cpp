#include "lower.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "arena.h"

namespace falloff {
namespace {

// Whether keys that cannot matter may be skipped: where every part of the form has bounds that skip.h knows.
bool can_skip(const Problem& p) {
    const bool others = p.band.on || p.warp.on || p.factored[QUERY].on || p.factored[KEY].on;
    return (p.strip.on || p.potential.on) && !others;
}

// The parts of a lowered call, in their order. A part that a call does not need takes no memory.
struct Parts {
    int32_t *row_labels = nullptr, *key_labels = nullptr;
    float *strip = nullptr, *strip_max = nullptr, *strip_tail = nullptr, *key_max = nullptr, *key_tail = nullptr;
    float *key_norm = nullptr, *key_norm_before = nullptr;
    int32_t* bounded = nullptr;  // whether the last six are filled
    float *tables[SIDES] = {}, *distances = nullptr;
    int32_t* bends = nullptr;

    Parts(const Problem& p, Arena& arena) {
        if (p.key_mask.bytes || p.documents.bytes) {
            row_labels = arena.take<int32_t>(p.B * p.N);
            key_labels = arena.take<int32_t>(p.B * p.M);
        }
        if (p.strip.on) strip = arena.take<float>(p.H * (p.strip.K + 2 * STRIP_PAD));
        if (can_skip(p)) {
            strip_max = arena.take<float>(p.strip.on ? p.H * strip_blocks(p) : 0);
            strip_tail = arena.take<float>(p.strip.on ? p.H * strip_blocks(p) : 0);
            key_max = arena.take<float>(p.potential.on ? p.B * p.H * key_blocks(p) : 0);
            key_tail = arena.take<float>(p.potential.on ? p.B * p.H * key_blocks(p) : 0);
            key_norm = arena.take<float>(p.B * p.G * key_blocks(p));
            key_norm_before = arena.take<float>(p.B * p.G * key_blocks(p));
            bounded = arena.take<int32_t>(1);
        }
        for (const Side side : {QUERY, KEY}) {
            const Factored& f = p.factored[side];
            if (f.on) tables[side] = arena.take<float>(f.tables * f.R * table_offsets(f));
        }
        if (p.warp.on) {
            distances = arena.take<float>(p.N + p.M + 2 * STRIP_PAD);
            bends = arena.take<int32_t>((p.warp.a_batch ? p.B : 1) * p.N * (p.warp.S - 1));
        }
    }

    void give(Problem& p) const {
        p.row_labels = row_labels, p.key_labels = key_labels;
        p.falling_strip = strip, p.strip_row = p.strip.K + 2 * STRIP_PAD;
        if (bounded && *bounded == 1) {
            p.strip_max = strip_max, p.strip_tail = strip_tail;
            p.key_max = key_max, p.key_tail = key_tail;
            p.key_norm = key_norm, p.key_norm_before = key_norm_before;
        }
        p.falling_table[QUERY] = tables[QUERY], p.falling_table[KEY] = tables[KEY];
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
        const long K = p.strip.K;
        const float* values = p.strip.values + h * K;
        float* to = strip + h * (K + 2 * STRIP_PAD);
        to = std::fill_n(to, STRIP_PAD, values[K - 1]);
        to = std::reverse_copy(values, values + K, to);
        std::fill_n(to, STRIP_PAD, values[0]);
    }
}

// Whether a strip falls so far, or the potentials of keys differ so much, that keys may be skipped, and rows and keys are so
// many that looking for them can pay.
bool falls_far(const Problem& p) {
    if (p.N < 32 || p.M <= 256) return false;
    auto far_apart = [](const float* values, long count) {
        const auto [low, high] = std::minmax_element(values, values + count);
        return !(*high - *low < 17.0f);
    };
    if (p.strip.on && far_apart(p.strip.values, p.H * p.strip.K)) return true;
    for (long head = 0; p.potential.on && head < p.B * p.H; head++)
        if (far_apart(p.potential.key + head * p.M, p.M)) return true;
    return false;
}

constexpr float INFINITE = std::numeric_limits<float>::infinity();

// An upper bound of log(exp(tail) + the sum of exp(values)), and the largest of the values. NaN counts as infinity. Tails are
// summed in double: in float, a large bias would swallow the logarithm of a count.
double add_to_tail(double tail, const float* values, long count, float& most) {
    float total = 0.0f;
    most = -INFINITE;
    for (long k = 0; k < count; k++) most = std::isnan(values[k]) ? INFINITE : std::max(most, values[k]);
    for (long k = 0; k < count; k++) total += std::exp(values[k] - most);
    // log(exp(sum) + exp(tail)); infinite where either is infinite or NaN. 1e-4: `total` is rounded.
    const double sum = most + std::log(double(total)), high = std::max(sum, tail), low = std::min(sum, tail);
    const bool finite = most < INFINITE && high < INFINITE;
    return !finite ? INFINITE : high == -INFINITE ? high : high + std::log1p(std::exp(low - high)) + 1e-4;
}

float rounded_up(double x) { return std::nextafter(float(x), INFINITE); }

// strip_max and strip_tail: the largest value of each block of a strip, and an upper bound of the log-sum-exp of all values
// from there on.
void write_strip_bounds(const Problem& p, const Parts& to) {
    const long blocks = strip_blocks(p), K = p.strip.K;
    for (long h = 0; h < p.H; h++) {
        const float* values = p.strip.values + h * K;
        double tail = values[K - 1] + std::log(double(p.M));  // the last value, as often as keys may meet it
        for (long block = blocks - 1; block >= 0; block--) {
            const long begin = block * STRIP_BLOCK, count = std::min(STRIP_BLOCK, K - begin);
            tail = add_to_tail(tail, values + begin, count, to.strip_max[h * blocks + block]);
            to.strip_tail[h * blocks + block] = rounded_up(tail);
        }
    }
}

// key_max and key_tail: the largest potential of each block of keys, and an upper bound of the log-sum-exp of those of the block
// and all before it.
void write_key_bounds(const Problem& p, const Parts& to) {
    const long blocks = key_blocks(p);
    for (long head = 0; head < p.B * p.H; head++) {
        double tail = -INFINITE;
        for (long block = 0; block < blocks; block++) {
            const long begin = block * KEY_BLOCK, count = std::min(KEY_BLOCK, p.M - begin);
            const float* values = p.potential.key + head * p.M + begin;
            tail = add_to_tail(tail, values, count, to.key_max[head * blocks + block]);
            to.key_tail[head * blocks + block] = rounded_up(tail);
        }
    }
}

// g by falling offset, for every offset of the call and the padding of a tile on either side.
void write_distances(const Problem& p, float* distances) {
    const long top = p.query_start + p.N - 1;  // the largest offset; they fall from here
    for (long x = 0; x < p.N + p.M + 2 * STRIP_PAD; x++)
        distances[x] = p.warp.g[std::min(std::abs(top - (x - STRIP_PAD)), p.warp.K - 1)];
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
    if (p.strip.on) write_strip(p, parts.strip);
    if (parts.bounded) {
        *parts.bounded = falls_far(p);
        if (*parts.bounded && p.strip.on) write_strip_bounds(p, parts);
        if (*parts.bounded && p.potential.on) write_key_bounds(p, parts);
    }
    if (p.warp.on) write_distances(p, parts.distances);
    parts.give(p);
    if (p.key_norm) run(kernels.key_norms, p, 4.0 * p.B * p.G * p.M * p.D, interrupt);
    double of_tables = 0.0;
    for (const Factored& f : p.factored) of_tables += f.on ? 4.0 * f.tables * f.R * table_offsets(f) : 0.0;
    if (of_tables > 0.0) run(kernels.tables, p, of_tables, interrupt);
    if (p.warp.on) run(kernels.bends, p, 16.0 * p.N * p.warp.S, interrupt);
}

void restore(Problem& p, void* memory) {
    Arena arena(memory);
    Parts(p, arena).give(p);
}

}  // namespace falloff
