"""The forward kernel: a program owns a q tile and visits its kv tiles, with online softmax (running row max and row sum).

Scores are in base 2: softmax_scale and bias include the factor log2(e), so that a probability is one exp2.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LN2, LOG2E, Dims, Tile
from falloff.ops.triton.kernels.bias import add_bias, add_potential, far_biases
from falloff.ops.triton.kernels.dropout import keep_factor
from falloff.ops.triton.kernels.mask import load_seen, visible
from falloff.ops.triton.kernels.memory import load_rows, store_rows
from falloff.ops.triton.kernels.skip import keys_of_rows
from falloff.ops.triton.kernels.warp import range_of_a
from falloff.ops.triton.kernels.zones import key_zones


@triton.jit
def attend(state, q, inputs, dims, q_tile, begin, end, far_bias, BLOCK_N: tl.constexpr, cfg, ZONE: tl.constexpr):
    """Visit the keys begin .. end - 1. The state: unnormalised output, row max (base 2) and row sum."""
    acc, row_max, row_sum = state  # (BLOCK_M, BLOCK_D), (BLOCK_M,), (BLOCK_M,)
    b, h, start_m, _, offs_m, offs_n, a_low, a_high = q_tile
    g = h // dims.group_size
    EDGE: tl.constexpr = ZONE == "edge"
    FAR: tl.constexpr = ZONE == "past" or ZONE == "future"
    scale = inputs.softmax_scale * LOG2E
    # The guard keeps the accumulators out of a loop of no trips: for that, ptxas would wait for each product of a warpgroup.
    if begin < end:
        for start_n in range(begin, end, BLOCK_N):
            tile = Tile(b, h, start_m, start_n, offs_m, offs_n, a_low, a_high)
            # v before k: copies end in this order, so that a wait for k is one for v too, and the proxy fence behind it
            # serves both. Triton 3.7.1 sets none behind the branch of a warp's bias.
            v = load_seen(inputs, inputs.v, b, g, start_n, dims.seqlen_k, BLOCK_N, cfg, EDGE)  # (BLOCK_N, BLOCK_D)
            k = load_rows(inputs.k, b, g, start_n, dims.seqlen_k, BLOCK_N, cfg, EDGE)  # (BLOCK_N, BLOCK_D)
            scores = tl.dot(q, tl.trans(k), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_M, BLOCK_N)
            # The exponents of 2 are scores * unit + constant. Unit and constant are one number each: the constant is added
            # to the row max, so a probability is one multiply-add and one exp2.
            unit = 1.0
            constant = 0.0
            if FAR and not cfg.LOADED_MASK and inputs.potential is None:
                unit = scale
                constant = far_bias
            elif FAR:
                scores = scores * scale + far_bias
            else:
                scores, unit, constant = add_bias(scores, scale, inputs, dims, tile, cfg, EDGE)
            if inputs.potential is not None:
                scores = add_potential(scores * unit + constant, inputs, dims, tile, cfg)
                unit = 1.0
                constant = 0.0
            if EDGE or cfg.LOADED_MASK:
                scores = tl.where(visible(inputs, dims, tile, cfg, EDGE), scores, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, 1) * unit + constant)  # (BLOCK_M,)
            base = tl.where(new_max == float("-inf"), 0.0, new_max)  # (BLOCK_M,); -inf - -inf would be NaN
            p = tl.exp2(scores * unit - (base - constant)[:, None])  # (BLOCK_M, BLOCK_N)
            rescale = tl.exp2(row_max - base)  # (BLOCK_M,)
            row_sum = row_sum * rescale + tl.sum(p, 1)
            row_max = new_max
            if inputs.dropout is not None:
                p *= keep_factor(inputs.dropout, tile)
            acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision=cfg.INPUT_PRECISION)
    return acc, row_max, row_sum


@triton.jit(do_not_specialize=[*Dims._fields, "q_tiles"])
def forward_kernel(
    inputs,
    out,
    lse,
    key_ranges,
    seqlen_q,
    seqlen_k,
    heads,
    group_size,
    left,
    right,
    shift,
    extent,
    q_tiles,
    cfg,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out (B, H, N, D) and lse (B, H, N). key_ranges: see `skip`, or None."""
    dims = Dims(seqlen_q, seqlen_k, heads, group_size, left, right, shift, extent)
    head = tl.program_id(0) // q_tiles
    # Under a causal mask the last rows see the most keys: they start first.
    start_m = (q_tiles - 1 - tl.program_id(0) % q_tiles) * BLOCK_M
    b = head // heads
    h = head % heads

    begin, end = keys_of_rows(key_ranges, head, start_m, dims, BLOCK_M)
    begin, past, middle, future, edge, end = key_zones(dims, start_m, begin, end, BLOCK_M, BLOCK_N, cfg)
    past_bias, future_bias = far_biases(inputs, dims, h, cfg)
    a_low, a_high = range_of_a(inputs, dims, b, start_m, BLOCK_M, cfg)
    q = load_rows(inputs.q, b, h, start_m, seqlen_q, BLOCK_M, cfg, True)  # (BLOCK_M, BLOCK_D)
    offs_m = tl.arange(0, BLOCK_M)[:, None]  # (BLOCK_M, 1)
    offs_n = tl.arange(0, BLOCK_N)[None, :]  # (1, BLOCK_N)
    q_tile = Tile(b, h, start_m, 0, offs_m, offs_n, a_low, a_high)
    lowest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = (tl.zeros((BLOCK_M, cfg.BLOCK_D), tl.float32), lowest, tl.zeros((BLOCK_M,), tl.float32))
    if cfg.WINDOW and (cfg.FAR_PAST or cfg.MIDDLE != "edge"):
        state = attend(state, q, inputs, dims, q_tile, begin, past, 0.0, BLOCK_N, cfg, "edge")
    if cfg.FAR_PAST:
        state = attend(state, q, inputs, dims, q_tile, past, middle, past_bias, BLOCK_N, cfg, "past")
    if cfg.MIDDLE != "none":
        state = attend(state, q, inputs, dims, q_tile, middle, future, 0.0, BLOCK_N, cfg, cfg.MIDDLE)
    if cfg.FAR_FUTURE:
        state = attend(state, q, inputs, dims, q_tile, future, edge, future_bias, BLOCK_N, cfg, "future")
    if cfg.FAR_FUTURE or cfg.MIDDLE != "edge":
        state = attend(state, q, inputs, dims, q_tile, edge, end, 0.0, BLOCK_N, cfg, "edge")

    acc, row_max, row_sum = state
    sees_nothing = row_sum == 0
    row_sum = tl.where(sees_nothing, 1.0, row_sum)
    acc /= row_sum[:, None]
    store_rows(out, acc, b, h, start_m, seqlen_q, BLOCK_M, cfg)
    i = start_m + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    row_lse = tl.where(sees_nothing, float("-inf"), (row_max + tl.log2(row_sum)) * LN2)
    tl.store(lse + tl.cast(head, tl.int64) * seqlen_q + i, row_lse, mask=i < seqlen_q)
