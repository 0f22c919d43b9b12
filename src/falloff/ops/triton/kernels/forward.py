"""The forward kernel: a program owns a block of query rows and visits their keys with a running maximum and sum.

Online softmax in base 2: scale and bias carry the factor log2(e), so that a weight is one exp2.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.bias import add_bias, far_values, range_of_a
from falloff.ops.triton.kernels.problem import Place, Tile
from falloff.ops.triton.kernels.skip import keys_that_matter
from falloff.ops.triton.kernels.tile import LN2, LOG2E, kept, load_rows, load_seen, store_rows, visible
from falloff.ops.triton.kernels.zones import key_zones


@triton.jit
def attend(state, q, p, place, row_tile, begin, end, far, ROWS: tl.constexpr, KEYS: tl.constexpr, s, ZONE: tl.constexpr):
    """Visit the keys begin .. end - 1: a running weighted sum of values, row maximum (base 2) and row sum."""
    acc, row_max, row_sum = state
    b, h, first_row, _, r, c, a_low, a_high = row_tile
    g = h // place.fold
    EDGE: tl.constexpr = ZONE == "edge"
    FAR: tl.constexpr = ZONE == "past" or ZONE == "future"
    scale = p.scale * LOG2E
    for first_key in range(begin, end, KEYS):
        t = Tile(b, h, first_row, first_key, r, c, a_low, a_high)
        k = load_rows(p.key, b, g, first_key, place.M, KEYS, s, EDGE)
        scores = tl.dot(q, tl.trans(k), input_precision=s.PRECISION)
        if FAR and not s.LABELS:
            # The bias is one number here: it joins the maximum, and each weight is one multiply-add and one exp2.
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale + far)
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            weights = tl.exp2(scores * scale - (base - far)[:, None])
        else:
            scores *= scale
            if FAR:
                scores += far
            else:
                scores = add_bias(scores, p, place, t, s, EDGE)
            if EDGE or s.LABELS:
                scores = tl.where(visible(p, place, t, s, EDGE), scores, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, 1))
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(row_max - base)
        row_sum = row_sum * shrink + tl.sum(weights, 1)
        row_max = new_max
        if p.dropout is not None:
            weights *= kept(p.dropout, t)
        v = load_seen(p, p.value, b, g, first_key, place.M, KEYS, s, EDGE)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=s.PRECISION)
    return acc, row_max, row_sum


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "first", "last", "shift", "extent", "blocks"])
def forward_kernel(
    p,
    out,
    lse,
    bounds,
    N,
    M,
    H,
    fold,
    first,
    last,
    shift,
    extent,
    blocks,
    s,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """out (B, H, N, D) and lse (B, H, N); `bounds`: see `skip`, or None."""
    place = Place(N, M, H, fold, first, last, shift, extent)
    head = tl.program_id(0) // blocks
    # The last rows of a causal text see the most keys: they start first.
    first_row = (blocks - 1 - tl.program_id(0) % blocks) * ROWS
    b = head // H
    h = head % H

    begin, end = keys_that_matter(bounds, head, first_row, place, ROWS)
    start, clear, middle, after, edge, end = key_zones(place, first_row, begin, end, ROWS, KEYS, s)
    past, future = far_values(p, place, h, s)
    a_low, a_high = range_of_a(p, place, b, first_row, ROWS, s)
    q = load_rows(p.query, b, h, first_row, N, ROWS, s, True)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, KEYS)[None, :]
    row_tile = Tile(b, h, first_row, 0, r, c, a_low, a_high)
    lowest = tl.full((ROWS,), float("-inf"), tl.float32)
    state = (tl.zeros((ROWS, s.BLOCK_D), tl.float32), lowest, tl.zeros((ROWS,), tl.float32))
    if s.WINDOW and (s.PAST or s.MIDDLE != "edge"):
        state = attend(state, q, p, place, row_tile, start, clear, 0.0, ROWS, KEYS, s, "edge")
    if s.PAST:
        state = attend(state, q, p, place, row_tile, clear, middle, past, ROWS, KEYS, s, "past")
    if s.MIDDLE != "none":
        state = attend(state, q, p, place, row_tile, middle, after, 0.0, ROWS, KEYS, s, s.MIDDLE)
    if s.FUTURE:
        state = attend(state, q, p, place, row_tile, after, edge, future, ROWS, KEYS, s, "future")
    if s.FUTURE or s.MIDDLE != "edge":
        state = attend(state, q, p, place, row_tile, edge, end, 0.0, ROWS, KEYS, s, "edge")

    acc, row_max, row_sum = state
    nothing = row_sum == 0
    row_sum = tl.where(nothing, 1.0, row_sum)
    acc /= row_sum[:, None]
    store_rows(out, acc, b, h, first_row, N, ROWS, s)
    i = first_row + tl.arange(0, ROWS)
    log_sum = tl.where(nothing, float("-inf"), (row_max + tl.log2(row_sum)) * LN2)
    tl.store(lse + tl.cast(head, tl.int64) * N + i, log_sum, mask=i < N)
