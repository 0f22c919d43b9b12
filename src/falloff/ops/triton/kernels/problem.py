"""What a kernel is told: one call of attention as tuples of pointers and numbers.

Triton takes named tuples as arguments of kernels. A field that is None is known when a kernel is compiled, so `is not None`
costs nothing there. Numbers that change from call to call stand in `Place`, made inside the kernel from arguments that are
not specialised, so that a longer text compiles nothing anew.
"""

from typing import Any, NamedTuple

import triton.language as tl


class Rows(NamedTuple):
    """A tensor (B, heads, length, D) whose last dimension is contiguous; strides in elements."""

    data: Any
    batch: Any
    head: Any
    row: Any


class StripForm(NamedTuple):
    """`bias` (H, K + 2 PAD): the bias by falling offset, in units of log 2, its ends continued by PAD values."""

    bias: Any


class BandForm(NamedTuple):
    """`bias` (B, H, N, E), contiguous, in any dtype."""

    bias: Any


class WarpForm(NamedTuple):
    """The tensors of a warp in float32. `g` is by falling offset, N + M - 1 of them and PAD more at either end; `a_batch` is
    the stride of `a` along B; then the least and largest g and a of blocks of 64.
    """

    g: Any
    a: Any
    a_batch: Any
    knots: Any
    slope: Any
    intercept: Any
    segments: Any
    g_low: Any
    g_high: Any
    a_low: Any
    a_high: Any


class Dropout(NamedTuple):
    """The seed on the device; kept where 32 random bits, less 2^31, are at least `threshold`; the factor of what is kept."""

    seed: Any
    threshold: Any
    factor: Any


class Problem(NamedTuple):
    """One call: inputs, masks by label (None where there is none), form (None), dropout (None)."""

    query: Rows
    key: Rows
    value: Rows
    scale: Any
    key_mask: Any
    documents: Any
    form: Any
    dropout: Any


class Gradients(NamedTuple):
    """What the backward reads beside the problem, and what it writes; None where it is not needed.

    out: the gradient of the output; loss, lse2 (B, H, N): see `backward`; query (B, H, N, D), key and value (B, G, M, D);
    band (B, H, N, E); future (B, H, N): a strip's score gradients at and before its first offset; a (B, H, N) and
    lines (B, H, blocks, 2, KNOTS): a warp's sums.
    """

    out: Rows
    loss: Any
    lse2: Any
    query: Rows | None
    key: Rows | None
    value: Rows | None
    band: Any
    future: Any
    a: Any
    lines: Any


class Place(NamedTuple):
    """Lengths and positions, all of 32 bits: where rows and keys stand to each other.

    Row i sees key j where i + first <= j <= i + last. `shift` is query_start for a band and a warp, and query_start - start
    for a strip; `extent` is K of a strip or of a warp's g, or E of a band.
    """

    N: tl.tensor
    M: tl.tensor
    H: tl.tensor
    fold: tl.tensor
    first: tl.tensor
    last: tl.tensor
    shift: tl.tensor
    extent: tl.tensor


class Tile(NamedTuple):
    """A tile of scores: batch entry b, head h, the rows first_row + r and keys first_key + c, where r and c broadcast.

    A kernel holds rows along the first dimension or along the second. a_low and a_high: the least and largest a of a warp.
    """

    b: tl.tensor
    h: tl.tensor
    first_row: tl.tensor
    first_key: tl.tensor
    r: tl.tensor
    c: tl.tensor
    a_low: tl.tensor
    a_high: tl.tensor


class Settings(NamedTuple):
    """What is known when a kernel is compiled.

    Head size; form and masks; which zones a row of tiles has (see `zones`); KNOTS: at least the segments of a warp, a power
    of two; how products are computed; on what.
    """

    D: tl.constexpr
    BLOCK_D: tl.constexpr
    FORM: tl.constexpr
    CAUSAL: tl.constexpr
    WINDOW: tl.constexpr
    LABELS: tl.constexpr
    PAST: tl.constexpr
    MIDDLE: tl.constexpr
    FUTURE: tl.constexpr
    KNOTS: tl.constexpr
    PRECISION: tl.constexpr
    NVIDIA: tl.constexpr
