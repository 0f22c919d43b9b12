"""BLOOM, MPT and Falcon, which have ALiBi: their attention's forward, without scores (B, H, N, M).

These models add slope * key position to the scores, falloff subtracts slope * offset. The two differ by a constant of each
row, which cancels in the softmax, if the keys that a row sees have consecutive positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from falloff.forms import Band, Form
from falloff.hf.attention import as_mask_parts, attend, refuse_weights
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts
from falloff.ops.checks import MAX_HEAD_SIZE
from falloff.schemes import ALiBi
from falloff.schemes.alibi import alibi_slopes


class _JointProjection(Fused):
    """What BLOOM's and Falcon's attention share: one projection for query, key and value."""

    num_heads: int
    head_dim: int
    inv_norm_factor: float
    layer_idx: int
    training: bool
    query_key_value: nn.Module
    dense: nn.Module
    attention_dropout: nn.Dropout

    def dropout_now(self) -> float:
        """The dropout probability: 0 unless the module is in training mode."""
        return self.attention_dropout.p if self.training else 0.0


class FusedBloom(_JointProjection):
    """BloomAttention. Its positions count tokens and not padding; the bias is exact for any padding."""

    hidden_dropout: float

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Any,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attention and the residual; no weights."""
        if output_attentions:
            refuse_weights()
        query, key, value = self._reshape(self.query_key_value(hidden_states))  # type: ignore[attr-defined]
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        mask = as_mask_parts(attention_mask)
        if alibi.shape[-1] != key.shape[2]:  # its values are not used: they are rounded to the model's dtype
            raise ValueError(
                f"attention_mask: got one of {alibi.shape[-1]} tokens, expected one of {key.shape[2]}, as the cache"
            )
        later_padding = None
        if query.shape[2] == 1 and mask.key_mask is not None:
            bias: Form = _bias_of_one_query(mask.key_mask, self.num_heads)
        else:
            bias = _by_offset(query, key, mask)
            later_padding = _later_padding(mask.key_mask)
        extra = () if later_padding is None else _extra_channels(later_padding, query, self.inv_norm_factor)
        out = _attend(query, key, value, extra, bias, mask, self.inv_norm_factor, self.dropout_now())
        out = self.dense(out.transpose(1, 2).reshape(residual.shape))
        return residual + drop(out, self.hidden_dropout, self.training), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        if module.pretraining_tp > 1 and module.slow_but_exact:
            return "slow_but_exact adds up its output in slices"
        return None


def _bias_of_one_query(key_mask: Tensor, heads: int) -> Band:
    """ALiBi of the last token, (B, H, 1, M), from the last key to the first: -slope * the number of tokens after the key."""
    tokens = key_mask.cumsum(-1)  # (B, M)
    tokens_after = (tokens[:, -1:] - tokens).flip(-1)  # (B, M)
    slopes = alibi_slopes(heads, key_mask.device)  # (H,)
    return Band((slopes[:, None, None] * -tokens_after[:, None, None]).float())


def _later_padding(key_mask: Tensor | None) -> Tensor | None:
    """How much padding lies between each token and the last token, (B, M); None if there is none between tokens.

    ALiBi by offset counts this padding too, so it is too low by slope * this number.
    """
    if key_mask is None:
        return None
    padding_before = (~key_mask).cumsum(-1).masked_fill(~key_mask, 0)
    later_padding = (padding_before.amax(-1, keepdim=True) - padding_before).masked_fill(~key_mask, 0)
    if torch.compiler.is_compiling():
        torch._assert_async(
            ~later_padding.any(),
            "attention_mask: got one with padding between tokens, which a compiled model does not take, expected padding on "
            "the left or the right",
        )
        return None
    return later_padding if bool(later_padding.any()) else None


