"""Device code: a warp (FIRE). x = g * a, and the bias is linear in x in each segment between two knots.

Most tiles lie in one segment and take one multiply-add per score. The others loop over their segments.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, PAD, RANGE_PARTS, RANGE_SPARE, RANGE_STEP
from falloff.ops.triton.kernels.memory import diagonal_pointers, load_cached

LEAST_SCALE = tl.constexpr(2.0**-60)  # scores times less do not count; a bias divided by less may overflow

# A constant apart from the scores rounds the row max and the log-sum-exp, but not the scores: with a larger one, a
# probability may be far above 1.
MOST_CONSTANT = tl.constexpr(2.0**16)


@triton.jit
def add_warp(scores, scale, inputs, dims, tile, cfg):
    """Add the bias of a warp to the scores of a tile: see `add_bias`.

    The loop over segments carries scores plus bias, not the bias alone: a carried value keeps its initial layout, and that
    of the scores is the MMA layout.
    """
    g, a = warp_factors(inputs, dims, tile, cfg)
    low, high = segments_of(inputs, dims, tile, cfg)
    unit = tl.where(scale < LEAST_SCALE, LEAST_SCALE, scale)
    per_unit = LOG2E / unit
    slope, intercept = warp_line(inputs, tile.h, low, cfg)
    total = scores + g * (a * (slope * per_unit))
    constant = intercept * LOG2E
    with_scores = low < high
    if not constant.type.is_block():  # heads by row: decoding adds the constant to the scores
        with_scores |= tl.abs(constant) > MOST_CONSTANT
    if with_scores:
        x = g * a  # the shape of the tile
        total += intercept * per_unit
        constant = tl.zeros_like(constant)
        for segment in range(low + 1, high + 1):
            slope, intercept = warp_line(inputs, tile.h, segment, cfg)
            line = x * (slope * per_unit) + intercept * per_unit
            total = tl.where(x > load_cached(inputs.bias.knots + segment - 1, cfg), scores + line, total)
    return total, unit, constant


@triton.jit
def warp_factors(inputs, dims, tile, cfg):
    """g in the shape of the tile, and a in the shape of offs_m (0 beyond the last row)."""
    origin = PAD + dims.seqlen_q - 1 - tile.start_m + tile.start_n
    g = load_cached(diagonal_pointers(inputs.bias.g, origin, tile), cfg)
    i = tile.start_m + tile.offs_m
    a = inputs.bias.a + tl.cast(tile.b, tl.int64) * inputs.bias.a_stride_b
    return g, tl.load(a + i, mask=i < dims.seqlen_q, other=0.0)


@triton.jit
def warp_line(inputs, h, segment, cfg):
    """Slope and intercept of one segment."""
    at = h * inputs.bias.num_segments + segment
    return load_cached(inputs.bias.slope + at, cfg), load_cached(inputs.bias.intercept + at, cfg)


@triton.jit
def up_to_knot(ds, x, inputs, segment, cfg):
    """dS of a tile where x lies up to the end of the segment, else 0.

    The caller subtracts it from dS and goes on to the next segment: one comparison for each, whose result need not be kept.
    """
    return tl.where(x > load_cached(inputs.bias.knots + segment, cfg), 0.0, ds)


@triton.jit
def range_of_a(inputs, dims, b, start_m, BLOCK_M: tl.constexpr, cfg):
    """Minimum and maximum of a over BLOCK_M query rows; 0 and 0 for other forms."""
    if cfg.BIAS == "warp":
        blocks = (dims.seqlen_q + RANGE_STEP - 1) // RANGE_STEP
        COUNT: tl.constexpr = (BLOCK_M + RANGE_STEP - 1) // RANGE_STEP
        block = start_m // RANGE_STEP + tl.arange(0, COUNT)  # (COUNT,)
        at = tl.where(inputs.bias.a_stride_b > 0, b, 0) * (blocks + RANGE_SPARE) + block
        low = tl.where(block < blocks, load_cached(inputs.bias.a_low + at, cfg), float("inf"))
        high = tl.where(block < blocks, load_cached(inputs.bias.a_high + at, cfg), float("-inf"))
        return tl.min(low, 0), tl.max(high, 0)
    else:
        return 0.0, 0.0


@triton.jit
def segments_of(inputs, dims, tile, cfg):
    """The first and last segment that x may lie in, within a tile.

    x = g * a is bounded by the four products of minimum and maximum of g (over the tile's offsets) and of a (over its rows).
    """
    BLOCK_M: tl.constexpr = tile.offs_m.shape[0] * tile.offs_m.shape[1]
    BLOCK_N: tl.constexpr = tile.offs_n.shape[0] * tile.offs_n.shape[1]
    COVERED: tl.constexpr = RANGE_PARTS.value * RANGE_STEP.value
    RANGES: tl.constexpr = (BLOCK_M + BLOCK_N + RANGE_STEP.value - 3) // COVERED + 1
    first = PAD + dims.seqlen_q - BLOCK_M - tile.start_m + tile.start_n
    first = first.to(tl.uint32) // RANGE_STEP  # the quotient of signed numbers takes more instructions
    g_low = load_cached(inputs.bias.g_low + first, cfg)
    g_high = load_cached(inputs.bias.g_high + first, cfg)
    for further in tl.static_range(1, RANGES):
        g_low = tl.minimum(g_low, load_cached(inputs.bias.g_low + first + further * RANGE_PARTS, cfg))
        g_high = tl.maximum(g_high, load_cached(inputs.bias.g_high + first + further * RANGE_PARTS, cfg))
    a_low = tile.a_low
    a_high = tile.a_high
    least = tl.minimum(tl.minimum(g_low * a_low, g_low * a_high), tl.minimum(g_high * a_low, g_high * a_high))
    most = tl.maximum(tl.maximum(g_low * a_low, g_low * a_high), tl.maximum(g_high * a_low, g_high * a_high))
    # Knots in parts of 32, the lanes of a hardware warp: a sum over more would take shared memory and barriers at each tile.
    # Both counts are one sum, of 16 bits each.
    WIDTH: tl.constexpr = min(cfg.KNOTS, 32)
    counts = tl.zeros((WIDTH,), tl.int32)
    for part in tl.static_range(cfg.KNOTS // WIDTH):
        knots = load_cached(inputs.bias.knots + part * WIDTH + tl.arange(0, WIDTH), cfg)  # (WIDTH,)
        # Comparisons with NaN are false: a range that is NaN gives all segments, and counts the padding of the knots too.
        counts += tl.where(knots < least, 1, 0) + tl.where(knots >= most, 0, 1 << 16)
    count = tl.sum(counts, 0)
    return count & 0xFFFF, tl.minimum(count >> 16, inputs.bias.num_segments - 1)
