"""The arguments of the kernels: named tuples of pointers and numbers, and the units in which scores are held.

Triton takes named tuples as arguments. A field that is None is known when a kernel is compiled, so `is not None` costs
nothing there. Lengths and positions (`Dims`) change from call to call: kernels take them one by one, unspecialised, so that
a longer text compiles nothing anew.

Shapes in comments: B batch, H query heads, G key/value heads, N queries, M keys, D head size. BLOCK_M query rows and BLOCK_N
keys make a tile of scores; BLOCK_D is D padded to a power of two.
"""

from typing import Any, NamedTuple

import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # scores and biases are in units of log 2, so that a probability is one exp2
LN2 = tl.constexpr(0.6931471805599453)

# What host and kernels must agree on.
PAD = tl.constexpr(256)  # values that continue a table by offset at either end: at least BLOCK_M + BLOCK_N, for any tile
RANGE_BLOCK = tl.constexpr(64)  # entries of a warp's g or a that share a least and a largest value
RANGE_SPARE = tl.constexpr(8)  # entries behind the ranges: a tile reads them and does not use them
SKIP_BLOCK_M = tl.constexpr(64)  # query rows that share one range of keys (see `skip`)
SKIP_BLOCK_N = tl.constexpr(64)  # keys that share one norm; ranges of keys are multiples of it


class Strided(NamedTuple):
    """A tensor (B, heads, length, D) whose last dimension is contiguous. Strides are in elements."""

    pointer: Any
    stride_b: Any
    stride_h: Any
    stride_m: Any


class StripTensors(NamedTuple):
    """`padded` (H, K + 2 PAD): the bias by falling offset, in units of log 2, each end repeated PAD times."""

    padded: Any


class BandTensors(NamedTuple):
    """`band` (B, H, N, E), contiguous, in any dtype, by rising offset."""

    band: Any


class WarpTensors(NamedTuple):
    """A warp in float32: x = g * a, and the bias is slope * x + intercept in the segment of x among the knots.

    g (N + M - 1 + 2 PAD): by falling offset, each end continued. a (N,), with a_stride_b 0, or (B, N). knots (SEGMENTS,):
    num_segments - 1 of them, then +inf. slope, intercept (H, num_segments). g_low, g_high, a_low, a_high: the least and the
    largest g and a of each RANGE_BLOCK entries.
    """

    g: Any
    a: Any
    a_stride_b: Any
    knots: Any
    slope: Any
    intercept: Any
    num_segments: Any
    g_low: Any
    g_high: Any
    a_low: Any
    a_high: Any


class Dropout(NamedTuple):
    """A probability is kept where its 32 random bits, less 2^31, are at least `threshold`, and is then times `factor`.

    `seed` is a tensor: the host does not wait for its value.
    """

    seed: Any
    threshold: Any
    factor: Any


class Inputs(NamedTuple):
    """What forward and backward read. None: no key_mask (B, M), document_ids (B, N), bias or dropout in this call."""

    q: Strided
    k: Strided
    v: Strided
    softmax_scale: Any
    key_mask: Any
    document_ids: Any
    bias: Any
    dropout: Any


class Gradients(NamedTuple):
    """What the backward reads beside the inputs (do, delta, lse2), and what it writes. None: not needed.

    do (B, H, N, D); delta, lse2 (B, H, N): see `backward`; dq (B, H, N, D); dk, dv (B, G, M, D); d_band (B, H, N, E).
    future_ds (B, H, N): row sums of dS at and before the first offset of a strip. row_da (B, H, N): the gradient of a warp's
    a, for each head. segment_sums (B, H, q tiles, 2, SEGMENTS): those of slope and intercept, for each q tile.
    """

    do: Strided
    delta: Any
    lse2: Any
    dq: Strided | None
    dk: Strided | None
    dv: Strided | None
    d_band: Any
    future_ds: Any
    row_da: Any
    segment_sums: Any


class Dims(NamedTuple):
    """Lengths, heads and positions of a call, all of 32 bits.

    group_size: query heads of a GQA group. Query row i sees the keys i + left .. i + right. The bias of row i and key j has
    the index shift + i - j, where that lies in 0 .. extent - 1: shift is query_start for a band and a warp, and
    query_start - start for a strip; extent is K of a strip or of a warp's g, or E of a band.
    """

    seqlen_q: tl.tensor
    seqlen_k: tl.tensor
    heads: tl.tensor
    group_size: tl.tensor
    left: tl.tensor
    right: tl.tensor
    shift: tl.tensor
    extent: tl.tensor


class Tile(NamedTuple):
    """A tile of scores of one head: query rows start_m + offs_m and keys start_n + offs_n.

    offs_m (BLOCK_M, 1) and offs_n (1, BLOCK_N) broadcast; or (1, BLOCK_M) and (BLOCK_N, 1) where scores are held transposed.
    a_low, a_high: the least and largest a of the rows, for a warp.
    """

    b: tl.tensor
    h: tl.tensor
    start_m: tl.tensor
    start_n: tl.tensor
    offs_m: tl.tensor
    offs_n: tl.tensor
    a_low: tl.tensor
    a_high: tl.tensor


class Config(NamedTuple):
    """What is known when a kernel is compiled.

    BIAS: "none", "strip", "band" or "warp". LOADED_MASK: there is a key_mask or document_ids. FAR_PAST, MIDDLE, FAR_FUTURE:
    which zones a row of tiles has (see `zones`). SEGMENTS: a power of two, at least the segments of a warp.
    INPUT_PRECISION: of products of float32. NVIDIA: whether instructions of NVIDIA's may stand inline.
    """

    D: tl.constexpr
    BLOCK_D: tl.constexpr
    BIAS: tl.constexpr
    CAUSAL: tl.constexpr
    WINDOW: tl.constexpr
    LOADED_MASK: tl.constexpr
    FAR_PAST: tl.constexpr
    MIDDLE: tl.constexpr
    FAR_FUTURE: tl.constexpr
    SEGMENTS: tl.constexpr
    INPUT_PRECISION: tl.constexpr
    NVIDIA: tl.constexpr
