"""The gradient of a bias that depends on the offset: sums of score gradients along diagonals, with no atomics.

A program owns a block diagonal of one head: blocks of rows and keys that move on together, so that every tile holds the same
offsets at the same places. It adds up their score gradients elementwise in registers and sums the diagonals of that once.
A block of SIDE x SIDE touches 2 SIDE - 1 offsets; block diagonals overlap by halves, which the host adds up.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.bias import (
    add_bias,
    range_of_a,
    segments_of,
    strip_tile,
    warp_factors,
    warp_line,
    within,
)
from falloff.ops.triton.kernels.problem import Place, Tile
from falloff.ops.triton.kernels.skip import rows_that_matter
from falloff.ops.triton.kernels.tile import LOG2E, kept, load_rows, load_seen, visible
from falloff.ops.triton.kernels.zones import down


@triton.jit
def add_warp(total, ds, p, place, t, s):
    """Add the gradient of g from a tile of score gradients: times slope and a."""
    g, a = warp_factors(p, place, t, s)
    low, high = segments_of(p, place, t, s)
    if low == high:
        total += ds * (warp_line(p, t.h, low, s)[0] * a)
    else:
        for segment in range(low, high + 1):
            total += within(ds, g * a, p, segment, s) * (warp_line(p, t.h, segment, s)[0] * a)
    return total


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "first", "last", "shift", "extent", "lowest", "diagonals", "parts"])
def diagonal_kernel(
    p,
    grads,
    bounds,
    sums,
    N,
    M,
    H,
    fold,
    first,
    last,
    shift,
    extent,
    lowest,
    diagonals,
    parts,
    s,
    SIDE: tl.constexpr,
):
    """sums (B, H, diagonals, parts, 2 SIDE): entry SIDE + u of block diagonal x is of key - row = lowest + SIDE x + u."""
    place = Place(N, M, H, fold, first, last, shift, extent)
    part = tl.program_id(0) % parts
    diagonal = tl.program_id(0) // parts % diagonals
    head = tl.program_id(0) // parts // diagonals
    b = head // H
    h = head % H
    lead = lowest + diagonal * SIDE  # of a block's first key before its first row
    r = tl.arange(0, SIDE)[:, None]
    c = tl.arange(0, SIDE)[None, :]

    begin, end = rows_that_matter(bounds, head, lead, 1, place, SIDE, SIDE)
    begin = down(tl.maximum(begin, -lead), SIDE)
    blocks = (tl.maximum(tl.minimum(end, M - lead) - begin, 0) + SIDE - 1) // SIDE
    share = (blocks + parts - 1) // parts
    begin += part * share * SIDE
    end = tl.minimum(end, tl.minimum(begin + share * SIDE, M - lead))

    seen = r >= 0
    if s.CAUSAL:
        seen &= lead + (c - r) <= last
    if s.WINDOW:
        seen &= lead + (c - r) >= first
    if s.FORM == "strip":  # the same for all blocks of the diagonal
        bias = strip_tile(p, place, Tile(b, h, 0, lead, r, c, 0.0, 0.0), s, True)
        bias = tl.where(seen, bias, float("-inf"))
    scale = p.scale * LOG2E
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for first_row in range(begin, end, SIDE):
        first_key = first_row + lead
        a_low, a_high = range_of_a(p, place, b, first_row, SIDE, s)
        t = Tile(b, h, first_row, first_key, r, c, a_low, a_high)
        i = first_row + tl.arange(0, SIDE)
        at = tl.cast(head, tl.int64) * N + i
        q = load_rows(p.query, b, h, first_row, N, SIDE, s, True)
        k = load_rows(p.key, b, h // fold, first_key, M, SIDE, s, True)
        do = load_rows(grads.out, b, h, first_row, N, SIDE, s, True)
        v = load_seen(p, p.value, b, h // fold, first_key, M, SIDE, s, True)
        lse2 = tl.load(grads.lse2 + at, mask=i < N, other=float("inf"))
        loss = tl.load(grads.loss + at, mask=i < N, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=s.PRECISION)
        if s.FORM == "strip":
            exponent = scores * scale + bias - lse2[:, None]
        else:
            scores = add_bias(scores * scale, p, place, t, s, True)
            exponent = tl.where(seen, scores - lse2[:, None], float("-inf"))
        if s.LABELS:
            exponent = tl.where(visible(p, place, t, s, False), exponent, float("-inf"))
        exists = (first_key + c >= 0) & (first_key + c < M)
        weights = tl.where(exists, tl.exp2(exponent), 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision=s.PRECISION)
        if p.dropout is not None:
            dp *= kept(p.dropout, t)
        ds = weights * (dp - loss[:, None])
        if s.FORM == "strip":
            total += ds
        else:
            total = add_warp(total, ds, p, place, t, s)

    # Each row rotated by its number: its entry for key - row = u comes to column u, or u + SIDE where u is negative.
    rotated = tl.gather(total, (c + r) % SIDE, 1)
    ahead = tl.sum(tl.where(c + r < SIDE, rotated, 0.0), 0)
    behind = tl.sum(tl.where(c + r < SIDE, 0.0, rotated), 0)
    at = sums + tl.cast(tl.program_id(0), tl.int64) * 2 * SIDE + tl.arange(0, SIDE)
    tl.store(at, behind)
    tl.store(at + SIDE, ahead)
