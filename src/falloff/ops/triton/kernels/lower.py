"""The kernels that lower a call: they write a form, and the norms of keys, in the layout that attention reads."""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, PAD, RANGE_PARTS, RANGE_STEP, SKIP_BLOCK_N
from falloff.ops.triton.kernels.mask import load_seen
from falloff.ops.triton.kernels.skip import TINY


@triton.jit(do_not_specialize=["stride_h", "stride_k", "extent", "width", "size", "end"])
def pad_strip_kernel(values, stride_h, stride_k, padded, extent, width, size, end, BLOCK: tl.constexpr):
    """Write a strip, values (H, extent) by rising offset, to `padded` (H, width): by falling offset, in base 2.

    width = extent + 2 PAD: each end of the strip is repeated PAD times. size = H width; 0 from there up to `end`.
    """
    at = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    k = tl.minimum(tl.maximum(extent - 1 + PAD - at % width, 0), extent - 1)
    value = tl.load(values + at // width * stride_h + k * stride_k, mask=at < size, other=0.0).to(tl.float32)
    tl.store(padded + at, value * LOG2E, mask=at < end)


@triton.jit
def store_ranges(least, most, low, high, at, end, BLOCK: tl.constexpr):
    """Write the least and the most of each RANGE_STEP of `least` and `most` (BLOCK,) to low and high, at .. end - 1."""
    COUNT: tl.constexpr = BLOCK // RANGE_STEP.value
    at += tl.arange(0, COUNT)  # (COUNT,)
    tl.store(low + at, tl.min(tl.reshape(least, (COUNT, RANGE_STEP)), 1), mask=at < end)
    tl.store(high + at, tl.max(tl.reshape(most, (COUNT, RANGE_STEP)), 1), mask=at < end)


@triton.jit(
    do_not_specialize=[
        *("extent", "highest", "width", "table_size", "g_size"),
        *("seqlen_q", "a_rows", "a_ranges", "a_size", "g_programs", "a_programs"),
    ]
)
def lower_warp_kernel(
    g,
    a,
    table,
    g_low,
    g_high,
    a_low,
    a_high,
    extent,
    highest,
    width,
    table_size,
    g_size,
    seqlen_q,
    a_rows,
    a_ranges,
    a_size,
    g_programs,
    a_programs,
    BLOCK: tl.constexpr,
):
    """Write a warp's g (extent,), by distance, to `table` (width,), by falling offset from highest + PAD down. And the
    ranges of table, to g_low and g_high; and of a (a_rows, N), to a_low and a_high (a_rows, a_ranges): see `WarpTensors`.
    Nothing is left unwritten up to the sizes of the parts.
    """
    program = tl.program_id(0)
    COUNT: tl.constexpr = BLOCK // RANGE_STEP.value
    if program < g_programs:
        x = program * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
        least = tl.full((BLOCK,), float("inf"), tl.float32)
        most = tl.full((BLOCK,), float("-inf"), tl.float32)
        for part in tl.static_range(RANGE_PARTS):
            y = x + part * RANGE_STEP  # (BLOCK,)
            value = tl.load(g + tl.minimum(tl.abs(highest + PAD - y), extent - 1))
            if part == 0:
                tl.store(table + x, value, mask=x < table_size)
            least = tl.minimum(least, tl.where(y < width, value, float("inf")))
            most = tl.maximum(most, tl.where(y < width, value, float("-inf")))
        store_ranges(least, most, g_low, g_high, program * COUNT, g_size, BLOCK)
    else:
        row = (program - g_programs) // a_programs
        block = (program - g_programs) % a_programs
        x = block * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
        value = tl.load(a + tl.cast(row, tl.int64) * seqlen_q + x, mask=x < seqlen_q, other=0.0)
        end = tl.where(row == a_rows - 1, a_size, (row + 1) * a_ranges)
        least = tl.where(x < seqlen_q, value, float("inf"))  # (BLOCK,)
        most = tl.where(x < seqlen_q, value, float("-inf"))  # (BLOCK,)
        store_ranges(least, most, a_low, a_high, row * a_ranges + block * COUNT, end, BLOCK)


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
