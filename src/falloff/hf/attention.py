"""The attention function that Transformers calls for the implementation "falloff"."""

from typing import Any

import torch
from torch import Tensor, nn

from falloff.forms import Form
from falloff.hf.masks import OWN, Seen, seen_mask
from falloff.ops.api import attention

NAME = "falloff"


def register() -> None:
    """Make the implementation known to Transformers; without a mask function it would drop every mask in silence."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, seen_mask)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Seen | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a fused module, (B, N, H, D), and no weights.

    Raises:
        ValueError: for what it cannot serve: attention weights, dense masks, a module that is not fused.
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
    seen = _seen(attention_mask, query, key, causal=getattr(module, "is_causal", False))
    if seen.window == OWN:
        if not getattr(module, "is_causal", False):
            raise ValueError(f"attention_mask: got one for {type(module).__name__} that a compiler cannot tell apart")
        seen = seen._replace(window=kwargs.get("sliding_window"))
    bias = bias_of(position_bias, query, key, seen)
    out = attend(query, key, value, bias, seen, scaling, dropout if module.training else 0.0)
    return out.transpose(1, 2), None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None,
    seen: Seen,
    scale: float | None,
    dropout_p: float,
    **more: Any,
) -> Tensor:
    """`falloff.attention`, (B, H, N, D), under a mask as Transformers hands it on."""
    if seen.document_ids is not None:
        more["document_ids"] = seen.document_ids
    elif key.shape[2] != query.shape[2] or seen.query_start:
        more["query_start"] = seen.query_start
    return attention(
        query,
        key,
        value,
        bias,
        causal=seen.causal,
        window=seen.window,
        key_mask=seen.key_mask,
        scale=scale,
        dropout_p=dropout_p,
        **more,
    )


def _seen(mask: Seen | Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Seen:
    """What a module sees that was not told by `seen_mask`: nothing said, or one number for each key."""
    if isinstance(mask, Seen):
        return mask
    if mask is not None and mask.shape != (key.shape[0], 1, 1, key.shape[2]):
        return told(mask)
    num_queries, num_keys = query.shape[2], key.shape[2]
    seen = Seen(None, causal and num_queries > 1, None, num_keys - num_queries, None)
    if mask is None:
        return seen
    # SwitchTransformers' encoder makes such a mask itself: 0, or the least number that there is.
    if not mask.is_floating_point():
        return seen._replace(key_mask=mask[:, 0, 0], causal=False)
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    if not torch.compiler.is_compiling() and not bool((hidden | (mask == 0)).all()):
        return told(mask)
    return seen._replace(key_mask=~hidden[:, 0, 0], causal=False)


def told(mask: object) -> Seen:
    """A mask that `seen_mask` made, or an error."""
    if not isinstance(mask, Seen):
        got = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask: got {got}, expected a padding mask (B, M) given to the model, or none: falloff has no dense "
            "masks (a fused model takes them after falloff.hf.unfuse)"
        )
    return mask


def refuse_weights() -> None:
    """Raise the error of those who ask for attention weights."""
    raise ValueError(
        "output_attentions: got True, expected False: fused attention never has the weights. "
        "falloff.hf.unfuse(model), then model.set_attn_implementation('eager')"
    )
