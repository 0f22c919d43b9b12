"""The arguments of the kernels: named tuples of pointers and numbers, and the units of scores.

Triton takes named tuples as arguments. Whether a field is None is a compile-time constant, so `is not None` costs nothing.
Lengths and positions (`Dims`) change from call to call: kernels take them as separate, unspecialised arguments, so that a
longer text compiles no new kernel.

Shapes in comments: B batch, H query heads, G key/value heads, N queries, M keys, D head size. BLOCK_M query rows and BLOCK_N
keys make a tile of scores; BLOCK_D is D padded to a power of two.
"""

from typing import Any, NamedTuple

import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # scores and biases are in base 2 (times log2(e)): a probability is one exp2
LN2 = tl.constexpr(0.6931471805599453)

# Shared by host and kernels.
PAD = tl.constexpr(256)  # padding at either end of a table by offset: at least BLOCK_M + BLOCK_N of any tile
RANGE_STEP = tl.constexpr(32)  # a range of a warp's g or a, its minimum and maximum, is stored for every 32nd entry on:
RANGE_PARTS = tl.constexpr(7)  # a range of g covers so many steps, so that one is enough for a tile of 193 offsets; of a, 1
RANGE_SPARE = tl.constexpr(8)  # padding after these ranges: a tile may load it
SKIP_BLOCK_M = tl.constexpr(64)  # query rows per range of keys (see `skip`)
SKIP_BLOCK_N = tl.constexpr(64)  # keys per norm; ranges of keys begin and end at multiples of it


class Strided(NamedTuple):
    """A tensor (B, heads, length, D) whose last dimension is contiguous. Strides are in elements."""

    pointer: Any
    stride_b: Any
    stride_h: Any
    stride_m: Any


class StripTensors(NamedTuple):
    """`padded` (H, K + 2 PAD): the bias by falling offset, in base 2, each end repeated PAD times."""

    padded: Any


class BandTensors(NamedTuple):
    """`band` (B, H, N, E), contiguous, in any dtype, by rising offset."""

    band: Any


class WarpTensors(NamedTuple):
    """A warp in float32: x = g * a, and the bias is slope * x + intercept in the segment of x among the knots.

    g (N + M - 1 + 2 PAD): by falling offset, each end continued. a (N,), with a_stride_b 0, or (B, N). knots (KNOTS,):
    num_segments - 1 of them, then +inf. slope, intercept (H, num_segments). g_low, g_high, a_low, a_high: the minimum and
    maximum of g over RANGE_PARTS * RANGE_STEP entries, and of a over RANGE_STEP, from each multiple of RANGE_STEP on.
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


class PotentialTensors(NamedTuple):
    """row (B, H, N), key (B, H, M), float32, contiguous: their sum is added to the bias."""

    row: Any
    key: Any


class Dropout(NamedTuple):
    """Keep a probability if its 32 random bits - 2^31 are at least `threshold`, and multiply it by `factor`.

    `seed` is a tensor, so that the host does not wait for its value.
    """

    seed: Any
    threshold: Any
    factor: Any


class Inputs(NamedTuple):
    """The inputs of forward and backward. key_mask (B, M), document_ids (B, N), bias, potential and dropout are None if not
    given.
    """

    q: Strided
    k: Strided
    v: Strided
    softmax_scale: Any
    key_mask: Any
    document_ids: Any
    bias: Any
    potential: PotentialTensors | None
    dropout: Any


class Gradients(NamedTuple):
    """Further inputs of the backward (do, delta, lse2) and its outputs (the others). None if not needed.

    do (B, H, N, D); delta, lse2 (B, H, N): see `backward`; dq (B, H, N, D); dk, dv (B, G, M, D); d_band (B, H, N, E).
    future_ds (B, H, N): row sums of dS at and before the first offset of a strip. row_da (B, H, N): the gradient of a warp's
    a, per head. segment_sums (B, H, q tiles, 2, SEGMENTS): the gradients of slope and intercept, per q tile. d_key_potential
    (B, H, M): column sums of dS.
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
    d_key_potential: Any


class Dims(NamedTuple):
    """Lengths, heads and positions of a call, in 32 bits.

    group_size: query heads of a GQA group. Query row i sees the keys i + left .. i + right. The bias of row i and key j has
    the index shift + i - j, if that is in 0 .. extent - 1. shift is query_start for a band and a warp, and
    query_start - start for a strip. extent is K of a strip or of a warp's g, or E of a band.
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

    The shape of the tile is (BLOCK_M, BLOCK_N), from offs_m (BLOCK_M, 1) and offs_n (1, BLOCK_N); for transposed scores
    (BLOCK_N, BLOCK_M), from offs_m (1, BLOCK_M) and offs_n (BLOCK_N, 1). a_low, a_high: minimum and maximum of a warp's a
    over the rows.
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
    """Compile-time constants.

    BIAS: "none", "strip", "band" or "warp". LOADED_MASK: whether there is a key_mask or document_ids. FAR_PAST, MIDDLE,
    FAR_FUTURE: the zones of a row of tiles (see `zones`). SEGMENTS, KNOTS: powers of two, at least the number of segments
    and of knots of a warp. INPUT_PRECISION: of float32 products. NVIDIA: whether inline PTX is allowed.
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
    KNOTS: tl.constexpr
    INPUT_PRECISION: tl.constexpr
    NVIDIA: tl.constexpr
