"""The kernels that gather the gradient of a form from what the backward's kernels summed: the parts of block diagonals (see
`diagonals`), and sums along rows. Sums are float64 in a fixed order, rounded once, to the dtype of the form.

One launch for a form: a program owns entries of one gradient. The few entries that collect what lies beyond an end of the
form are the work of one program for each head, which sums again what other programs sum: none waits for another.
"""

import triton
import triton.language as tl

ROWS = tl.constexpr(8)  # numbers of one entry that are summed at a time
LONG = tl.constexpr(2048)  # numbers of a row that are summed at a time


@triton.jit
def store_rounded(pointers, values, mask):
    """Store float64 numbers in another dtype, by way of float32 as torch converts them."""
    if pointers.dtype.element_ty == tl.float64:
        tl.store(pointers, values, mask=mask)
    else:
        tl.store(pointers, values.to(tl.float32).to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def sums_at(parts, place, head, head_step, heads_summed, diagonals, splits, SIDE: tl.constexpr):
    """Sums of dS at offsets, float64, in the shape of `place` (BLOCK,): offset stop - place, or none if place is negative.

    parts (heads of all batch entries, diagonals, splits, 2 SIDE): see `diagonal_kernel`. Neighbouring block diagonals
    overlap by half. Sums over the heads head, head + head_step, ..., heads_summed of them.
    """
    x = (place // SIDE)[None, :]  # (1, BLOCK)
    u = (place % SIDE)[None, :]  # (1, BLOCK)
    rows = heads_summed * splits
    total = tl.zeros(place.shape, tl.float64)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
        first = (tl.cast(head + row // splits * head_step, tl.int64) * diagonals + x) * splits + row % splits
        at = parts + first * (2 * SIDE) + u  # (ROWS, BLOCK)
        exists = (row < rows) & (place >= 0)[None, :]
        ahead = tl.load(at + SIDE, mask=exists & (x < diagonals), other=0.0)
        behind = tl.load(at + splits * (2 * SIDE), mask=exists & (x + 1 < diagonals), other=0.0)
        total += tl.sum(ahead.to(tl.float64) + behind.to(tl.float64), 0)
    return total


@triton.jit
def sum_between(
    parts, begin, end, head, head_step, heads_summed, diagonals, splits, SIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum of dS at the places begin .. end - 1: one number."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)  # (BLOCK,)
        place = tl.where(place < end, place, -1)
        total += sums_at(parts, place, head, head_step, heads_summed, diagonals, splits, SIDE)
    return tl.sum(total, 0)


@triton.jit
def sum_of_rows(rows, lse, batch, heads, h, seqlen_q):
    """The sum over batch and rows of one head of `rows` (B, H, N), float64: of those that see a key, unless lse is None."""
    total = tl.zeros((LONG,), tl.float64)
    for b in range(batch):
        row = (tl.cast(b, tl.int64) * heads + h) * seqlen_q
        for start in range(0, seqlen_q, LONG):
            i = start + tl.arange(0, LONG)  # (LONG,)
            value = tl.load(rows + row + i, mask=i < seqlen_q, other=0.0)
            if lse is not None:
                row_lse = tl.load(lse + row + i, mask=i < seqlen_q, other=float("-inf"))
                value = tl.where(row_lse == float("-inf"), 0.0, value)
            total += value.to(tl.float64)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["last", "count", "extent", "batch", "heads", "seqlen_q", "diagonals", "splits"])
def gather_strip_kernel(
    parts,
    future_ds,
    lse,
    grad_lse,
    d_values,
    last,
    count,
    extent,
    batch,
    heads,
    seqlen_q,
    diagonals,
    splits,
    FAR_PAST: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """d_values (H, K) of a strip.

    Inside the strip: sums along diagonals, at place 0 that of entry `last`; there are `count` places, or parts is None.
    Entry 0 also collects future_ds. With FAR_PAST, the last entry collects what is at and beyond the last offset: the dS of
    a row sum to the gradient of its log-sum-exp, so this is the total less all other sums.
    """
    h = tl.program_id(1)
    start = tl.program_id(0) * BLOCK
    k = start + tl.arange(0, BLOCK)  # (BLOCK,)
    total = tl.zeros((BLOCK,), tl.float64)
    if parts is not None:
        total += sums_at(parts, tl.where(last - k < count, last - k, -1), h, heads, batch, diagonals, splits, SIDE)
    if future_ds is not None:  # noqa: SIM102  this is known when the kernel is compiled
        if start == 0:
            total += tl.where(k == 0, sum_of_rows(future_ds, None, batch, heads, h, seqlen_q), 0.0)
    if FAR_PAST:  # noqa: SIM102
        if start + BLOCK >= extent:
            known = tl.zeros((1,), tl.float64)
            if parts is not None:
                known += sum_between(parts, 0, count, h, heads, batch, diagonals, splits, SIDE, BLOCK)
            if future_ds is not None:
                known += sum_of_rows(future_ds, None, batch, heads, h, seqlen_q)
            rest = -known
            if grad_lse is not None:
                rest = sum_of_rows(grad_lse, lse, batch, heads, h, seqlen_q) - known
            total += tl.where(k == extent - 1, rest, 0.0)
    store_rounded(d_values + tl.cast(h, tl.int64) * extent + k, total, k < extent)


@triton.jit
def gather_dg(
    parts, dg, block, last_block, highest, count, extent, every, diagonals, splits, SIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """A block of dg (extent,): the dS of both directions at a distance; the last entry, of all from there on."""
    k = block * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    total = tl.zeros((BLOCK,), tl.float64)
    if parts is not None:
        past = tl.where((highest - k < count) & (k < extent), highest - k, -1)
        future = tl.where((highest + k < count) & (k < extent) & (k > 0), highest + k, -1)
        total += sums_at(parts, past, 0, 1, every, diagonals, splits, SIDE)
        total += sums_at(parts, future, 0, 1, every, diagonals, splits, SIDE)
        if block == last_block:
            end = tl.minimum(highest - extent + 1, count)
            beyond = sum_between(parts, 0, end, 0, 1, every, diagonals, splits, SIDE, BLOCK)
            begin = tl.maximum(highest + extent, 0)
            beyond += sum_between(parts, begin, count, 0, 1, every, diagonals, splits, SIDE, BLOCK)
            total += tl.where(k == extent - 1, beyond, 0.0)
    store_rounded(dg + k, total, k < extent)


@triton.jit
def gather_da(row_da, da, row, block, summed, seqlen_q, BLOCK: tl.constexpr):
    """A block of row `row` of da (a_rows, N): the sum of `summed` rows of row_da."""
    i = block * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, summed, ROWS):
        part = start + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
        at = row_da + tl.cast(row * summed + part, tl.int64) * seqlen_q + i[None, :]  # (ROWS, BLOCK)
        mask = (part < summed) & (i < seqlen_q)[None, :]
        total += tl.sum(tl.load(at, mask=mask, other=0.0).to(tl.float64), 0)
    store_rounded(da + tl.cast(row, tl.int64) * seqlen_q + i, total, i < seqlen_q)


@triton.jit
def gather_lines(
    segment_sums, d_knots, d_slope, d_intercept, h, heads, count, q_tiles, num_segments, SEGMENTS: tl.constexpr
):
    """d_slope and d_intercept (H, S) of head h, from `count` q tiles of all batch entries. Head 0 fills d_knots with 0."""
    column = tl.arange(0, 2 * SEGMENTS)  # (2 SEGMENTS,): those of slope, then those of intercept
    total = tl.zeros((2 * SEGMENTS,), tl.float64)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
        tile = tl.cast(row // q_tiles * heads + h, tl.int64) * q_tiles + row % q_tiles
        at = segment_sums + tile * (2 * SEGMENTS) + column[None, :]  # (ROWS, 2 SEGMENTS)
        total += tl.sum(tl.load(at, mask=row < count, other=0.0).to(tl.float64), 0)
    segment = column % SEGMENTS
    line = h * num_segments + segment
    exists = segment < num_segments
    store_rounded(d_slope + line, total, exists & (column < SEGMENTS))
    store_rounded(d_intercept + line, total, exists & (column >= SEGMENTS))
    if h == 0:
        store_rounded(d_knots + column, tl.zeros((2 * SEGMENTS,), tl.float64), column < num_segments - 1)


@triton.jit(
    do_not_specialize=[
        *("highest", "count", "extent", "batch", "heads", "seqlen_q", "diagonals", "splits"),
        *("q_tiles", "num_segments", "g_blocks", "a_blocks", "a_rows"),
    ]
)
def gather_warp_kernel(
    parts,
    row_da,
    segment_sums,
    dg,
    da,
    d_knots,
    d_slope,
    d_intercept,
    highest,
    count,
    extent,
    batch,
    heads,
    seqlen_q,
    diagonals,
    splits,
    q_tiles,
    num_segments,
    g_blocks,
    a_blocks,
    a_rows,
    SEGMENTS: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradients of a warp: programs for dg (extent,), then for da (a_rows, N), then for d_slope and d_intercept (H, S).

    The place of an offset in `parts` is highest - offset, and there are `count` places. The knots have the gradient 0.
    """
    program = tl.program_id(0)
    row_program = program - g_blocks
    if row_program < 0:
        every = batch * heads
        gather_dg(parts, dg, program, g_blocks - 1, highest, count, extent, every, diagonals, splits, SIDE, BLOCK)
    elif row_program < a_rows * a_blocks:
        gather_da(row_da, da, row_program // a_blocks, row_program % a_blocks, batch * heads // a_rows, seqlen_q, BLOCK)
    else:
        head = row_program - a_rows * a_blocks
        tiles = batch * q_tiles
        gather_lines(segment_sums, d_knots, d_slope, d_intercept, head, heads, tiles, q_tiles, num_segments, SEGMENTS)
