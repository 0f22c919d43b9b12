"""Certified skipping: which keys cannot matter to a block of query rows, found before the kernels that would visit them.

All that is skipped of a row weighs less than 2^-24 of it: less than 2^-25 at either end. A score is at most
|query| |key| |scale| + bias, so the keys before some point weigh less than that if

    log-sum-exp of their biases + |query| |scale| max |key| < what the row is known to reach - log(2^25).

What a row reaches is its log-sum-exp in the backward, and in the forward at least its score with the key at its own
position. Norms are +inf where something is not finite, and comparisons with NaN fail: what is not finite is never skipped.

Why this holds in float arithmetic. The comparison: rounding never turns x >= y into fl(x) < fl(y). The product: relative
rounding of norms, of the product and of sums over D <= 256 is below 1e-4. Underflow, and hardware that flushes denormals,
loses less than 2^-125 of each square or product, so less than 1e-4 TINY of the sum of 256: norms count TINY in addition, so
that none is below 2^-50, and where scale is so large that this matters, less is skipped. What |query| |scale| may lose to
underflow is below 2^-125 * 2^64 of a score. Overflow is +inf, or NaN, which skips nothing.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.tile import load_rows, load_seen

SKIP_ROWS = tl.constexpr(64)  # rows that share bounds
SKIP_KEYS = tl.constexpr(64)  # keys that share a norm; bounds are multiples of it
TINY = tl.constexpr(2.0**-100)
MARGIN = tl.constexpr(17.4)  # e^-17.4 is below 2^-25


@triton.jit
def keys_that_matter(bounds, head, first_row, place, ROWS: tl.constexpr):
    """From the first key to behind the last that matters to a block of rows. All, without bounds."""
    if bounds is None:
        return 0, place.M
    else:
        blocks = (place.N + SKIP_ROWS - 1) // SKIP_ROWS
        COUNT: tl.constexpr = (ROWS + SKIP_ROWS - 1) // SKIP_ROWS
        block = first_row // SKIP_ROWS + tl.arange(0, COUNT)
        pair = bounds + (tl.cast(head, tl.int64) * blocks + block) * 2
        begin = tl.min(tl.load(pair, mask=block < blocks, other=place.M), 0)
        return begin, tl.max(tl.load(pair + 1, mask=block < blocks, other=0), 0)


@triton.jit
def rows_that_matter(bounds, head, first_key, lean, place, KEYS: tl.constexpr, STEP: tl.constexpr):
    """From the first row to behind the last to whom a block of keys matters. All, without bounds.

    Where `lean` is 1, the keys move with the rows, STEP rows at a time: a block on a diagonal. SKIP_ROWS rows then see the
    keys of several such blocks.
    """
    if bounds is None:
        return 0, place.N
    else:
        blocks = (place.N + SKIP_ROWS - 1) // SKIP_ROWS
        MORE: tl.constexpr = max(SKIP_ROWS.value - STEP, 0)
        begin = place.N
        end = 0
        for start in range(0, blocks, 128):
            block = start + tl.arange(0, 128)
            pair = bounds + (tl.cast(head, tl.int64) * blocks + block) * 2
            key = first_key + lean * (block * SKIP_ROWS // STEP * STEP)
            matters = (tl.load(pair, mask=block < blocks, other=place.M) < key + KEYS + MORE * lean) & (
                tl.load(pair + 1, mask=block < blocks, other=0) > key
            )
            begin = tl.minimum(begin, tl.min(tl.where(matters, block * SKIP_ROWS, place.N), 0))
            end = tl.maximum(end, tl.max(tl.where(matters, (block + 1) * SKIP_ROWS, 0), 0))
        return begin, tl.minimum(end, place.N)


@triton.jit(do_not_specialize=["M", "groups", "blocks"])
def key_norms(p, norms, M, groups, blocks, s):
    """The largest |key| of each block of SKIP_KEYS keys, (B, G, blocks); +inf where a key or value is not finite.

    Keys that key_mask hides count as 0.
    """
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    b = head // groups
    g = head % groups
    k = load_seen(p, p.key, b, g, block * SKIP_KEYS, M, SKIP_KEYS, s, True).to(tl.float32)
    v = load_seen(p, p.value, b, g, block * SKIP_KEYS, M, SKIP_KEYS, s, True).to(tl.float32)
    zero = tl.sum(tl.sum(k * 0.0 + v * 0.0, 1), 0)  # NaN where something is not finite
    norm = tl.sqrt(tl.max(tl.sum(k * k, 1), 0) + TINY)
    tl.store(norms + tl.program_id(0), tl.where(zero == 0, norm, float("inf")))


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "query_start", "strip_start", "extent", "row_blocks", "key_blocks"])
def bounds_kernel(
    p,
    lse,
    values,
    past_tail,
    future_tail,
    norm_before,
    norm_after,
    bounds,
    N,
    M,
    H,
    fold,
    query_start,
    strip_start,
    extent,
    row_blocks,
    key_blocks,
    s,
):
    """The keys that matter to each block of SKIP_ROWS rows, as begin and end, (B, H, row_blocks, 2).

    past_tail, future_tail (H, K): the log-sum-exp of the biases of the keys from each offset on, away from the row.
    norm_before, norm_after (B, G, key_blocks): the largest norm up to a block, and from it on. `lse` is None in the forward.
    """
    head = tl.program_id(0) // row_blocks
    first_row = tl.program_id(0) % row_blocks * SKIP_ROWS
    b = head // H
    h = head % H
    g = h // fold
    i = first_row + tl.arange(0, SKIP_ROWS)
    d = tl.arange(0, s.BLOCK_D)[None, :]
    q = load_rows(p.query, b, h, first_row, N, SKIP_ROWS, s, True).to(tl.float32)
    size = tl.sqrt(tl.sum(q * q, 1) + TINY) * p.scale
    if lse is None:
        own = query_start + i
        exists = (own >= 0) & (own < M)
        if p.key_mask is not None:
            exists &= tl.load(p.key_mask + tl.cast(b, tl.int64) * M + own, mask=exists, other=0) != 0
        keys = p.key.data + tl.cast(b, tl.int64) * p.key.batch + tl.cast(g, tl.int64) * p.key.head
        pointers = keys + tl.cast(own, tl.int64)[:, None] * p.key.row + d
        k = tl.load(pointers, mask=exists[:, None] & (d < s.D), other=0.0).to(tl.float32)
        bias = tl.load(values + tl.cast(h, tl.int64) * extent + tl.minimum(tl.maximum(-strip_start, 0), extent - 1))
        rounding = 1e-4 * size * tl.sqrt(tl.sum(k * k, 1) + TINY) + 1e-6 * tl.abs(bias)
        reached = tl.where(exists, tl.sum(q * k, 1) * p.scale - rounding + bias, float("-inf"))
    else:
        reached = tl.load(lse + tl.cast(head, tl.int64) * N + i, mask=i < N, other=0.0)
        reached = tl.where(reached == float("-inf"), float("inf"), reached)  # nothing matters to a row that sees nothing
    finite = size < float("inf")
    reached = tl.where(finite & (reached == reached), reached, float("-inf"))
    goal = tl.min(tl.where(i < N, reached, float("inf")), 0) - MARGIN
    most = tl.max(tl.where(finite, size, 0.0), 0) * 1.0001  # norms are rounded

    norms = (tl.cast(b, tl.int64) * (H // fold) + g) * key_blocks
    tails = tl.cast(h, tl.int64) * extent
    # Both conditions hold up to some point and not beyond: it is found by halving.
    begin = 0
    over = key_blocks
    while begin + 1 < over:
        t = (begin + over) // 2
        nearest = query_start + first_row - (t * SKIP_KEYS - 1) - strip_start
        tail = tl.load(past_tail + tails + tl.minimum(tl.maximum(nearest, 0), extent - 1))
        certain = (nearest >= 0) & (tail + most * tl.load(norm_before + norms + t - 1) < goal)
        begin = tl.where(certain, t, begin)
        over = tl.where(certain, over, t)
    end = key_blocks
    if not s.CAUSAL:
        under = 0
        while under + 1 < end:
            t = (under + end) // 2
            nearest = query_start + tl.minimum(first_row + SKIP_ROWS, N) - 1 - t * SKIP_KEYS - strip_start
            tail = tl.load(future_tail + tails + tl.minimum(tl.maximum(nearest, 0), extent - 1))
            certain = (nearest < extent) & (tail + most * tl.load(norm_after + norms + t) < goal)
            end = tl.where(certain, t, end)
            under = tl.where(certain, under, t)
    at = bounds + (tl.cast(head, tl.int64) * row_blocks + first_row // SKIP_ROWS) * 2
    tl.store(at, begin * SKIP_KEYS)
    tl.store(at + 1, tl.minimum(end * SKIP_KEYS, M))
