"""The attention function that Transformers calls for the implementation "falloff"."""

from typing import Any

import torch
from torch import Tensor, nn

from falloff.forms import Form
from falloff.hf.masks import MODULE_WINDOW, MaskParts, falloff_mask
from falloff.ops.api import attention

NAME = "falloff"


def register() -> None:
    """Register attention and mask function with Transformers, which ignores masks if there is no mask function."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, falloff_mask)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskParts | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a fused or swapped module: the output (B, N, H, D), and None for the weights.

    `sinks` (B, H, N, 1) are those of each query and head (Inkling-2).

    Raises:
        ValueError: if the call asks for attention weights or a soft cap, has a dense mask, or the module is not fused.
    """
    if kwargs.get("output_attentions"):
        refuse_weights()
    if kwargs.get("softcap") is not None:
        raise ValueError(f"softcap: got {kwargs['softcap']}, expected None: falloff.attention has no soft cap")
    bias_of = getattr(module, "bias_of", None)
    if bias_of is None:
        raise ValueError(
            f"attn_implementation: got {NAME!r} for {type(module).__name__}, expected a model made by "
            "falloff.hf.fuse(model) or falloff.hf.swap(model, make_bias)"
        )
    mask = mask_parts(attention_mask, query, key, causal=getattr(module, "is_causal", False))
    if mask.window == MODULE_WINDOW:
        if not getattr(module, "is_causal", False):
            raise ValueError(
                f"attention_mask: got a sliding window for {type(module).__name__}, which is not causal, under "
                "torch.compile, expected a causal module"
            )
        mask = mask._replace(window=kwargs.get("sliding_window"))
    bias = bias_of(position_bias, query, key, mask)
    sink = None if sinks is None else sinks.squeeze(-1)
    out = attend(query, key, value, bias, mask, scaling, dropout if module.training else 0.0, sink=sink)
    return out.transpose(1, 2), None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None,
    mask: MaskParts,
    scale: float | None,
    dropout_p: float,
    **more: Any,
) -> Tensor:
    """Call `falloff.attention` with the parts of the mask as its arguments. Returns (B, H, N, D)."""
    if mask.document_ids is not None:
        more["document_ids"] = mask.document_ids
    elif key.shape[2] != query.shape[2] or mask.query_start:
        more["query_start"] = mask.query_start
    return attention(
        query,
        key,
        value,
        bias,
        causal=mask.causal,
        window=mask.window,
        key_mask=mask.key_mask,
        scale=scale,
        dropout_p=dropout_p,
        **more,
    )


def mask_parts(mask: MaskParts | Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> MaskParts:
    """The parts of the mask that a module got: from `falloff_mask`, None, or a padding mask (B, 1, 1, M)."""
    if isinstance(mask, MaskParts):
        return mask
    if mask is not None and mask.shape != (key.shape[0], 1, 1, key.shape[2]):
        return as_mask_parts(mask)
    num_queries, num_keys = query.shape[2], key.shape[2]
    parts = MaskParts(None, causal and num_queries > 1, None, num_keys - num_queries, None)
    if mask is None:
        return parts
    # SwitchTransformers' encoder makes a padding mask itself: 0, or the smallest value of the dtype.
    if not mask.is_floating_point():
        return parts._replace(key_mask=mask[:, 0, 0], causal=False)
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    if not torch.compiler.is_compiling() and not bool((hidden | (mask == 0)).all()):
        return as_mask_parts(mask)
    return parts._replace(key_mask=~hidden[:, 0, 0], causal=False)


def as_mask_parts(mask: object) -> MaskParts:
    """The mask, if `falloff_mask` made it.

    Raises:
        ValueError: for any other mask.
    """
    if not isinstance(mask, MaskParts):
        got = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask: got {got}, expected a padding mask (B, M) given to the model, or none: falloff has no dense "
            "masks (a fused model takes them after falloff.hf.unfuse)"
        )
    return mask


def refuse_weights() -> None:
    """Raise the error for a call that asks for attention weights."""
    raise ValueError(
        "output_attentions: got True, expected False: fused attention never computes the weights. "
        "falloff.hf.unfuse(model), then model.set_attn_implementation('eager')"
    )
