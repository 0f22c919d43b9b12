"""A bias on the host, one class for each form: what is lowered, what kernels read, how the gradient is summed.

The sizes of the lowered parts are computed from shapes without comparing lengths, so that a compiler can trace them with
symbolic lengths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from falloff.forms import Band, Factored, Strip, Warp
from falloff.offsets import IntLike
from falloff.ops.call import Call
from falloff.ops.triton.kernels.arguments import (
    PAD,
    RANGE_SPARE,
    RANGE_STEP,
    SKIP_BLOCK_N,
    BandTensors,
    Gradients,
    StripTensors,
    WarpTensors,
)
from falloff.ops.triton.kernels.gather import gather_strip_kernel, gather_warp_kernel
from falloff.ops.triton.kernels.lower import lower_warp_kernel, pad_strip_kernel

_SHORT = 1024  # up to this extent, the middle zone shares a loop with the edges (see kernels/zones.py)
_BLOCK = 1024  # values that one program of a lowering kernel writes
_GATHERED = 128  # entries of a form's gradient that one program writes


class Diagonals(NamedTuple):
    """Sums of dS along diagonals, not yet added up.

    parts: what `diagonal_kernel` writes, for `blocks` block diagonals of tiles (side, side), each in `splits` parts; None if
    there are none. Place p is that of the offset stop - p, and there are `places` of them.
    """

    parts: Tensor | None
    stop: int
    places: int
    blocks: int
    splits: int
    side: int


class NoBias:
    """A call without a bias; the base class of the forms.

    Args:
        form: the form, or None: that of the call, without a potential.
        call: the call.
        seqlen_q, seqlen_k: its lengths.
        lowest, highest: the smallest and largest offset between a row and a key that it may see.
    """

    kind = "none"
    shift, extent = 0, 1  # the bias of row i and key j has the index shift + i - j, if that is in 0 .. extent - 1
    segments = padded_knots = 16  # powers of two, at least the number of segments and of knots of a warp
    # The zones of kernels/zones.py: whether there are a far past and a far future, and the kind of the middle.
    far_past, middle, far_future = True, "none", False

    def __init__(self, form: Any, call: Call, seqlen_q: int, seqlen_k: int, lowest: int, highest: int) -> None:
        self.form, self.call = form, call
        self.seqlen_q, self.seqlen_k = seqlen_q, seqlen_k
        self.lowest, self.highest = lowest, highest

    def _clamped(self, shift: int) -> int:
        """The shift, clamped to fit into 32 bits: beyond these ends the bias is the same for every tile."""
        return min(max(shift, -self.seqlen_q - self.extent - 1), self.seqlen_k + self.extent + 1)

    @staticmethod
    def sizes(form: Any, batch: IntLike, kv_heads: IntLike, seqlen_q: IntLike, seqlen_k: IntLike) -> list[IntLike]:
        """The size of each lowered part, in float32 numbers."""
        return []

    def lower(self, parts: Sequence[Tensor], written: int) -> None:
        """Write the lowered parts: the first `written` numbers from the first part on, and at least what kernels read."""

    def tensors(self, parts: Sequence[Tensor]) -> StripTensors | BandTensors | WarpTensors | None:
        """The tensors that attention kernels read the bias from."""
        return None

    def row_sums(self, delta: Tensor, q_tiles: int) -> dict[str, Tensor]:
        """Buffers that the dq kernel must write for the form's gradient, by their name in `Gradients`."""
        return {}

    def offsets_summed(self) -> tuple[int, int]:
        """The first and last offset, inclusive, at which the form's gradient needs the sum of dS; none if last < first."""
        return 0, -1

    def gradients(self, grads: Gradients, diagonals: Diagonals, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        """The gradients of the form's tensors, in their dtypes, from the buffers of `row_sums` and the block diagonals."""
        return []


class StripBias(NoBias):
    """Lowered: the padded strip; for skipping, also the tails of the strip and the largest norms of keys (see `skip`)."""

    kind = "strip"

    def __init__(self, form: Any, call: Call, seqlen_q: int, seqlen_k: int, lowest: int, highest: int) -> None:
        super().__init__(form, call, seqlen_q, seqlen_k, lowest, highest)
        assert isinstance(form, Strip)
        self.values, self.first = form.values, form.start
        self.extent = self.values.shape[1]
        self.last = self.first + self.extent - 1
        self.shift = self._clamped(call.query_start - self.first)
        self.far_past, self.far_future = highest > self.last, lowest < self.first
        self.middle = "edge" if self.extent <= _SHORT else "near"

    @staticmethod
    def sizes(form: Strip, batch: IntLike, kv_heads: IntLike, seqlen_q: IntLike, seqlen_k: IntLike) -> list[IntLike]:
        heads, extent = form.values.shape
        norms = batch * kv_heads * _blocks(seqlen_k, SKIP_BLOCK_N.value)
        return [heads * (extent + 2 * PAD.value), heads * extent, heads * extent, norms, norms]

    def lower(self, parts: Sequence[Tensor], written: int) -> None:
        width = self.extent + 2 * PAD.value
        size = self.values.shape[0] * width
        end = max(size, written)
        pad_strip_kernel[(_blocks(end, _BLOCK),)](
            self.values, *self.values.stride(), parts[0], self.extent, width, size, end, BLOCK=_BLOCK
        )

    def tensors(self, parts: Sequence[Tensor]) -> StripTensors:
        return StripTensors(parts[0])

    def row_sums(self, delta: Tensor, q_tiles: int) -> dict[str, Tensor]:
        return {"future_ds": torch.empty_like(delta)} if self.far_future else {}

    def offsets_summed(self) -> tuple[int, int]:
        """Those inside the strip: the ends also collect what is beyond them."""
        start = max(self.lowest, self.first + 1 if self.far_future else self.first)
        return start, min(self.highest, self.last - 1 if self.far_past else self.last)

    def gradients(self, grads: Gradients, diagonals: Diagonals, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        d_values = torch.empty_like(self.values, memory_format=torch.contiguous_format)  # (H, K)
        batch, heads, seqlen_q = lse.shape
        gather_strip_kernel[(_blocks(self.extent, _GATHERED), heads)](
            diagonals.parts,
            grads.future_ds,
            lse,
            grad_lse,
            d_values,
            diagonals.stop - self.first,
            diagonals.places,
            self.extent,
            batch,
            heads,
            seqlen_q,
            diagonals.blocks,
            diagonals.splits,
            FAR_PAST=self.far_past,
            SIDE=diagonals.side,
            BLOCK=_GATHERED,
        )
        return [d_values]


class BandBias(NoBias):
    """Lowered: nothing. A band that is not contiguous or is float64 is copied in the forward and in the backward."""

    kind = "band"

    def __init__(self, form: Any, call: Call, seqlen_q: int, seqlen_k: int, lowest: int, highest: int) -> None:
        super().__init__(form, call, seqlen_q, seqlen_k, lowest, highest)
        self.values, start = self._values()
        self.extent = self.values.shape[3]
        self.shift = self._clamped(call.query_start - start)
        self.far_past, self.far_future = highest >= start + self.extent, lowest < start
        self.middle = "edge" if self.extent <= _SHORT else "near"

    def _values(self) -> tuple[Tensor, int]:
        """The band (B, H, N, E), and the offset of its first value."""
        assert isinstance(self.form, Band)
        return self.form.values, 0

    def tensors(self, parts: Sequence[Tensor]) -> BandTensors:
        return BandTensors((self.values if self.values.itemsize in (2, 4) else self.values.float()).contiguous())

    def row_sums(self, delta: Tensor, q_tiles: int) -> dict[str, Tensor]:
        return {"d_band": torch.zeros_like(self.values, memory_format=torch.contiguous_format)}

    def gradients(self, grads: Gradients, diagonals: Diagonals, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        return [grads.d_band]


class FactoredBias(BandBias):
    """Products of states and a table, as a band of (B, H, N, K) numbers, which forward and backward make anew."""

    def _values(self) -> tuple[Tensor, int]:
        form = self.form
        assert isinstance(form, Factored)
        dtype = torch.promote_types(form.states.dtype, form.table.dtype)
        self.states, self.table = (tensor.to(dtype) for tensor in form.tensors)
        return self.states @ self.table.mT, form.start

    def gradients(self, grads: Gradients, diagonals: Diagonals, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        d_table = (grads.d_band.mT @ self.states).sum(0)  # (H, K, R)
        return [grads.d_band @ self.table, d_table.sum_to_size(self.table.shape)]


class WarpBias(NoBias):
    """Lowered: g by falling offset, and ranges of g and a.

    The knots are read from the form and never from `lowered`, for safety: kernels compute indices from them, and anyone may
    call the operator of the backward with any `lowered`.
    """

    kind = "warp"
    far_past, middle, far_future = False, "near", False

    def __init__(self, form: Any, call: Call, seqlen_q: int, seqlen_k: int, lowest: int, highest: int) -> None:
        super().__init__(form, call, seqlen_q, seqlen_k, lowest, highest)
        assert isinstance(form, Warp)
        tensors = (tensor.float().contiguous() for tensor in form.tensors)
        self.g, self.a, self.knots, self.slope, self.intercept = tensors
        self.extent, self.num_segments = self.g.shape[0], self.slope.shape[1]
        self.segments = max(triton.next_power_of_2(self.num_segments), NoBias.segments)
        self.padded_knots = max(triton.next_power_of_2(self.num_segments - 1), NoBias.padded_knots)
        self.shift = self._clamped(call.query_start)

    @staticmethod
    def sizes(form: Warp, batch: IntLike, kv_heads: IntLike, seqlen_q: IntLike, seqlen_k: IntLike) -> list[IntLike]:
        table = seqlen_q + seqlen_k - 1 + 2 * PAD.value
        g_ranges = _blocks(table, RANGE_STEP.value) + RANGE_SPARE.value
        a_ranges = (form.a.shape[0] if form.a.dim() == 2 else 1) * (_blocks(seqlen_q, RANGE_STEP.value) + RANGE_SPARE.value)
        return [table, g_ranges, g_ranges, a_ranges, a_ranges]

    def lower(self, parts: Sequence[Tensor], written: int) -> None:
        table, g_low, _, a_low, _ = parts
        width, highest = self.seqlen_q + self.seqlen_k - 1 + 2 * PAD.value, self.shift + self.seqlen_q - 1
        a_rows, a_ranges = self.a.numel() // self.seqlen_q, _blocks(self.seqlen_q, RANGE_STEP.value) + RANGE_SPARE.value
        most = _BLOCK // RANGE_STEP.value  # ranges that one program writes
        g_programs = max(_blocks(table.numel(), _BLOCK), _blocks(g_low.numel(), most))
        a_programs = _blocks(a_ranges + 3, most)  # a part is at most 3 numbers larger than its ranges
        lower_warp_kernel[(g_programs + a_rows * a_programs,)](
            self.g,
            self.a,
            *parts,
            self.extent,
            highest,
            width,
            table.numel(),
            g_low.numel(),
            self.seqlen_q,
            a_rows,
            a_ranges,
            a_low.numel(),
            g_programs,
            a_programs,
            BLOCK=_BLOCK,
        )

    def tensors(self, parts: Sequence[Tensor]) -> WarpTensors:
        table, *ranges = parts
        knots = torch.nn.functional.pad(self.knots, (0, self.padded_knots - self.num_segments + 1), value=torch.inf)
        stride_b = self.a.shape[1] if self.a.dim() == 2 else 0
        return WarpTensors(table, self.a, stride_b, knots, self.slope, self.intercept, self.num_segments, *ranges)

    def row_sums(self, delta: Tensor, q_tiles: int) -> dict[str, Tensor]:
        segment_sums = delta.new_empty(*delta.shape[:2], q_tiles, 2, self.segments)
        return {"row_da": torch.empty_like(delta), "segment_sums": segment_sums}

    def offsets_summed(self) -> tuple[int, int]:
        return self.lowest, self.highest

    def gradients(self, grads: Gradients, diagonals: Diagonals, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
        d_form = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in self.form.tensors]
        batch, heads, seqlen_q = lse.shape
        g_blocks, a_blocks = _blocks(self.extent, _GATHERED), _blocks(seqlen_q, _GATHERED)
        a_rows = self.a.numel() // seqlen_q
        gather_warp_kernel[(g_blocks + a_rows * a_blocks + heads,)](
            diagonals.parts,
            grads.row_da,
            grads.segment_sums,
            *d_form,
            diagonals.stop,
            diagonals.places,
            self.extent,
            batch,
            heads,
            seqlen_q,
            diagonals.blocks,
            diagonals.splits,
            grads.segment_sums.shape[2],
            self.num_segments,
            g_blocks,
            a_blocks,
            a_rows,
            SEGMENTS=self.segments,
            SIDE=diagonals.side,
            BLOCK=_GATHERED,
        )
        return d_form


BIASES: dict[str, type[NoBias]] = {
    "none": NoBias,
    "strip": StripBias,
    "band": BandBias,
    "factored": FactoredBias,
    "warp": WarpBias,
}
"""By the kind of the form. Their own kind is that of the kernels: products are a band."""


def _blocks(length: IntLike, size: int) -> Any:
    return (length + size - 1) // size
