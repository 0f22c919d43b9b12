"""Device code: a program divides the tiles that it visits into zones, each with its own loop.

Only tiles at the edges of the visible range need a mask. And along a row of tiles, the bias is constant in the far past,
varies in the middle, and is constant in the far future. So a program runs up to five loops, one after another:

    edge | far | middle | far | edge

A far tile adds one number to its scores. Each loop must refill its load pipeline. So a short middle (the reach of a T5 bias)
shares one loop with the edges next to it, and applies their mask. Which zones exist is known at compile time.
"""

import triton
import triton.language as tl


@triton.jit
def up(x, STEP: tl.constexpr):
    """The least multiple of STEP that is at least x, and at least 0."""
    return down(x + STEP - 1, STEP)


@triton.jit
def down(x, STEP: tl.constexpr):
    """The largest multiple of STEP that is at most x. 0 for a negative x."""
    return tl.maximum(x, 0) // STEP * STEP


@triton.jit
def clamp(x, low, high):
    """x, moved into low .. high."""
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def cut(
    begin,
    end,
    clear_begin,
    clear_end,
    far_end,
    far_begin,
    STEP: tl.constexpr,
    BEFORE: tl.constexpr,
    MIDDLE: tl.constexpr,
    AFTER: tl.constexpr,
):
    """The bounds of the five zones of begin .. end: begin, before, middle, after, edge, end.

    In clear_begin .. clear_end nothing is masked. The bias is constant below far_end and from far_begin on. BEFORE, AFTER:
    whether there is a far zone on that side of the middle. MIDDLE: "near" (needs no mask), "edge" (with a mask) or "none".
    """
    begin = down(begin, STEP)
    end = tl.maximum(end, begin)
    before = tl.minimum(tl.maximum(up(clear_begin, STEP), begin), end)
    edge = clamp(down(clear_end, STEP), before, end)
    if MIDDLE == "none":
        middle = edge if BEFORE else before
        return begin, before, middle, middle, edge, end
    else:
        middle = before
        after = edge
        if BEFORE:
            middle = clamp(down(far_end, STEP), before, edge)
        if AFTER:
            after = clamp(up(far_begin, STEP), middle, edge)
        # A middle with a mask includes the edge next to it.
        if MIDDLE == "edge" and not BEFORE:
            before = begin
            middle = begin
        if MIDDLE == "edge" and not AFTER:
            edge = end
            after = end
        return begin, before, middle, after, edge, end


@triton.jit
def key_zones(dims, start_m, begin, end, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, cfg):
    """Zones of the keys begin .. end for a q tile: edge, far past, middle, far future, edge."""
    last_row = tl.minimum(start_m + BLOCK_M, dims.seqlen_q) - 1
    clear_begin = 0
    clear_end = dims.seqlen_k
    if cfg.CAUSAL:
        end = tl.minimum(end, last_row + dims.right + 1)
        clear_end = tl.minimum(clear_end, start_m + dims.right + 1)
    if cfg.WINDOW:
        begin = tl.maximum(begin, start_m + dims.left)
        clear_begin = last_row + dims.left
    far_end, far_begin = middle_keys(dims, start_m, BLOCK_M, cfg)
    return cut(begin, end, clear_begin, clear_end, far_end, far_begin, BLOCK_N, cfg.FAR_PAST, cfg.MIDDLE, cfg.FAR_FUTURE)


@triton.jit
def row_zones(dims, start_n, begin, end, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, cfg):
    """Zones of the rows begin .. end for a kv tile: edge, far future, middle, far past, edge."""
    clear_begin = 0
    clear_end = dims.seqlen_q
    if cfg.CAUSAL:
        begin = tl.maximum(begin, start_n - dims.right)
        clear_begin = start_n + BLOCK_N - 1 - dims.right
    if cfg.WINDOW:
        end = tl.minimum(end, start_n + BLOCK_N - dims.left)
        clear_end = tl.minimum(clear_end, start_n - dims.left + 1)
    far_end, far_begin = middle_rows(dims, start_n, BLOCK_N, cfg)
    return cut(begin, end, clear_begin, clear_end, far_end, far_begin, BLOCK_M, cfg.FAR_FUTURE, cfg.MIDDLE, cfg.FAR_PAST)


@triton.jit
def varying(dims, cfg):
    """Shift and extent: the bias varies if 0 <= shift + i - j < extent, and is constant on either side."""
    if cfg.BIAS == "strip":  # its first and last value belong to the far zones
        return dims.shift - 1, tl.maximum(dims.extent - 2, 0)
    else:
        return dims.shift, dims.extent


@triton.jit
def middle_keys(dims, start_m, BLOCK_M: tl.constexpr, cfg):
    """The half-open range of keys at which the bias of some row of a q tile varies."""
    shift, extent = varying(dims, cfg)
    return start_m + shift - extent + 1, start_m + BLOCK_M + shift


@triton.jit
def middle_rows(dims, start_n, BLOCK_N: tl.constexpr, cfg):
    """The half-open range of rows at which the bias of some key of a kv tile varies."""
    shift, extent = varying(dims, cfg)
    return start_n - shift, start_n + BLOCK_N - 1 + extent - shift
