"""The backward kernels, each the only writer of what it writes: two runs give the same bits.

    loss_kernel             per row: what the gradient of a score loses, and the log-sum-exp in base 2
    query_gradient_kernel   a program owns query rows: their gradient, a band's, and a warp's sums along rows
    key_gradient_kernel     a program owns keys: the gradients of keys and values

The weights are recomputed from the log-sum-exp. The gradient of a score is weight * (gradient of the weight - loss of the
row). A strip's gradient, and that of a warp's g, run along diagonals: see `diagonals`.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.bias import (
    add_bias,
    band_pointers,
    far_values,
    range_of_a,
    segments_of,
    warp_factors,
    warp_line,
    within,
)
from falloff.ops.triton.kernels.problem import Place, Tile
from falloff.ops.triton.kernels.skip import keys_that_matter, rows_that_matter
from falloff.ops.triton.kernels.tile import LOG2E, kept, key_seen, load_rows, load_seen, store_rows, visible
from falloff.ops.triton.kernels.zones import key_zones, row_zones


@triton.jit(do_not_specialize=["N", "H", "blocks"])
def loss_kernel(grad_out, out, grad_lse, lse, loss, lse2, N, H, blocks, s, ROWS: tl.constexpr):
    """loss (B, H, N): sum of grad_out * out, less grad_lse. lse2: lse / log 2. A row that saw nothing has 0 and +inf."""
    head = tl.program_id(0) // blocks
    first_row = tl.program_id(0) % blocks * ROWS
    i = first_row + tl.arange(0, ROWS)
    b = head // H
    h = head % H
    do = load_rows(grad_out, b, h, first_row, N, ROWS, s, True).to(tl.float32)
    o = load_rows(out, b, h, first_row, N, ROWS, s, True).to(tl.float32)
    total = tl.sum(do * o, 1)
    at = tl.cast(head, tl.int64) * N + i
    if grad_lse is not None:
        total -= tl.load(grad_lse + at, mask=i < N, other=0.0)
    log_sum = tl.load(lse + at, mask=i < N, other=0.0) * LOG2E
    nothing = log_sum == float("-inf")
    tl.store(loss + at, tl.where(nothing, 0.0, total), mask=i < N)
    tl.store(lse2 + at, tl.where(nothing, float("inf"), log_sum), mask=i < N)


@triton.jit
def weights_of(scores, lse2, far, p, place, t, s, ZONE: tl.constexpr):
    """The weights of a tile from its products of queries and keys. `lse2` broadcasts as the tile's rows do."""
    scale = p.scale * LOG2E
    if ZONE == "past" or ZONE == "future":
        exponent = scores * scale + (far - lse2)
    else:
        exponent = add_bias(scores * scale, p, place, t, s, ZONE == "edge") - lse2
    if ZONE == "edge" or s.LABELS:
        exponent = tl.where(visible(p, place, t, s, ZONE == "edge"), exponent, float("-inf"))
    return tl.exp2(exponent)


@triton.jit
def warp_sums(ds, grad_a, grad_slope, grad_intercept, p, place, t, s):
    """Add a tile to the sums of a warp: of `a` along rows, of slope and intercept (KNOTS) by segment."""
    k = tl.arange(0, s.KNOTS)
    g, a = warp_factors(p, place, t, s)
    low, high = segments_of(p, place, t, s)
    of_row = tl.reshape(a, (a.shape[0],))
    if low == high:
        along = tl.sum(ds * g, 1)
        grad_a += along * warp_line(p, t.h, low, s)[0]
        grad_slope += tl.where(k == low, tl.sum(along * of_row, 0), 0.0)
        grad_intercept += tl.where(k == low, tl.sum(tl.sum(ds, 1), 0), 0.0)
    else:
        x = g * a
        for segment in range(low, high + 1):
            part = within(ds, x, p, segment, s)
            along = tl.sum(part * g, 1)
            grad_a += along * warp_line(p, t.h, segment, s)[0]
            grad_slope += tl.where(k == segment, tl.sum(along * of_row, 0), 0.0)
            grad_intercept += tl.where(k == segment, tl.sum(tl.sum(part, 1), 0), 0.0)
    return grad_a, grad_slope, grad_intercept


