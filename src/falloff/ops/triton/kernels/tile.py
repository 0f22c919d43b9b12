"""Device code: what all kernels do: load and store blocks, mask and drop scores of a tile."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def row_pointers(rows, b, h, first, COUNT: tl.constexpr, s):
    """Where the rows first .. first + COUNT - 1 of one head lie; which they are (COUNT, 1), and the columns (1, BLOCK_D)."""
    start = (
        rows.data
        + tl.cast(b, tl.int64) * rows.batch
        + tl.cast(h, tl.int64) * rows.head
        + tl.cast(first, tl.int64) * rows.row
    )
    r = tl.arange(0, COUNT)[:, None]
    d = tl.arange(0, s.BLOCK_D)[None, :]
    return start + r * rows.row + d, first + r, d


@triton.jit
def load_rows(rows, b, h, first, length, COUNT: tl.constexpr, s, RAGGED: tl.constexpr):
    """Rows first .. first + COUNT - 1 of one head, (COUNT, BLOCK_D); 0 beyond D, and outside 0 .. length - 1 if RAGGED."""
    pointers, row, d = row_pointers(rows, b, h, first, COUNT, s)
    if RAGGED:
        return tl.load(pointers, mask=(row >= 0) & (row < length) & (d < s.D), other=0.0)
    elif s.BLOCK_D != s.D:
        return tl.load(pointers, mask=d < s.D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def load_seen(p, rows, b, g, first, M, COUNT: tl.constexpr, s, RAGGED: tl.constexpr):
    """Keys or values as `load_rows`, and 0 where key_mask hides them: there may be anything, and 0 * NaN is not 0."""
    if p.key_mask is None:
        return load_rows(rows, b, g, first, M, COUNT, s, RAGGED)
    else:
        pointers, row, d = row_pointers(rows, b, g, first, COUNT, s)
        seen = key_seen(p, b, row, M)
        return tl.load(pointers, mask=seen & (d < s.D), other=0.0)


@triton.jit
def key_seen(p, b, key, M):
    """Whether keys exist and key_mask, where there is one, leaves them."""
    seen = (key >= 0) & (key < M)
    if p.key_mask is not None:
        seen &= tl.load(p.key_mask + tl.cast(b, tl.int64) * M + key, mask=seen, other=0) != 0
    return seen


@triton.jit
def store_rows(rows, block, b, h, first, length, COUNT: tl.constexpr, s):
    """Write rows first .. first + COUNT - 1 of one head, those that exist."""
    pointers, row, d = row_pointers(rows, b, h, first, COUNT, s)
    tl.store(pointers, block.to(rows.data.dtype.element_ty), mask=(row < length) & (d < s.D))


@triton.jit
def visible(p, place, t, s, EDGE: tl.constexpr):
    """Which keys of a tile its rows see. Only tiles at an EDGE are cut by causality and window."""
    i = t.first_row + t.r
    j = t.first_key + t.c
    exists = (j >= 0) & (j < place.M)
    seen = key_seen(p, t.b, j, place.M) & (i >= 0)
    if EDGE and s.CAUSAL:
        seen &= j <= i + place.last
    if EDGE and s.WINDOW:
        seen &= j >= i + place.first
    if p.documents is not None:
        of_row = tl.load(p.documents + tl.cast(t.b, tl.int64) * place.N + i, mask=i < place.N, other=0)
        seen &= tl.load(p.documents + tl.cast(t.b, tl.int64) * place.M + j, mask=exists, other=0) == of_row
    return seen


@triton.jit
def mix(x):
    """The mixer of `falloff.ops.dropout`, on uint32."""
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def absorb(state, x):
    """Mix an index into a state."""
    return mix(state + tl.cast(x, tl.uint32) * 0x9E3779B9)


@triton.jit
def kept(dropout, t):
    """The factor of each weight of a tile: 0 where dropout drops it. See `falloff.ops.dropout`."""
    seed = tl.load(dropout.seed)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    i = t.first_row + t.r
    start = absorb(absorb(absorb(mix(low), t.b), t.h), i)
    step = absorb(absorb(absorb(mix(high), t.b), t.h), i) | 1
    bits = mix(start + tl.cast(t.first_key + t.c, tl.uint32) * step) ^ 0x80000000
    return tl.where(bits.to(tl.int32, bitcast=True) >= dropout.threshold, dropout.factor, 0.0)
