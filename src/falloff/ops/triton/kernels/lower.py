"""The kernels that lower a call: they write a form, and the norms of keys, in the layout that attention reads."""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, PAD, RANGE_BLOCK, RANGE_SPARE, SKIP_BLOCK_N
from falloff.ops.triton.kernels.mask import load_seen
from falloff.ops.triton.kernels.skip import TINY


@triton.jit(do_not_specialize=["extent", "width"])
def pad_strip_kernel(values, padded, extent, width, BLOCK: tl.constexpr):
    """Write a strip, values (H, extent) by rising offset, to `padded` (H, width): by falling offset, in base 2.

    width = extent + 2 PAD: each end of the strip is repeated PAD times.
    """
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    h = tl.cast(tl.program_id(1), tl.int64)
    k = tl.minimum(tl.maximum(extent - 1 + PAD - x, 0), extent - 1)
    value = tl.load(values + h * extent + k).to(tl.float32)
    tl.store(padded + h * width + x, value * LOG2E, mask=x < width)


@triton.jit(do_not_specialize=["width", "extent", "highest"])
def spread_g_kernel(g, table, width, extent, highest, BLOCK: tl.constexpr):
    """Write a warp's g (extent,), by distance, to `table` (width,), by falling offset from highest + PAD down."""
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    distance = tl.abs(highest + PAD - x)
    tl.store(table + x, tl.load(g + tl.minimum(distance, extent - 1)), mask=x < width)


@triton.jit(do_not_specialize=["length", "blocks"])
def block_ranges_kernel(values, low, high, length, blocks):
    """low, high (rows, blocks + RANGE_SPARE): minimum and maximum of each RANGE_BLOCK entries of `values` (rows, length)."""
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    x = block * RANGE_BLOCK + tl.arange(0, RANGE_BLOCK)  # (RANGE_BLOCK,)
    value = values + tl.cast(row, tl.int64) * length + x
    at = row * (blocks + RANGE_SPARE) + block
    tl.store(low + at, tl.min(tl.load(value, mask=x < length, other=float("inf")), 0))
    tl.store(high + at, tl.max(tl.load(value, mask=x < length, other=float("-inf")), 0))


@triton.jit(do_not_specialize=["seqlen_k", "kv_heads", "blocks"])
def key_norms_kernel(inputs, norms, seqlen_k, kv_heads, blocks, cfg):
    """norms (B, G, blocks): the largest |k| of each SKIP_BLOCK_N keys; +inf if a key or value in the block is not finite.

    Keys that key_mask hides count as 0.
    """
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    b = head // kv_heads
    g = head % kv_heads
    start_n = block * SKIP_BLOCK_N
    k = load_seen(inputs, inputs.k, b, g, start_n, seqlen_k, SKIP_BLOCK_N, cfg, True)  # (SKIP_BLOCK_N, BLOCK_D)
    v = load_seen(inputs, inputs.v, b, g, start_n, seqlen_k, SKIP_BLOCK_N, cfg, True)  # (SKIP_BLOCK_N, BLOCK_D)
    k = k.to(tl.float32)
    v = v.to(tl.float32)
    zero = tl.sum(tl.sum(k * 0.0 + v * 0.0, 1), 0)  # NaN if any number is not finite
    norm = tl.sqrt(tl.max(tl.sum(k * k, 1), 0) + TINY)
    tl.store(norms + tl.program_id(0), tl.where(zero == 0, norm, float("inf")))