@triton.jit
def visit_keys(
    state,
    q,
    do,
    lse2,
    loss,
    p,
    place,
    grads,
    row_tile,
    begin,
    end,
    far,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    s,
    ZONE: tl.constexpr,
):
    """Visit the keys begin .. end - 1: the gradient of the rows, and what of the form's gradient runs along rows."""
    dq, future, grad_a, grad_slope, grad_intercept = state
    b, h, first_row, _, r, c, a_low, a_high = row_tile
    g = h // place.fold
    for first_key in range(begin, end, KEYS):
        t = Tile(b, h, first_row, first_key, r, c, a_low, a_high)
        k = load_seen(p, p.key, b, g, first_key, place.M, KEYS, s, ZONE == "edge")
        v = load_seen(p, p.value, b, g, first_key, place.M, KEYS, s, ZONE == "edge")
        scores = tl.dot(q, tl.trans(k), input_precision=s.PRECISION)
        weights = weights_of(scores, lse2[:, None], far, p, place, t, s, ZONE)
        dp = tl.dot(do, tl.trans(v), input_precision=s.PRECISION)
        if p.dropout is not None:
            dp *= kept(p.dropout, t)
        ds = weights * (dp - loss[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=s.PRECISION)
        if grads.future is not None:
            if ZONE == "future":
                future += tl.sum(ds, 1)
            elif ZONE != "past":
                ahead = place.shift + first_row - first_key + (r - c) <= 0
                future += tl.sum(tl.where(ahead, ds, 0.0), 1)
        if grads.band is not None and (ZONE == "near" or ZONE == "edge"):
            pointers, inside = band_pointers(grads.band, place, t)
            tl.store(pointers, ds.to(grads.band.dtype.element_ty), mask=inside)
        if grads.a is not None:
            grad_a, grad_slope, grad_intercept = warp_sums(ds, grad_a, grad_slope, grad_intercept, p, place, t, s)
    return dq, future, grad_a, grad_slope, grad_intercept


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "first", "last", "shift", "extent", "blocks"])
def query_gradient_kernel(
    p,
    grads,
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
    """The gradient of a block of rows; into `grads` also a band's, the sums of a strip's far future, those of a warp."""
    place = Place(N, M, H, fold, first, last, shift, extent)
    head = tl.program_id(0) // blocks
    first_row = (blocks - 1 - tl.program_id(0) % blocks) * ROWS
    b = head // H
    h = head % H

    begin, end = keys_that_matter(bounds, head, first_row, place, ROWS)
    start, clear, middle, after, edge, end = key_zones(place, first_row, begin, end, ROWS, KEYS, s)
    past, future = far_values(p, place, h, s)
    a_low, a_high = range_of_a(p, place, b, first_row, ROWS, s)
    i = first_row + tl.arange(0, ROWS)
    at = tl.cast(head, tl.int64) * N + i
    q = load_rows(p.query, b, h, first_row, N, ROWS, s, True)
    do = load_rows(grads.out, b, h, first_row, N, ROWS, s, True)
    lse2 = tl.load(grads.lse2 + at, mask=i < N, other=float("inf"))
    loss = tl.load(grads.loss + at, mask=i < N, other=0.0)
    rows = tl.zeros((ROWS,), tl.float32)
    knots = tl.zeros((s.KNOTS,), tl.float32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, KEYS)[None, :]
    row_tile = Tile(b, h, first_row, 0, r, c, a_low, a_high)
    state = (tl.zeros((ROWS, s.BLOCK_D), tl.float32), rows, rows, knots, knots)
    if s.WINDOW and (s.PAST or s.MIDDLE != "edge"):
        state = visit_keys(state, q, do, lse2, loss, p, place, grads, row_tile, start, clear, 0.0, ROWS, KEYS, s, "edge")
    if s.PAST:
        state = visit_keys(state, q, do, lse2, loss, p, place, grads, row_tile, clear, middle, past, ROWS, KEYS, s, "past")
    if s.MIDDLE != "none":
        state = visit_keys(state, q, do, lse2, loss, p, place, grads, row_tile, middle, after, 0.0, ROWS, KEYS, s, s.MIDDLE)
    if s.FUTURE:
        state = visit_keys(state, q, do, lse2, loss, p, place, grads, row_tile, after, edge, future, ROWS, KEYS, s, "future")
    if s.FUTURE or s.MIDDLE != "edge":
        state = visit_keys(state, q, do, lse2, loss, p, place, grads, row_tile, edge, end, 0.0, ROWS, KEYS, s, "edge")

    dq, future_sum, grad_a, grad_slope, grad_intercept = state
    if grads.query is not None:
        store_rows(grads.query, dq * p.scale, b, h, first_row, N, ROWS, s)
    if grads.future is not None:
        tl.store(grads.future + at, future_sum, mask=i < N)
    if grads.a is not None:
        tl.store(grads.a + at, grad_a, mask=i < N)
        k = tl.arange(0, s.KNOTS)
        lines = grads.lines + (tl.cast(head, tl.int64) * blocks + first_row // ROWS) * 2 * s.KNOTS + k
        tl.store(lines, grad_slope)
        tl.store(lines + s.KNOTS, grad_intercept)


@triton.jit
def visit_rows(
    state, k, v, p, place, grads, key_tile, begin, end, far, ROWS: tl.constexpr, KEYS: tl.constexpr, s, ZONE: tl.constexpr
):
    """Visit the rows begin .. end - 1 of one head: the gradients of the keys and values. Tiles are held transposed."""
    dk, dv = state
    b, h, _, first_key, r, c, _, _ = key_tile
    head = tl.cast(b, tl.int64) * place.H + h
    for first_row in range(begin, end, ROWS):
        a_low, a_high = range_of_a(p, place, b, first_row, ROWS, s)
        t = Tile(b, h, first_row, first_key, r, c, a_low, a_high)
        q = load_rows(p.query, b, h, first_row, place.N, ROWS, s, ZONE == "edge")
        do = load_rows(grads.out, b, h, first_row, place.N, ROWS, s, ZONE == "edge")
        i = first_row + tl.arange(0, ROWS)
        if ZONE == "edge":
            lse2 = tl.load(grads.lse2 + head * place.N + i, mask=i < place.N, other=float("inf"))
            loss = tl.load(grads.loss + head * place.N + i, mask=i < place.N, other=0.0)
        else:
            lse2 = tl.load(grads.lse2 + head * place.N + i)
            loss = tl.load(grads.loss + head * place.N + i)
        scores = tl.dot(k, tl.trans(q), input_precision=s.PRECISION)
        weights = weights_of(scores, lse2[None, :], far, p, place, t, s, ZONE)
        dp = tl.dot(v, tl.trans(do), input_precision=s.PRECISION)
        if p.dropout is not None:
            factor = kept(p.dropout, t)
            dv = tl.dot((weights * factor).to(v.dtype), do, dv, input_precision=s.PRECISION)
            dp *= factor
        else:
            dv = tl.dot(weights.to(v.dtype), do, dv, input_precision=s.PRECISION)
        ds = weights * (dp - loss[None, :])
        dk = tl.dot(ds.to(k.dtype), q, dk, input_precision=s.PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "first", "last", "shift", "extent", "blocks"])
def key_gradient_kernel(
    p,
    grads,
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
    """The gradients of a block of keys and values, over all query heads that share them."""
    place = Place(N, M, H, fold, first, last, shift, extent)
    group = tl.program_id(0) // blocks
    first_key = tl.program_id(0) % blocks * KEYS  # the first keys of a causal text are seen by the most rows
    b = group // (H // fold)
    g = group % (H // fold)
    k = load_rows(p.key, b, g, first_key, M, KEYS, s, True)
    v = load_seen(p, p.value, b, g, first_key, M, KEYS, s, True)
    r = tl.arange(0, ROWS)[None, :]
    c = tl.arange(0, KEYS)[:, None]
    state = (tl.zeros((KEYS, s.BLOCK_D), tl.float32), tl.zeros((KEYS, s.BLOCK_D), tl.float32))
    for h in range(g * fold, (g + 1) * fold):
        key_tile = Tile(b, h, 0, first_key, r, c, 0.0, 0.0)
        begin, end = rows_that_matter(bounds, b * H + h, first_key, 0, place, KEYS, 1)
        start, clear, middle, after, edge, end = row_zones(place, first_key, begin, end, ROWS, KEYS, s)
        past, future = far_values(p, place, h, s)
        if s.CAUSAL and (s.FUTURE or s.MIDDLE != "edge"):
            state = visit_rows(state, k, v, p, place, grads, key_tile, start, clear, 0.0, ROWS, KEYS, s, "edge")
        if s.FUTURE:
            state = visit_rows(state, k, v, p, place, grads, key_tile, clear, middle, future, ROWS, KEYS, s, "future")
        if s.MIDDLE != "none":
            state = visit_rows(state, k, v, p, place, grads, key_tile, middle, after, 0.0, ROWS, KEYS, s, s.MIDDLE)
        if s.PAST:
            state = visit_rows(state, k, v, p, place, grads, key_tile, after, edge, past, ROWS, KEYS, s, "past")
        if s.PAST or s.MIDDLE != "edge":
            state = visit_rows(state, k, v, p, place, grads, key_tile, edge, end, 0.0, ROWS, KEYS, s, "edge")
    dk, dv = state
    if p.key_mask is not None:  # a row that is NaN reaches no key that is hidden from it
        seen = key_seen(p, b, first_key + c, M)
        dk = tl.where(seen, dk, 0.0)
        dv = tl.where(seen, dv, 0.0)
    store_rows(grads.key, dk * p.scale, b, g, first_key, M, KEYS, s)
    store_rows(grads.value, dv, b, g, first_key, M, KEYS, s)
