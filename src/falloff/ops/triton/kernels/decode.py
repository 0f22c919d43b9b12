"""Split-KV attention, for few query rows and many keys: the keys of a head are split among programs, then merged.

A program has the rows of all query heads of a GQA group, so that each key is read once. Every tile takes a mask and the
general bias: it is bound by reading keys and values.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LN2, LOG2E, Dims, Tile
from falloff.ops.triton.kernels.bias import add_bias, add_potential
from falloff.ops.triton.kernels.dropout import keep_factor
from falloff.ops.triton.kernels.mask import load_seen, visible
from falloff.ops.triton.kernels.memory import load_rows
from falloff.ops.triton.kernels.warp import range_of_a


@triton.jit(do_not_specialize=[*Dims._fields, "splits", "split_keys"])
def split_kernel(
    inputs,
    split_out,
    split_max,
    split_sum,
    seqlen_q,
    seqlen_k,
    heads,
    group_size,
    left,
    right,
    shift,
    extent,
    splits,
    split_keys,
    cfg,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """For each split of `split_keys` keys: unnormalised output split_out (B, H, N, splits, D), row max split_max (base 2)
    and row sum split_sum (B, H, N, splits).
    """
    dims = Dims(seqlen_q, seqlen_k, heads, group_size, left, right, shift, extent)
    kv_heads = heads // group_size
    kv_head = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    b = kv_head // kv_heads
    g = kv_head % kv_heads
    row = tl.arange(0, BLOCK_M)  # (BLOCK_M,): the rows of all heads of the group
    exists = row < group_size * seqlen_q  # (BLOCK_M,)
    head = g * group_size + tl.minimum(row // seqlen_q, group_size - 1)  # (BLOCK_M,)
    i = row % seqlen_q  # (BLOCK_M,)
    h = head[:, None]  # (BLOCK_M, 1)
    offs_m = i[:, None]  # (BLOCK_M, 1)
    offs_n = tl.arange(0, BLOCK_N)[None, :]  # (1, BLOCK_N)
    offs_d = tl.arange(0, cfg.BLOCK_D)[None, :]  # (1, BLOCK_D)

    q_base = inputs.q.pointer + tl.cast(b, tl.int64) * inputs.q.stride_b
    pointers = q_base + tl.cast(h, tl.int64) * inputs.q.stride_h + tl.cast(offs_m, tl.int64) * inputs.q.stride_m + offs_d
    q = tl.load(pointers, mask=exists[:, None] & (offs_d < cfg.D), other=0.0)  # (BLOCK_M, BLOCK_D)
    scale = inputs.softmax_scale * LOG2E
    a_low, a_high = range_of_a(inputs, dims, b, 0, BLOCK_M, cfg)
    acc = tl.zeros((BLOCK_M, cfg.BLOCK_D), tl.float32)
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    begin = split * split_keys
    end = tl.minimum(begin + split_keys, seqlen_k)
    if cfg.CAUSAL:
        end = tl.minimum(end, seqlen_q + right)
    if cfg.WINDOW:
        begin = tl.maximum(begin, left)
    for start_n in range(begin, end, BLOCK_N):
        # v before k, as in `forward`: for the proxy fence of Hopper's products, of 64 rows or more
        v = load_seen(inputs, inputs.v, b, g, start_n, seqlen_k, BLOCK_N, cfg, True)  # (BLOCK_N, BLOCK_D)
        k = load_rows(inputs.k, b, g, start_n, seqlen_k, BLOCK_N, cfg, True)  # (BLOCK_N, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_M, BLOCK_N)
        tile = Tile(b, h, 0, start_n, offs_m, offs_n, a_low, a_high)
        scores, unit, constant = add_bias(scores, scale, inputs, dims, tile, cfg, True)
        scores = scores * unit + constant
        if inputs.potential is not None:
            scores = add_potential(scores, inputs, dims, tile, cfg)
        seen = visible(inputs, dims, tile, cfg, True) & (start_n + offs_n < end)  # (BLOCK_M, BLOCK_N)
        scores = tl.where(seen, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))  # (BLOCK_M,)
        base = tl.where(new_max == float("-inf"), 0.0, new_max)  # (BLOCK_M,)
        p = tl.exp2(scores - base[:, None])  # (BLOCK_M, BLOCK_N)
        rescale = tl.exp2(row_max - base)  # (BLOCK_M,)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        row_max = new_max
        if inputs.dropout is not None:
            p *= keep_factor(inputs.dropout, tile)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision=cfg.INPUT_PRECISION)

    at = ((tl.cast(b, tl.int64) * heads + head) * seqlen_q + i) * splits + split  # (BLOCK_M,)
    tl.store(split_out + at[:, None] * cfg.D + offs_d, acc, mask=exists[:, None] & (offs_d < cfg.D))
    tl.store(split_max + at, row_max, mask=exists)
    tl.store(split_sum + at, row_sum, mask=exists)


@triton.jit(do_not_specialize=["seqlen_q", "heads", "splits"])
def merge_kernel(split_out, split_max, split_sum, out, lse, seqlen_q, heads, splits, cfg, SPLITS: tl.constexpr):
    """One row of out and lse from its splits, in a fixed order. SPLITS: a power of two, at least `splits`."""
    row = tl.cast(tl.program_id(0), tl.int64)
    split = tl.arange(0, SPLITS)  # (SPLITS,)
    offs_d = tl.arange(0, cfg.BLOCK_D)[None, :]  # (1, BLOCK_D)
    maxima = tl.load(split_max + row * splits + split, mask=split < splits, other=float("-inf"))  # (SPLITS,)
    row_max = tl.max(maxima, 0)
    base = tl.where(row_max == float("-inf"), 0.0, row_max)
    rescale = tl.exp2(maxima - base)  # (SPLITS,)
    row_sum = tl.sum(tl.load(split_sum + row * splits + split, mask=split < splits, other=0.0) * rescale, 0)
    parts = split_out + (row * splits + split[:, None]) * cfg.D + offs_d  # (SPLITS, BLOCK_D)
    part = tl.load(parts, mask=(split[:, None] < splits) & (offs_d < cfg.D), other=0.0)  # (SPLITS, BLOCK_D)
    acc = tl.sum(part * rescale[:, None], 0)  # (BLOCK_D,)
    sees_nothing = row_sum == 0
    row_sum = tl.where(sees_nothing, 1.0, row_sum)
    acc /= row_sum
    offs_d = tl.arange(0, cfg.BLOCK_D)  # (BLOCK_D,)
    to = (
        out.pointer
        + row // seqlen_q // heads * out.stride_b
        + row // seqlen_q % heads * out.stride_h
        + row % seqlen_q * out.stride_m
    )
    tl.store(to + offs_d, acc.to(out.pointer.dtype.element_ty), mask=offs_d < cfg.D)
    tl.store(lse + row, tl.where(sees_nothing, float("-inf"), (row_max + tl.log2(row_sum)) * LN2))
