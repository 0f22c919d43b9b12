"""Few query rows against many keys: the keys are split among programs, and what they find is merged.

The query heads that share a key head are rows of one program, so that each key is read once. Every tile takes the general
path: time goes into reading keys and values.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.bias import add_bias, range_of_a
from falloff.ops.triton.kernels.problem import Place, Tile
from falloff.ops.triton.kernels.tile import LN2, LOG2E, kept, load_rows, load_seen, visible


@triton.jit(do_not_specialize=["N", "M", "H", "fold", "first", "last", "shift", "extent", "splits", "span"])
def decode_kernel(
    p,
    sums,
    maxima,
    totals,
    N,
    M,
    H,
    fold,
    first,
    last,
    shift,
    extent,
    splits,
    span,
    s,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Weighted sums (B, H, N, splits, D), row maxima (base 2) and row sums (B, H, N, splits), of `span` keys each."""
    place = Place(N, M, H, fold, first, last, shift, extent)
    groups = H // fold
    group = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    b = group // groups
    g = group % groups
    row = tl.arange(0, ROWS)
    exists = row < fold * N
    head = g * fold + tl.minimum(row // N, fold - 1)
    i = row % N
    h = head[:, None]
    r = i[:, None]
    c = tl.arange(0, KEYS)[None, :]
    d = tl.arange(0, s.BLOCK_D)[None, :]

    start = p.query.data + tl.cast(b, tl.int64) * p.query.batch
    pointers = start + tl.cast(h, tl.int64) * p.query.head + tl.cast(r, tl.int64) * p.query.row + d
    q = tl.load(pointers, mask=exists[:, None] & (d < s.D), other=0.0)
    scale = p.scale * LOG2E
    a_low, a_high = range_of_a(p, place, b, 0, ROWS, s)
    acc = tl.zeros((ROWS, s.BLOCK_D), tl.float32)
    row_max = tl.full((ROWS,), float("-inf"), tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    begin = split * span
    end = tl.minimum(begin + span, M)
    if s.CAUSAL:
        end = tl.minimum(end, N + last)
    if s.WINDOW:
        begin = tl.maximum(begin, first)
    for first_key in range(begin, end, KEYS):
        k = load_rows(p.key, b, g, first_key, M, KEYS, s, True)
        scores = tl.dot(q, tl.trans(k), input_precision=s.PRECISION) * scale
        t = Tile(b, h, 0, first_key, r, c, a_low, a_high)
        scores = add_bias(scores, p, place, t, s, True)
        seen = visible(p, place, t, s, True) & (first_key + c < end)
        scores = tl.where(seen, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(row_max - base)
        row_sum = row_sum * shrink + tl.sum(weights, 1)
        row_max = new_max
        if p.dropout is not None:
            weights *= kept(p.dropout, t)
        v = load_seen(p, p.value, b, g, first_key, M, KEYS, s, True)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=s.PRECISION)

    at = ((tl.cast(b, tl.int64) * H + head) * N + i) * splits + split
    tl.store(sums + at[:, None] * s.D + d, acc, mask=exists[:, None] & (d < s.D))
    tl.store(maxima + at, row_max, mask=exists)
    tl.store(totals + at, row_sum, mask=exists)


@triton.jit(do_not_specialize=["N", "H", "splits"])
def merge_kernel(sums, maxima, totals, out, lse, N, H, splits, s, SPLITS: tl.constexpr):
    """One row of the output from its splits, in a fixed order."""
    row = tl.cast(tl.program_id(0), tl.int64)
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, s.BLOCK_D)[None, :]
    maximum = tl.load(maxima + row * splits + split, mask=split < splits, other=float("-inf"))
    top = tl.max(maximum, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    factor = tl.exp2(maximum - base)
    total = tl.sum(tl.load(totals + row * splits + split, mask=split < splits, other=0.0) * factor, 0)
    parts = sums + (row * splits + split[:, None]) * s.D + d
    acc = tl.sum(tl.load(parts, mask=(split[:, None] < splits) & (d < s.D), other=0.0) * factor[:, None], 0)
    nothing = total == 0
    total = tl.where(nothing, 1.0, total)
    acc /= total
    d = tl.arange(0, s.BLOCK_D)
    to = out.data + row // N // H * out.batch + row // N % H * out.head + row % N * out.row
    tl.store(to + d, acc.to(out.data.dtype.element_ty), mask=d < s.D)
    tl.store(lse + row, tl.where(nothing, float("-inf"), (top + tl.log2(total)) * LN2))
