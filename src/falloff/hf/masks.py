"""An attention mask of Transformers as arguments of `falloff.attention`, instead of a tensor (B, 1, N, M).

Transformers describes a mask by a function of positions, composed of a few known functions, and a padding mask (B, M). Any
other function raises an error, so that no part of a mask is ignored.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

MODULE_WINDOW = 0
"""A window of this size means: use module.sliding_window."""


class MaskParts(NamedTuple):
    """The parts of an attention mask, named as arguments of `falloff.attention`. A model passes it on in place of a mask.

    Attributes:
        row: set for a single query against a static cache, which also has keys after the query: the query's position among
            the keys. It may be a tensor on the device. Then `key_mask` holds the whole mask, and `query_start` is the
            position of the last key.
        evicted: how many keys a sliding cache has dropped.
    """

    key_mask: Tensor | None
    causal: bool
    window: int | None
    query_start: int
    document_ids: Tensor | None
    row: int | Tensor | None = None
    evicted: int = 0

    @property
    def ndim(self) -> int:
        """5, because Transformers, Falcon and GPT-2 modify masks of up to four dimensions."""
        return 5

    def to(self, *arguments: Any, **named: Any) -> "MaskParts":
        """The parts on another device, for a model split over devices. A change of dtype, as MPT asks for, does nothing."""
        devices = [x for x in (*arguments, named.get("device")) if isinstance(x, torch.device | str | int)]
        if not devices:
            return self
        tensors: dict[str, Any] = {
            name: value.to(devices[0]) for name, value in self._asdict().items() if isinstance(value, Tensor)
        }
        return self._replace(**tensors)

    def __radd__(self, scores: object) -> Any:
        """Raise: eager attention adds its mask to the scores, so this module is not fused, against its configuration."""
        raise ValueError(
            "attn_implementation: got 'falloff' for a model that is not fused, expected one made by falloff.hf.fuse(model), "
            "or another implementation"
        )

    def contiguous(self) -> "MaskParts":
        """Itself: `generate` calls this for a static cache."""
        return self


def falloff_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | MaskParts | None = None,
    **kwargs: Any,
) -> MaskParts:
    """The mask function that Transformers calls for the attention implementation "falloff".

    Raises:
        ValueError: for a mask that `falloff.attention` does not support; under torch.jit.trace and torch.onnx.export.
    """
    from transformers.masking_utils import (
        bidirectional_mask_function,
        causal_mask_function,
        prepare_padding_mask,
        sdpa_mask,
    )

    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.onnx.is_in_onnx_export():
        raise ValueError(
            "model: got a fused or swapped one under torch.jit.trace or torch.onnx.export, expected a fused one after "
            "falloff.hf.unfuse(model), or torch.export.export, which takes both"
        )
    if isinstance(attention_mask, MaskParts):  # already made by `generate`
        return attention_mask
    mask_function = mask_function or causal_mask_function
    own_row = isinstance(q_offset, Tensor) or q_offset - kv_offset != kv_length - 1 or torch.compiler.is_compiling()
    if q_length == 1 and mask_function is not bidirectional_mask_function and own_row:
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask = sdpa_mask(batch_size, 1, kv_length, q_offset, kv_offset, mask_function, attention_mask, **kwargs)
        assert mask is not None
        # The difference is a new tensor: a static cache increments q_offset in place.
        return MaskParts(
            mask[:, 0, 0].expand(batch_size, -1), False, None, kv_length - 1, None, q_offset - kv_offset, kv_offset
        )
    if torch.compiler.is_compiling() and mask_function not in (causal_mask_function, bidirectional_mask_function):
        alone = attention_mask is None and q_length == kv_length
        part = _part_compiled(mask_function, batch_size, q_length if alone else 0, kwargs)
    else:
        part = _part(mask_function)
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
    return part._replace(key_mask=padding, query_start=int(q_offset) - kv_offset, evicted=kv_offset)


def _part(function: Callable[..., Any]) -> MaskParts:
    """The parts of a mask function."""
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    if function in (causal_mask_function, bidirectional_mask_function):
        return MaskParts(None, function is causal_mask_function, None, 0, None)
    made_by = getattr(function, "__qualname__", repr(function)).partition(".")[0]
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    inner = dict(zip(function.__code__.co_freevars, cells, strict=True))
    if made_by == "and_masks":
        return _all_of([_part(part) for part in inner["mask_functions"]])
    if made_by == "sliding_window_overlay":
        return MaskParts(None, False, inner["sliding_window"], 0, None)
    if made_by == "packed_sequence_mask_function":
        return MaskParts(None, False, None, 0, inner["packed_sequence_mask"])
    if made_by == "remap_positions_for_packed_sequence":
        return _part(inner["mask_function"])
    return _refuse(made_by)


def _part_compiled(function: Callable[..., Any], batch: int, length: int, about: dict[str, Any]) -> MaskParts:
    """The parts of a mask function under torch.compile, which cannot read a function's closure.

    Transformers combines a causal mask with a window, whose size the attention module has too, and with packed documents: a
    document begins at each token that does not see the token before it. `use_vmap` marks the masks that users define.
    """
    made_by = function.__qualname__.partition(".")[0]
    if made_by != "and_masks" or about.get("use_vmap"):
        return _refuse(made_by)
    if length == 0:
        return MaskParts(None, True, MODULE_WINDOW, 0, None)
    at = torch.arange(length, device=about.get("device"))
    same = function(torch.arange(batch, device=at.device)[:, None], 0, at, (at - 1).clamp(min=0))
    return MaskParts(None, True, MODULE_WINDOW, 0, (~same).cumsum(-1).expand(batch, -1))


def _refuse(made_by: str) -> MaskParts:
    raise ValueError(
        f"attention_mask: got one made by {made_by}, expected causal, windows, padding or packed texts: falloff has no "
        "other masks (a fused model takes them after falloff.hf.unfuse)"
    )


def _all_of(parts: list[MaskParts]) -> MaskParts:
    windows = [part.window for part in parts if part.window is not None]
    documents = next((part.document_ids for part in parts if part.document_ids is not None), None)
    return MaskParts(None, any(part.causal for part in parts), min(windows, default=None), 0, documents)
