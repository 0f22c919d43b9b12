"""The backward kernels. One program writes each element, and sums have a fixed order: two runs give the same bits.

    delta_kernel   delta = rowsum(dO * O) - dLSE, and the log-sum-exp in base 2
    dq_kernel      a program owns a q tile: dQ, a band's gradient, and what a form's gradient sums along rows
    dkdv_kernel    a program owns a kv tile: dK and dV

P is recomputed from the log-sum-exp; dS = P * (dP - delta). The gradients of a strip and of a warp's g are sums of dS along
diagonals: see `diagonals`.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, Dims, Tile
from falloff.ops.triton.kernels.bias import add_bias, add_potential, far_biases, store_band
from falloff.ops.triton.kernels.dropout import keep_factor
from falloff.ops.triton.kernels.mask import key_seen, load_seen, visible
from falloff.ops.triton.kernels.memory import load_rows, store_rows
from falloff.ops.triton.kernels.skip import keys_of_rows, rows_of_keys
from falloff.ops.triton.kernels.warp import range_of_a, segments_of, up_to_knot, warp_factors, warp_line
from falloff.ops.triton.kernels.zones import key_zones, row_zones

SHARE = tl.constexpr(16)  # rows that one hardware warp has of a product's result: their sum takes no barrier


@triton.jit(do_not_specialize=["seqlen_q", "heads", "q_tiles"])
def delta_kernel(do_rows, out, grad_lse, lse, delta, lse2, seqlen_q, heads, q_tiles, cfg, BLOCK_M: tl.constexpr):
    """delta and lse2 = lse / log 2, both (B, H, N). A row that sees no key gets delta 0 and lse2 +inf, so its P is 0."""
    head = tl.program_id(0) // q_tiles
    start_m = tl.program_id(0) % q_tiles * BLOCK_M
    i = start_m + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    b = head // heads
    h = head % heads
    do = load_rows(do_rows, b, h, start_m, seqlen_q, BLOCK_M, cfg, True).to(tl.float32)  # (BLOCK_M, BLOCK_D)
    o = load_rows(out, b, h, start_m, seqlen_q, BLOCK_M, cfg, True).to(tl.float32)  # (BLOCK_M, BLOCK_D)
    row_delta = tl.sum(do * o, 1)  # (BLOCK_M,)
    at = tl.cast(head, tl.int64) * seqlen_q + i  # (BLOCK_M,)
    if grad_lse is not None:
        row_delta -= tl.load(grad_lse + at, mask=i < seqlen_q, other=0.0)
    row_lse2 = tl.load(lse + at, mask=i < seqlen_q, other=0.0) * LOG2E  # (BLOCK_M,)
    sees_nothing = row_lse2 == float("-inf")
    tl.store(delta + at, tl.where(sees_nothing, 0.0, row_delta), mask=i < seqlen_q)
    tl.store(lse2 + at, tl.where(sees_nothing, float("inf"), row_lse2), mask=i < seqlen_q)


@triton.jit
def probabilities(scores, lse2, far_bias, inputs, dims, tile, cfg, ZONE: tl.constexpr):
    """P of a tile from scores = q k^T, both in the shape of the tile, to which lse2 broadcasts."""
    scale = inputs.softmax_scale * LOG2E
    if ZONE == "past" or ZONE == "future":
        exponent = scores * scale + (far_bias - lse2)
    else:
        scores, unit, constant = add_bias(scores, scale, inputs, dims, tile, cfg, ZONE == "edge")
        exponent = scores * unit - (lse2 - constant)
    if inputs.potential is not None:
        exponent = add_potential(exponent, inputs, dims, tile, cfg)
    if ZONE == "edge" or cfg.LOADED_MASK:
        exponent = tl.where(visible(inputs, dims, tile, cfg, ZONE == "edge"), exponent, float("-inf"))
    return tl.exp2(exponent)


@triton.jit
def add_warp_sums(sums, ds, inputs, dims, tile, cfg):
    """Add the tile ds (BLOCK_M, BLOCK_N), segment by segment, to the sums of a warp's gradient.

    row_ds and row_ds_g (BLOCK_M,): row sums of dS and dS * g in the last `segment`, which da (BLOCK_M,), d_slope and
    d_intercept (BLOCK_M / SHARE, SEGMENTS) do not have yet. So a tile that lies in that segment adds to row sums alone.
    """
    da, d_slope, d_intercept, row_ds, row_ds_g, segment = sums
    g, a = warp_factors(inputs, dims, tile, cfg)  # (BLOCK_M, BLOCK_N), (BLOCK_M, 1)
    low, high = segments_of(inputs, dims, tile, cfg)
    if (low != segment) | (high != segment):
        da, d_slope, d_intercept = add_row_sums(da, d_slope, d_intercept, row_ds, row_ds_g, a, segment, inputs, tile, cfg)
        row_ds = tl.zeros_like(row_ds)
        row_ds_g = tl.zeros_like(row_ds_g)
        segment = high
        # As g * a, which LLVM would compute before this branch and that of the bias, for every tile.
        x = tl.fma(g, a, tl.zeros_like(a))  # (BLOCK_M, BLOCK_N)
        for s in range(low, high):
            part = up_to_knot(ds, x, inputs, s, cfg)  # (BLOCK_M, BLOCK_N)
            ds -= part
            part_ds = tl.sum(part, 1)  # (BLOCK_M,)
            part_ds_g = tl.sum(part * g, 1)  # (BLOCK_M,)
            da, d_slope, d_intercept = add_row_sums(da, d_slope, d_intercept, part_ds, part_ds_g, a, s, inputs, tile, cfg)
    return da, d_slope, d_intercept, row_ds + tl.sum(ds, 1), row_ds_g + tl.sum(ds * g, 1), segment


@triton.jit
def add_row_sums(da, d_slope, d_intercept, row_ds, row_ds_g, a, segment, inputs, tile, cfg):
    """Add row sums of dS and dS * g in one segment to the sums of a warp's gradient."""
    here = tl.arange(0, cfg.SEGMENTS)[None, :] == segment  # (1, SEGMENTS)
    da += row_ds_g * warp_line(inputs, tile.h, segment, cfg)[0]
    d_slope += tl.where(here, sum_shares(row_ds_g * tl.reshape(a, (a.shape[0],))), 0.0)
    d_intercept += tl.where(here, sum_shares(row_ds), 0.0)
    return da, d_slope, d_intercept