def _extra_channels(later_padding: Tensor, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Extra channels of query (H, 1, C) and key (B, 1, M, C), whose scaled dot product is slope * later_padding.

    In half precision one number is too coarse for either factor: a slope is split into a sum of three numbers, and
    later_padding into digits of base 256.
    """
    slopes, dtype = alibi_slopes(query.shape[1], query.device) / scale, query.dtype
    if dtype in (torch.float32, torch.float64):
        return slopes.to(dtype)[:, None, None], later_padding.to(dtype)[:, None, :, None]
    terms = []
    for _ in range(3):
        terms.append(slopes.to(dtype))
        slopes = slopes - terms[-1].double()
    of_query, of_key = [], []
    for digit in range((later_padding.shape[1].bit_length() + 7) // 8):
        share = 16**digit  # of 256 ** digit: float16 ends at 65504
        of_query += [term * share for term in terms]
        of_key += [(((later_padding >> 8 * digit) & 255) * share).to(dtype)] * len(terms)
    return torch.stack(of_query, -1)[:, None], torch.stack(of_key, -1)[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, extra: tuple[()] | tuple[Tensor, Tensor], *more: Any) -> Tensor:
    """`attend`, with a bias by key as extra channels of query (H, 1, C) and key (B, H, M, C), if there are any."""
    if not extra:
        return attend(query, key, value, *more)
    most = MAX_HEAD_SIZE - extra[0].shape[-1]
    if query.shape[-1] > most:
        raise ValueError(
            f"model: got heads of size {query.shape[-1]}, expected at most {most} where the bias takes extra key channels "
            "(Falcon, and BLOOM with padding between tokens): falloff.hf.unfuse(model)"
        )
    of_query, of_key = (
        channels.expand(*tensor.shape[:-1], -1) for channels, tensor in zip(extra, (query, key), strict=True)
    )
    return attend(torch.cat([query, of_query], -1), torch.cat([key, of_key], -1), value, *more)


def _by_offset(query: Tensor, key: Tensor, mask: MaskParts) -> Form:
    if query.shape[2] > 1 and not mask.causal:
        raise ValueError(
            "config.is_causal: got False, expected True: for keys in the future this model's bias rises with distance, and "
            "ALiBi's falls"
        )
    return ALiBi(query.shape[1]).form(query.shape[2], key.shape[2], mask.query_start, device=query.device)


class FusedMpt(Fused):
    """MptAttention. Its positions count padding too."""

    n_heads: int
    head_dim: int
    softmax_scale: float
    attn_dropout_p: float
    clip_qkv: float | None
    layer_idx: int
    training: bool
    Wqkv: nn.Module
    out_proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        position_bias: Tensor,
        past_key_values: Any = None,
        attention_mask: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attention; no weights."""
        mixed = self.Wqkv(hidden_states)
        if self.clip_qkv:
            mixed = mixed.clamp(-self.clip_qkv, self.clip_qkv)
        query, key, value = mixed.unflatten(2, (3, self.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        mask = as_mask_parts(attention_mask)
        bias = _by_offset(query, key, mask)
        dropout = self.attn_dropout_p if self.training else 0.0
        out = attend(query, key, value, bias, mask, self.softmax_scale, dropout)
        return self.out_proj(out.transpose(1, 2).reshape(hidden_states.shape)), None


class FusedMptBlock(Fused):
    """MptBlock, which gets `output_attentions` and does not pass it to its attention."""

    def forward(self, *arguments: Any, output_attentions: bool = False, **named: Any) -> Any:
        """The block's forward, which refuses to return attention weights."""
        if output_attentions:
            refuse_weights()
        return super().forward(*arguments, **named)  # type: ignore[misc]


class FusedFalcon(_JointProjection):
    """FalconAttention with ALiBi, divided by sqrt(D).

    Falcon rounds slope * key position to bfloat16, so the bias is no function of the offset. It is encoded as one more key
    channel, whose query channel is 1.
    """

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor,
        attention_mask: Any,
        position_ids: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        position_embeddings: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attention; no weights."""
        if output_attentions:
            refuse_weights()
        heads = self._split_heads(self.query_key_value(hidden_states))  # type: ignore[attr-defined]
        query, key, value = (tensor.transpose(1, 2) for tensor in heads)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        key, value = (tensor.expand(-1, self.num_heads, -1, -1) for tensor in (key, value))
        extra = alibi.new_ones(1), alibi.reshape(*key.shape[:3], 1)
        mask = as_mask_parts(attention_mask)
        out = _attend(query, key, value, extra, None, mask, self.inv_norm_factor, self.dropout_now())
        return self.dense(out.transpose(1, 2).reshape(hidden_states.shape)), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        return None if module.config.alibi else "it has rotary positions and no bias"
