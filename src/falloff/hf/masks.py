"""What Transformers asks of an attention mask, kept as what it means instead of as a tensor (B, 1, N, M).

Transformers describes a mask as a function of positions, made of a few known parts, and a padding mask (B, M). What is not
among these parts is refused: nothing of a mask is lost in silence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

OWN = 0


class Seen(NamedTuple):
    """What each query sees, in the words of `falloff.attention`; a window of OWN is the one that the module names.

    `row`: where it is not None there is one query, at this place among the keys, all that it sees is in `key_mask`, and
    `query_start` is the last key's place: a static cache has keys behind the query, and may know its place on the device
    alone. `forgotten`: the keys that a sliding cache no longer holds. This travels through a model in the place of a mask.
    """

    key_mask: Tensor | None
    causal: bool
    window: int | None
    query_start: int
    document_ids: Tensor | None
    row: int | Tensor | None = None
    forgotten: int = 0

    @property
    def ndim(self) -> int:
        """Five: Transformers, Falcon and GPT-2 change masks of up to four dimensions."""
        return 5

    def to(self, *arguments: Any, **named: Any) -> "Seen":
        """On another device, where a model lies on several; the same where MPT makes its mask boolean."""
        devices = [x for x in (*arguments, named.get("device")) if isinstance(x, torch.device | str | int)]
        if not devices:
            return self
        tensors: dict[str, Any] = {
            name: value.to(devices[0]) for name, value in self._asdict().items() if isinstance(value, Tensor)
        }
        return self._replace(**tensors)

    def __radd__(self, scores: object) -> Any:
        """Eager attention adds its mask: it is not fused, though its configuration says so."""
        raise ValueError(
            "attn_implementation: got 'falloff' for a model that is not fused, expected one made by falloff.hf.fuse(model), "
            "or another implementation"
        )

    def contiguous(self) -> "Seen":
        """Itself: `generate` asks for it where a cache is static."""
        return self


def seen_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | Seen | None = None,
    **kwargs: Any,
) -> Seen:
    """The mask function that Transformers calls for the attention implementation "falloff".

    Raises:
        ValueError: for a mask that `falloff.attention` has no words for; where torch.jit or ONNX's exporters trace.
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
    if isinstance(attention_mask, Seen):  # made beforehand by `generate`
        return attention_mask
    mask_function = mask_function or causal_mask_function
    amid = isinstance(q_offset, Tensor) or q_offset - kv_offset != kv_length - 1 or torch.compiler.is_compiling()
    if q_length == 1 and mask_function is not bidirectional_mask_function and amid:
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask = sdpa_mask(batch_size, 1, kv_length, q_offset, kv_offset, mask_function, attention_mask, **kwargs)
        assert mask is not None
        # A difference, not the tensor itself: a static cache counts that up in place.
        return Seen(mask[:, 0, 0].expand(batch_size, -1), False, None, kv_length - 1, None, q_offset - kv_offset, kv_offset)
    if torch.compiler.is_compiling() and mask_function not in (causal_mask_function, bidirectional_mask_function):
        alone = attention_mask is None and q_length == kv_length
        part = _part_compiled(mask_function, batch_size, q_length if alone else 0, kwargs)
    else:
        part = _part(mask_function)
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
    return part._replace(key_mask=padding, query_start=int(q_offset) - kv_offset, forgotten=kv_offset)


def _part(function: Callable[..., Any]) -> Seen:
    """What one function of a mask says."""
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    if function in (causal_mask_function, bidirectional_mask_function):
        return Seen(None, function is causal_mask_function, None, 0, None)
    made_by = getattr(function, "__qualname__", repr(function)).partition(".")[0]
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    inner = dict(zip(function.__code__.co_freevars, cells, strict=True))
    if made_by == "and_masks":
        return _all_of([_part(part) for part in inner["mask_functions"]])
    if made_by == "sliding_window_overlay":
        return Seen(None, False, inner["sliding_window"], 0, None)
    if made_by == "packed_sequence_mask_function":
        return Seen(None, False, None, 0, inner["packed_sequence_mask"])
    if made_by == "remap_positions_for_packed_sequence":
        return _part(inner["mask_function"])
    return _refuse(made_by)


def _part_compiled(function: Callable[..., Any], batch: int, length: int, about: dict[str, Any]) -> Seen:
    """The same while a compiler traces, which cannot look into a function.

    Transformers joins causality with a window, whose size the attention module knows too, and with packed texts: where a
    token does not see the one before it, another text begins. Masks of users' own are marked.
    """
    made_by = function.__qualname__.partition(".")[0]
    if made_by != "and_masks" or about.get("use_vmap"):
        return _refuse(made_by)
    if length == 0:
        return Seen(None, True, OWN, 0, None)
    at = torch.arange(length, device=about.get("device"))
    same = function(torch.arange(batch, device=at.device)[:, None], 0, at, (at - 1).clamp(min=0))
    return Seen(None, True, OWN, 0, (~same).cumsum(-1).expand(batch, -1))


def _refuse(made_by: str) -> Seen:
    raise ValueError(
        f"attention_mask: got one made by {made_by}, expected causal, windows, padding or packed texts: falloff has no "
        "other masks (a fused model takes them after falloff.hf.unfuse)"
    )


def _all_of(parts: list[Seen]) -> Seen:
    windows = [part.window for part in parts if part.window is not None]
    documents = next((part.document_ids for part in parts if part.document_ids is not None), None)
    return Seen(None, any(part.causal for part in parts), min(windows, default=None), 0, documents)