@triton.jit
def sum_shares(rows):
    """The sum of each SHARE of `rows` (BLOCK_M,): (BLOCK_M / SHARE, 1)."""
    return tl.sum(tl.reshape(rows, (rows.shape[0] // SHARE.value, SHARE)), 1)[:, None]


@triton.jit
def visit_kv_tiles(
    state, rows, inputs, dims, grads, q_tile, begin, end, far_bias, BLOCK_N: tl.constexpr, cfg, ZONE: tl.constexpr
):
    """Visit the keys begin .. end - 1 for one q tile. The state: dQ, and the sums along rows of a form's gradient."""
    dq, future_ds, warp_sums = state  # (BLOCK_M, BLOCK_D), (BLOCK_M,), and see `add_warp_sums`
    q, do, lse2, delta = rows  # (BLOCK_M, BLOCK_D), (BLOCK_M, BLOCK_D), (BLOCK_M,), (BLOCK_M,)
    b, h, start_m, _, offs_m, offs_n, a_low, a_high = q_tile
    g = h // dims.group_size
    # The guard keeps the accumulators out of a loop of no trips: for that, ptxas would wait for each product of a warpgroup.
    if begin < end:
        for start_n in range(begin, end, BLOCK_N):
            tile = Tile(b, h, start_m, start_n, offs_m, offs_n, a_low, a_high)
            k = load_seen(inputs, inputs.k, b, g, start_n, dims.seqlen_k, BLOCK_N, cfg, ZONE == "edge")  # (BLOCK_N, BLOCK_D)
            v = load_seen(inputs, inputs.v, b, g, start_n, dims.seqlen_k, BLOCK_N, cfg, ZONE == "edge")  # (BLOCK_N, BLOCK_D)
            scores = tl.dot(q, tl.trans(k), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_M, BLOCK_N)
            p = probabilities(scores, lse2[:, None], far_bias, inputs, dims, tile, cfg, ZONE)  # (BLOCK_M, BLOCK_N)
            dp = tl.dot(do, tl.trans(v), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_M, BLOCK_N)
            if inputs.dropout is not None:
                dp *= keep_factor(inputs.dropout, tile)
            ds = p * (dp - delta[:, None])  # (BLOCK_M, BLOCK_N)
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=cfg.INPUT_PRECISION)
            if grads.future_ds is not None:
                if ZONE == "future":
                    future_ds += tl.sum(ds, 1)
                elif ZONE != "past":
                    ahead = dims.shift + start_m - start_n + (offs_m - offs_n) <= 0  # (BLOCK_M, BLOCK_N)
                    future_ds += tl.sum(tl.where(ahead, ds, 0.0), 1)
            if grads.d_band is not None and (ZONE == "near" or ZONE == "edge"):
                store_band(grads.d_band, ds, dims, tile)
            if grads.row_da is not None:
                warp_sums = add_warp_sums(warp_sums, ds, inputs, dims, tile, cfg)
    return dq, future_ds, warp_sums


@triton.jit(do_not_specialize=[*Dims._fields, "q_tiles"])
def dq_kernel(
    inputs,
    grads,
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
    """dQ of a q tile. Also d_band, or future_ds of a strip, or row_da and segment_sums of a warp."""
    dims = Dims(seqlen_q, seqlen_k, heads, group_size, left, right, shift, extent)
    head = tl.program_id(0) // q_tiles
    start_m = (q_tiles - 1 - tl.program_id(0) % q_tiles) * BLOCK_M
    b = head // heads
    h = head % heads

    begin, end = keys_of_rows(key_ranges, head, start_m, dims, BLOCK_M)
    begin, past, middle, future, edge, end = key_zones(dims, start_m, begin, end, BLOCK_M, BLOCK_N, cfg)
    past_bias, future_bias = far_biases(inputs, dims, h, cfg)
    a_low, a_high = range_of_a(inputs, dims, b, start_m, BLOCK_M, cfg)
    i = start_m + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    at = tl.cast(head, tl.int64) * seqlen_q + i  # (BLOCK_M,)
    q = load_rows(inputs.q, b, h, start_m, seqlen_q, BLOCK_M, cfg, True)  # (BLOCK_M, BLOCK_D)
    do = load_rows(grads.do, b, h, start_m, seqlen_q, BLOCK_M, cfg, True)  # (BLOCK_M, BLOCK_D)
    lse2 = tl.load(grads.lse2 + at, mask=i < seqlen_q, other=float("inf"))  # (BLOCK_M,)
    delta = tl.load(grads.delta + at, mask=i < seqlen_q, other=0.0)  # (BLOCK_M,)
    row_zeros = tl.zeros((BLOCK_M,), tl.float32)
    segment_zeros = tl.zeros((BLOCK_M // SHARE.value, cfg.SEGMENTS), tl.float32)
    offs_m = tl.arange(0, BLOCK_M)[:, None]  # (BLOCK_M, 1)
    offs_n = tl.arange(0, BLOCK_N)[None, :]  # (1, BLOCK_N)
    q_tile = Tile(b, h, start_m, 0, offs_m, offs_n, a_low, a_high)
    warp_sums = (row_zeros, segment_zeros, segment_zeros, row_zeros, row_zeros, tl.to_tensor(0))
    state = (tl.zeros((BLOCK_M, cfg.BLOCK_D), tl.float32), row_zeros, warp_sums)
    rows = (q, do, lse2, delta)
    if cfg.WINDOW and (cfg.FAR_PAST or cfg.MIDDLE != "edge"):
        state = visit_kv_tiles(state, rows, inputs, dims, grads, q_tile, begin, past, 0.0, BLOCK_N, cfg, "edge")
    if cfg.FAR_PAST:
        state = visit_kv_tiles(state, rows, inputs, dims, grads, q_tile, past, middle, past_bias, BLOCK_N, cfg, "past")
    if cfg.MIDDLE != "none":
        state = visit_kv_tiles(state, rows, inputs, dims, grads, q_tile, middle, future, 0.0, BLOCK_N, cfg, cfg.MIDDLE)
    if cfg.FAR_FUTURE:
        state = visit_kv_tiles(state, rows, inputs, dims, grads, q_tile, future, edge, future_bias, BLOCK_N, cfg, "future")
    if cfg.FAR_FUTURE or cfg.MIDDLE != "edge":
        state = visit_kv_tiles(state, rows, inputs, dims, grads, q_tile, edge, end, 0.0, BLOCK_N, cfg, "edge")

    dq, future_ds, warp_sums = state
    if grads.dq is not None:
        store_rows(grads.dq, dq * inputs.softmax_scale, b, h, start_m, seqlen_q, BLOCK_M, cfg)
    if grads.future_ds is not None:
        tl.store(grads.future_ds + at, future_ds, mask=i < seqlen_q)
    if grads.row_da is not None:
        da, d_slope, d_intercept, row_ds, row_ds_g, segment = warp_sums
        _, a = warp_factors(inputs, dims, q_tile, cfg)
        da, d_slope, d_intercept = add_row_sums(da, d_slope, d_intercept, row_ds, row_ds_g, a, segment, inputs, q_tile, cfg)
        tl.store(grads.row_da + at, da, mask=i < seqlen_q)
        k = tl.arange(0, cfg.SEGMENTS)  # (SEGMENTS,)
        sums = grads.segment_sums + (tl.cast(head, tl.int64) * q_tiles + start_m // BLOCK_M) * 2 * cfg.SEGMENTS + k
        tl.store(sums, tl.sum(d_slope, 0))
        tl.store(sums + cfg.SEGMENTS, tl.sum(d_intercept, 0))


@triton.jit
def visit_q_tiles(
    state,
    k,
    v,
    inputs,
    dims,
    grads,
    kv_tile,
    begin,
    end,
    far_bias,
    BLOCK_M: tl.constexpr,
    cfg,
    ZONE: tl.constexpr,
):
    """Visit the rows begin .. end - 1 of one head for one kv tile. Scores are held transposed.

    The state: dK, dV, and the sum of dS of each key for this head.
    """
    dk, dv, key_ds = state  # (BLOCK_N, BLOCK_D), (BLOCK_N, BLOCK_D), (BLOCK_N,)
    b, h, _, start_n, offs_m, offs_n, _, _ = kv_tile
    head = tl.cast(b, tl.int64) * dims.heads + h
    for start_m in range(begin, end, BLOCK_M):
        a_low, a_high = range_of_a(inputs, dims, b, start_m, BLOCK_M, cfg)
        tile = Tile(b, h, start_m, start_n, offs_m, offs_n, a_low, a_high)
        q = load_rows(inputs.q, b, h, start_m, dims.seqlen_q, BLOCK_M, cfg, ZONE == "edge")  # (BLOCK_M, BLOCK_D)
        do = load_rows(grads.do, b, h, start_m, dims.seqlen_q, BLOCK_M, cfg, ZONE == "edge")  # (BLOCK_M, BLOCK_D)
        i = start_m + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
        # lse2, delta: (BLOCK_M,). Naming their common index costs registers and spills.
        if ZONE == "edge":
            lse2 = tl.load(grads.lse2 + head * dims.seqlen_q + i, mask=i < dims.seqlen_q, other=float("inf"))
            delta = tl.load(grads.delta + head * dims.seqlen_q + i, mask=i < dims.seqlen_q, other=0.0)
        else:
            lse2 = tl.load(grads.lse2 + head * dims.seqlen_q + i)
            delta = tl.load(grads.delta + head * dims.seqlen_q + i)
        scores = tl.dot(k, tl.trans(q), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_N, BLOCK_M)
        p = probabilities(scores, lse2[None, :], far_bias, inputs, dims, tile, cfg, ZONE)  # (BLOCK_N, BLOCK_M)
        dp = tl.dot(v, tl.trans(do), input_precision=cfg.INPUT_PRECISION)  # (BLOCK_N, BLOCK_M)
        if inputs.dropout is not None:
            factor = keep_factor(inputs.dropout, tile)  # (BLOCK_N, BLOCK_M)
            dv = tl.dot((p * factor).to(v.dtype), do, dv, input_precision=cfg.INPUT_PRECISION)
            dp *= factor
        else:
            dv = tl.dot(p.to(v.dtype), do, dv, input_precision=cfg.INPUT_PRECISION)
        ds = p * (dp - delta[None, :])  # (BLOCK_N, BLOCK_M)
        dk = tl.dot(ds.to(k.dtype), q, dk, input_precision=cfg.INPUT_PRECISION)
        if grads.d_key_potential is not None:
            key_ds += tl.sum(ds, 1)
    return dk, dv, key_ds


@triton.jit(do_not_specialize=[*Dims._fields, "kv_tiles"])
def dkdv_kernel(
    inputs,
    grads,
    key_ranges,
    seqlen_q,
    seqlen_k,
    heads,
    group_size,
    left,
    right,
    shift,
    extent,
    kv_tiles,
    cfg,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dK and dV of a kv tile, over all query heads of its GQA group. Also d_key_potential of each head."""
    dims = Dims(seqlen_q, seqlen_k, heads, group_size, left, right, shift, extent)
    kv_head = tl.program_id(0) // kv_tiles
    # Under a causal mask the first keys are seen by the most rows: they start first.
    start_n = tl.program_id(0) % kv_tiles * BLOCK_N
    b = kv_head // (heads // group_size)
    g = kv_head % (heads // group_size)
    k = load_rows(inputs.k, b, g, start_n, seqlen_k, BLOCK_N, cfg, True)  # (BLOCK_N, BLOCK_D)
    v = load_seen(inputs, inputs.v, b, g, start_n, seqlen_k, BLOCK_N, cfg, True)  # (BLOCK_N, BLOCK_D)
    offs_m = tl.arange(0, BLOCK_M)[None, :]  # (1, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)[:, None]  # (BLOCK_N, 1)
    key_zeros = tl.zeros((BLOCK_N,), tl.float32)
    state = (tl.zeros((BLOCK_N, cfg.BLOCK_D), tl.float32), tl.zeros((BLOCK_N, cfg.BLOCK_D), tl.float32), key_zeros)
    for h in range(g * group_size, (g + 1) * group_size):
        kv_tile = Tile(b, h, 0, start_n, offs_m, offs_n, 0.0, 0.0)
        begin, end = rows_of_keys(key_ranges, b * heads + h, start_n, 0, dims, BLOCK_N, 1)
        begin, future, middle, past, edge, end = row_zones(dims, start_n, begin, end, BLOCK_M, BLOCK_N, cfg)
        past_bias, future_bias = far_biases(inputs, dims, h, cfg)
        if cfg.CAUSAL and (cfg.FAR_FUTURE or cfg.MIDDLE != "edge"):
            state = visit_q_tiles(state, k, v, inputs, dims, grads, kv_tile, begin, future, 0.0, BLOCK_M, cfg, "edge")
        if cfg.FAR_FUTURE:
            state = visit_q_tiles(
                state, k, v, inputs, dims, grads, kv_tile, future, middle, future_bias, BLOCK_M, cfg, "future"
            )
        if cfg.MIDDLE != "none":
            state = visit_q_tiles(state, k, v, inputs, dims, grads, kv_tile, middle, past, 0.0, BLOCK_M, cfg, cfg.MIDDLE)
        if cfg.FAR_PAST:
            state = visit_q_tiles(state, k, v, inputs, dims, grads, kv_tile, past, edge, past_bias, BLOCK_M, cfg, "past")
        if cfg.FAR_PAST or cfg.MIDDLE != "edge":
            state = visit_q_tiles(state, k, v, inputs, dims, grads, kv_tile, edge, end, 0.0, BLOCK_M, cfg, "edge")
        if grads.d_key_potential is not None:
            dk, dv, key_ds = state
            j = start_n + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
            if inputs.key_mask is not None:
                key_ds = tl.where(key_seen(inputs, b, j, seqlen_k), key_ds, 0.0)
            at = (tl.cast(b, tl.int64) * heads + h) * seqlen_k + j  # (BLOCK_N,)
            tl.store(grads.d_key_potential + at, key_ds, mask=j < seqlen_k)
            state = (dk, dv, key_zeros)
    dk, dv, _ = state
    if inputs.key_mask is not None:  # a NaN in q or dO must not reach the gradient of a hidden key
        seen = key_seen(inputs, b, start_n + offs_n, seqlen_k)  # (BLOCK_N, 1)
        dk = tl.where(seen, dk, 0.0)
        dv = tl.where(seen, dv, 0.0)
    store_rows(grads.dk, dk * inputs.softmax_scale, b, g, start_n, seqlen_k, BLOCK_N, cfg)
    store_rows(grads.dv, dv, b, g, start_n, seqlen_k, BLOCK_N, cfg)
