"""One call as arguments of its kernels: inputs, lengths and positions, and compile-time constants.

It reads shapes and numbers, but no values of tensors, so that nothing waits for the device.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from falloff.forms import Form
from falloff.offsets import IntLike
from falloff.ops.call import Call
from falloff.ops.triton.host.bias import BIASES, NoBias
from falloff.ops.triton.host.device import device_of
from falloff.ops.triton.host.potential import parts_of, potential_tensors
from falloff.ops.triton.kernels.arguments import Config, Dims, Dropout, Inputs, Strided
from falloff.ops.triton.tiles import Tiles, decode_tiles, tiles

_SPLIT_ROWS = 64  # keys are split among programs if a GQA group has at most so many query rows,
_SPLIT_KEYS = 256  # and at least so many keys
_WARPGROUP_ROWS = 64  # rows of a tile from which Hopper's products are those of warpgroups
_ALIGNED = 4  # a lowered part begins at a multiple of 4 float32, 16 bytes, as a tensor of its own would


class Problem:
    """A call of attention on the host.

    Args:
        query: (B, H, N, D), not empty, on the current device.
        key, value: (B, G, M, D), not empty.
        call: everything else.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> None:
        self.call = call
        self.batch, self.heads, self.seqlen_q, head_dim = query.shape
        self.kv_heads, self.seqlen_k = key.shape[1:3]
        self.group_size = self.heads // self.kv_heads
        self.splits_kv = self.group_size * self.seqlen_q <= _SPLIT_ROWS and self.seqlen_k >= _SPLIT_KEYS
        self.query, self.key, self.value = (readable(tensor) for tensor in (query, key, value))

        lowest, highest = call.query_start - (self.seqlen_k - 1), call.query_start + self.seqlen_q - 1
        if call.causal:
            lowest = max(lowest, 0)
        if call.window is not None:
            highest = min(highest, call.window - 1)
        form, self.potential = parts_of(call.form)
        kind = "none" if form is None else form.kind
        self.bias: NoBias = BIASES[kind](form, call, self.seqlen_q, self.seqlen_k, lowest, highest)

        self.device = device_of(query)
        self.block_d = max(triton.next_power_of_2(head_dim), 16)
        self.cfg = _config(
            head_dim,
            self.block_d,
            self.bias.kind,
            call.causal,
            call.window is not None,
            call.key_mask is not None or call.document_ids is not None,
            self.bias.far_past,
            self.bias.middle,
            self.bias.far_future,
            self.bias.segments,
            self.bias.padded_knots,
            self.device.input_precision(query.dtype),
            self.device.target == "cuda",
        )
        masked = call.window is not None or self.cfg.LOADED_MASK
        self._plain = not masked and call.seed is None and self.potential is None
        left = 0 if call.window is None else call.query_start - call.window + 1
        right = call.query_start if call.causal else 0
        self.dims = Dims(
            self.seqlen_q,
            self.seqlen_k,
            self.heads,
            self.group_size,
            self._clamped(left),
            self._clamped(right),
            self.bias.shift,
            self.bias.extent,
        )
        self.inputs = self._inputs()

    def _clamped(self, position: int) -> int:
        """The position, clamped to fit into 32 bits: beyond these ends every row sees the same keys."""
        return min(max(position, -self.seqlen_q - 1), self.seqlen_k + 1)

    def tiles(self, kernel: str) -> Tiles:
        """The tiles of a kernel for this call."""
        device = self.device
        sizes = tiles(kernel, self.block_d, self.query.dtype, *device, self.bias.kind, self._plain)
        if kernel == "decode":  # all query rows of a GQA group
            rows = triton.next_power_of_2(self.group_size * self.seqlen_q)
            halves = self.query.dtype != torch.float32
            sizes = decode_tiles(sizes, rows, halves or self.device.input_precision(torch.float32) == "tf32")
        warpgroups = kernel != "decode" or sizes.block_m >= _WARPGROUP_ROWS
        return sizes._replace(num_stages=1) if warpgroups and not device.copies_ahead() else sizes

    def parts(self, lowered: Tensor) -> Sequence[Tensor]:
        """The parts of a lowered call: flat float32 views, padded to a multiple of 4 numbers."""
        sizes = _part_sizes(self.call.form, self.batch, self.kv_heads, self.seqlen_q, self.seqlen_k)
        return lowered.view(torch.float32).split(sizes) if sizes else ()

    def biased(self, parts: Sequence[Tensor]) -> Inputs:
        """The inputs, with the bias from its lowered parts."""
        return self.inputs._replace(bias=self.bias.tensors(parts))

    def _inputs(self) -> Inputs:
        """The inputs of kernels that are not lowered."""
        key_mask, document_ids = self.call.key_mask, self.call.document_ids
        return Inputs(
            q=strided(-self.query if self.call.scale < 0 else self.query),  # skipping needs softmax_scale >= 0
            k=strided(self.key),
            v=strided(self.value),
            softmax_scale=float(abs(self.call.scale)),
            key_mask=None if key_mask is None else key_mask.contiguous().view(torch.uint8),
            document_ids=None if document_ids is None else document_ids.contiguous(),
            bias=None,
            potential=potential_tensors(self.potential),
            dropout=_dropout(self.call),
        )


def lowered_size(form: Form | None, batch: IntLike, kv_heads: IntLike, seqlen_q: IntLike, seqlen_k: IntLike) -> Any:
    """The size of the lowered call in numbers of 32 bits, from shapes alone, which may be symbolic."""
    return sum(_part_sizes(form, batch, kv_heads, seqlen_q, seqlen_k))


def _part_sizes(form: Form | None, batch: IntLike, kv_heads: IntLike, seqlen_q: IntLike, seqlen_k: IntLike) -> list[IntLike]:
    form, _ = parts_of(form)
    sizes = BIASES["none" if form is None else form.kind].sizes(form, batch, kv_heads, seqlen_q, seqlen_k)
    return [(size + _ALIGNED - 1) // _ALIGNED * _ALIGNED for size in sizes]


@cache
def _config(*values: object) -> Config:
    return Config(*map(tl.constexpr, values))


def _dropout(call: Call) -> Dropout | None:
    if call.seed is None:
        return None
    threshold = round(call.dropout_p * 2**32)
    if threshold == 2**32:  # nothing is kept
        return Dropout(call.seed, 2**31 - 1, 0.0)
    return Dropout(call.seed, threshold - 2**31, 1 / (1 - call.dropout_p))


def readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy: kernels need a contiguous last dimension, and index within a tile in 32 bits."""
    contiguous = tensor.stride(-1) == 1 or tensor.shape[-1] == 1
    return tensor if contiguous and tensor.stride(2) < 2**23 else tensor.contiguous()


def strided(tensor: Tensor) -> Strided:
    """A (B, heads, length, D) tensor as an argument of a kernel."""
    return Strided(tensor, *tensor.stride()[:3])
