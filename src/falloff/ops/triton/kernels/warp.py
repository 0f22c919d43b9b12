"""Device code: a warp (FIRE). x = g * a, and the bias is linear in x in each segment between two knots.

Most tiles lie in one segment and take one multiply-add per score. The others loop over their segments.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, PAD, RANGE_BLOCK, RANGE_SPARE
from falloff.ops.triton.kernels.memory import load_cached


@triton.jit
def add_warp(scores, inputs, dims, tile, cfg):
    """Add the bias of a warp to the scores of a tile.

    The loop over segments carries scores plus bias, not the bias alone: a carried value keeps its initial layout, and that
    of the scores is the MMA layout.
    """
    g, a = warp_factors(inputs, dims, tile, cfg)
    low, high = segments_of(inputs, dims, tile, cfg)
    x = g * a  # the shape of the tile
    slope, intercept = warp_line(inputs, tile.h, low, cfg)
    total = scores + (x * (slope * LOG2E) + intercept * LOG2E)
    if low < high:  # few tiles
        for segment in range(low + 1, high + 1):
            slope, intercept = warp_line(inputs, tile.h, segment, cfg)
            line = x * (slope * LOG2E) + intercept * LOG2E
            total = tl.where(x > load_cached(inputs.bias.knots + segment - 1, cfg), scores + line, total)
    return total


@triton.jit
def warp_factors(inputs, dims, tile, cfg):
    """g in the shape of the tile, and a in the shape of offs_m (0 beyond the last row)."""
    origin = PAD + dims.seqlen_q - 1 - tile.start_m + tile.start_n
    g = load_cached(inputs.bias.g + origin + (tile.offs_n.to(tl.int64) - tile.offs_m.to(tl.int64)), cfg)
    i = tile.start_m + tile.offs_m
    a = inputs.bias.a + tl.cast(tile.b, tl.int64) * inputs.bias.a_stride_b
    return g, tl.load(a + i, mask=i < dims.seqlen_q, other=0.0)


@triton.jit
def warp_line(inputs, h, segment, cfg):
    """Slope and intercept of one segment."""
    at = h * inputs.bias.num_segments + segment
    return load_cached(inputs.bias.slope + at, cfg), load_cached(inputs.bias.intercept + at, cfg)


@triton.jit
def within(ds, x, inputs, segment, cfg):
    """dS of a tile if x lies in the segment, else 0. If x is NaN, dS counts for every segment."""
    knots = inputs.bias.knots
    left = tl.where(segment > 0, load_cached(knots + tl.maximum(segment - 1, 0), cfg), float("-inf"))
    right = load_cached(knots + segment, cfg)  # +inf behind the last knot
    return tl.where((x <= left) | (x > right), 0.0, ds)


@triton.jit
def range_of_a(inputs, dims, b, start_m, BLOCK_M: tl.constexpr, cfg):
    """Minimum and maximum of a over BLOCK_M query rows; 0 and 0 for other forms."""
    if cfg.BIAS == "warp":
        blocks = (dims.seqlen_q + RANGE_BLOCK - 1) // RANGE_BLOCK
        COUNT: tl.constexpr = (BLOCK_M + RANGE_BLOCK - 1) // RANGE_BLOCK
        block = start_m // RANGE_BLOCK + tl.arange(0, COUNT)  # (COUNT,)
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
    at = PAD + dims.seqlen_q - 1 - tile.start_m + tile.start_n
    block = (at - tile.offs_m.shape[0] * tile.offs_m.shape[1] + 1) // RANGE_BLOCK + tl.arange(0, 8)  # (8,)
    inside = block <= (at + tile.offs_n.shape[0] * tile.offs_n.shape[1] - 1) // RANGE_BLOCK
    g_low = tl.min(tl.where(inside, load_cached(inputs.bias.g_low + block, cfg), float("inf")), 0)
    g_high = tl.max(tl.where(inside, load_cached(inputs.bias.g_high + block, cfg), float("-inf")), 0)
    a_low = tile.a_low
    a_high = tile.a_high
    least = tl.minimum(tl.minimum(g_low * a_low, g_low * a_high), tl.minimum(g_high * a_low, g_high * a_high))
    most = tl.maximum(tl.maximum(g_low * a_low, g_low * a_high), tl.maximum(g_high * a_low, g_high * a_high))
    # Knots in parts of 32, the lanes of a hardware warp: a sum over more would take shared memory and barriers at each tile.
    # Both counts are one sum, of 16 bits each.
    WIDTH: tl.constexpr = min(cfg.SEGMENTS, 32)
    counts = tl.zeros((WIDTH,), tl.int32)
    for part in tl.static_range(cfg.SEGMENTS // WIDTH):
        k = part * WIDTH + tl.arange(0, WIDTH)  # (WIDTH,)
        knots = load_cached(inputs.bias.knots + k, cfg)
        # Comparisons with NaN are false: a range that is NaN gives all segments.
        reached = (k < inputs.bias.num_segments - 1) & ~(knots >= most)
        counts += (knots < least).to(tl.int32) + (reached.to(tl.int32) << 16)
    count = tl.sum(counts, 0)
    return count & 0xFFFF, count >> 16
