"""The gradient of a bias that depends on the offset: sums of dS along diagonals, without atomics.

A program owns a block diagonal of one head: tiles (SIDE, SIDE) whose rows and keys both advance by SIDE, so that all have
the same offset at the same element. It adds their dS elementwise in registers, and sums along diagonals once at the end. A
tile has 2 SIDE - 1 offsets; neighbouring block diagonals share half of them, and the host adds the two halves.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, Dims, Tile
from falloff.ops.triton.kernels.bias import add_bias, add_potential, strip_tile
from falloff.ops.triton.kernels.dropout import keep_factor
from falloff.ops.triton.kernels.mask import load_seen, visible
from falloff.ops.triton.kernels.memory import load_rows
from falloff.ops.triton.kernels.skip import rows_of_keys
from falloff.ops.triton.kernels.warp import range_of_a, segments_of, up_to_knot, warp_factors, warp_line
from falloff.ops.triton.kernels.zones import down


@triton.jit
def add_dg(dg, ds, inputs, dims, tile, cfg):
    """dg + dS * slope * a of a warp, (SIDE, SIDE)."""
    g, a = warp_factors(inputs, dims, tile, cfg)  # (SIDE, SIDE), (SIDE, 1)
    low, high = segments_of(inputs, dims, tile, cfg)
    if low < high:
        x = g * a  # (SIDE, SIDE)
        for segment in range(low, high):
            part = up_to_knot(ds, x, inputs, segment, cfg)  # (SIDE, SIDE)
            ds -= part
            dg += part * (warp_line(inputs, tile.h, segment, cfg)[0] * a)
    return dg + ds * (warp_line(inputs, tile.h, high, cfg)[0] * a)


@triton.jit(do_not_specialize=[*Dims._fields, "lowest", "diagonals", "splits"])
def diagonal_kernel(
    inputs,
    grads,
    key_ranges,
    sums,
    seqlen_q,
    seqlen_k,
    heads,
    group_size,
    left,
    right,
    shift,
    extent,
    lowest,
    diagonals,
    splits,
    cfg,
    SIDE: tl.constexpr,
):
    """sums (B, H, diagonals, splits, 2 SIDE): entry SIDE + u of block diagonal x sums key - row = lowest + SIDE * x + u."""
    dims = Dims(seqlen_q, seqlen_k, heads, group_size, left, right, shift, extent)
    split = tl.program_id(0) % splits
    diagonal = tl.program_id(0) // splits % diagonals
    head = tl.program_id(0) // splits // diagonals
    b = head // heads
    h = head % heads
    lead = lowest + diagonal * SIDE  # start_n - start_m, the same for all tiles of the block diagonal
    offs_m = tl.arange(0, SIDE)[:, None]  # (SIDE, 1)
    offs_n = tl.arange(0, SIDE)[None, :]  # (1, SIDE)

    begin, end = rows_of_keys(key_ranges, head, lead, 1, dims, SIDE, SIDE)
    begin = down(tl.maximum(begin, -lead), SIDE)
    tiles = (tl.maximum(tl.minimum(end, seqlen_k - lead) - begin, 0) + SIDE - 1) // SIDE
    share = (tiles + splits - 1) // splits
    begin += split * share * SIDE
    end = tl.minimum(end, tl.minimum(begin + share * SIDE, seqlen_k - lead))

    # Causal, window and the bias of a strip depend on the offset: they are the same for all tiles.
    seen = offs_m >= 0
    if cfg.CAUSAL:
        seen &= lead + (offs_n - offs_m) <= right
    if cfg.WINDOW:
        seen &= lead + (offs_n - offs_m) >= left
    if cfg.BIAS == "strip":
        bias = strip_tile(inputs, dims, Tile(b, h, 0, lead, offs_m, offs_n, 0.0, 0.0), cfg, True)  # (SIDE, SIDE)
        bias = tl.where(seen, bias, float("-inf"))
    scale = inputs.softmax_scale * LOG2E
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for start_m in range(begin, end, SIDE):
        start_n = start_m + lead
        a_low, a_high = range_of_a(inputs, dims, b, start_m, SIDE, cfg)
        tile = Tile(b, h, start_m, start_n, offs_m, offs_n, a_low, a_high)
        i = start_m + tl.arange(0, SIDE)  # (SIDE,)
        at = tl.cast(head, tl.int64) * seqlen_q + i  # (SIDE,)
        q = load_rows(inputs.q, b, h, start_m, seqlen_q, SIDE, cfg, True)  # (SIDE, BLOCK_D)
        k = load_rows(inputs.k, b, h // group_size, start_n, seqlen_k, SIDE, cfg, True)  # (SIDE, BLOCK_D)
        do = load_rows(grads.do, b, h, start_m, seqlen_q, SIDE, cfg, True)  # (SIDE, BLOCK_D)
        v = load_seen(inputs, inputs.v, b, h // group_size, start_n, seqlen_k, SIDE, cfg, True)  # (SIDE, BLOCK_D)
        lse2 = tl.load(grads.lse2 + at, mask=i < seqlen_q, other=float("inf"))  # (SIDE,)
        delta = tl.load(grads.delta + at, mask=i < seqlen_q, other=0.0)  # (SIDE,)
        scores = tl.dot(q, tl.trans(k), input_precision=cfg.INPUT_PRECISION)  # (SIDE, SIDE)
        if cfg.BIAS == "strip":
            exponent = scores * scale + bias - lse2[:, None]
        else:
            scores, unit, constant = add_bias(scores, scale, inputs, dims, tile, cfg, True)
            exponent = tl.where(seen, scores * unit - (lse2[:, None] - constant), float("-inf"))
        if inputs.potential is not None:
            exponent = add_potential(exponent, inputs, dims, tile, cfg)
        if cfg.LOADED_MASK:
            exponent = tl.where(visible(inputs, dims, tile, cfg, False), exponent, float("-inf"))
        exists = (start_n + offs_n >= 0) & (start_n + offs_n < seqlen_k)  # (1, SIDE)
        p = tl.where(exists, tl.exp2(exponent), 0.0)  # (SIDE, SIDE)
        dp = tl.dot(do, tl.trans(v), input_precision=cfg.INPUT_PRECISION)  # (SIDE, SIDE)
        if inputs.dropout is not None:
            dp *= keep_factor(inputs.dropout, tile)
        ds = p * (dp - delta[:, None])  # (SIDE, SIDE)
        if cfg.BIAS == "strip":
            total += ds
        else:
            total = add_dg(total, ds, inputs, dims, tile, cfg)

    # Rotate row r by r columns: the element of key - row = lead + u moves to column u, or u + SIDE if u < 0.
    rotated = tl.gather(total, (offs_n + offs_m) % SIDE, 1)  # (SIDE, SIDE)
    ahead = tl.sum(tl.where(offs_n + offs_m < SIDE, rotated, 0.0), 0)  # (SIDE,): u >= 0
    behind = tl.sum(tl.where(offs_n + offs_m < SIDE, 0.0, rotated), 0)  # (SIDE,): u < 0
    at = sums + tl.cast(tl.program_id(0), tl.int64) * 2 * SIDE + tl.arange(0, SIDE)  # (SIDE,)
    tl.store(at, behind)
    tl.store(at + SIDE, ahead)
