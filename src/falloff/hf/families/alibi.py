"""BLOOM, MPT and Falcon: ALiBi, each in a forward of its own that makes scores (B, H, N, M). Written anew without them.

ALiBi is added by key position there. That is the same as by offset, but for a constant of each row, which the softmax takes
away: where the keys that a row sees have consecutive positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from falloff.forms import Band, Form
from falloff.hf.attention import attend, refuse_weights, told
from falloff.hf.families.fused import Fused
from falloff.hf.masks import Seen
from falloff.ops.checks import MAX_HEAD_SIZE
from falloff.schemes import ALiBi
from falloff.schemes.alibi import alibi_slopes


class _OneMatrix(Fused):
    """What BLOOM's and Falcon's attention have: queries, keys and values from one matrix."""

    num_heads: int
    head_dim: int
    inv_norm_factor: float
    layer_idx: int
    training: bool
    query_key_value: nn.Module
    dense: nn.Module
    attention_dropout: nn.Dropout

    def dropout_now(self) -> float:
        """The probability to drop a weight: 0 but while training."""
        return self.attention_dropout.p if self.training else 0.0


class FusedBloom(_OneMatrix):
    """BloomAttention. Positions count the tokens that are not padding; ALiBi by them is exact, in steps and whole."""

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
        seen = told(attention_mask)
        if alibi.shape[-1] != key.shape[2]:  # all that is taken from it: its values are rounded to the model's dtype
            raise ValueError(
                f"attention_mask: got one of {alibi.shape[-1]} tokens, expected one of {key.shape[2]}, as the cache"
            )
        skipped = None
        if query.shape[2] == 1 and seen.key_mask is not None:
            bias: Form = _of_one_query(seen.key_mask, self.num_heads)
        else:
            bias = _by_offset(query, key, seen)
            skipped = _skipped(seen.key_mask)
        by_key = () if skipped is None else _channels(skipped, query, self.inv_norm_factor)
        out = _attend(query, key, value, by_key, bias, seen, self.inv_norm_factor, self.dropout_now())
        out = self.dense(out.transpose(1, 2).reshape(residual.shape))
        return residual + drop(out, self.hidden_dropout, self.training), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        if module.pretraining_tp > 1 and module.slow_but_exact:
            return "slow_but_exact adds up its output in slices"
        return None


def _of_one_query(key_mask: Tensor, heads: int) -> Band:
    """ALiBi of the last token by key, (B, H, 1, M) from the last key back: how many tokens lie behind each."""
    tokens = key_mask.cumsum(-1)
    behind = (tokens[:, -1:] - tokens).flip(-1)
    slopes = alibi_slopes(heads, key_mask.device)
    return Band((slopes[:, None, None] * -behind[:, None, None]).float())


def _skipped(key_mask: Tensor | None) -> Tensor | None:
    """Where padding lies between tokens, how much of it follows each, (B, M): by so much ALiBi by place is too low."""
    if key_mask is None:
        return None
    padding_before = (~key_mask).cumsum(-1).masked_fill(~key_mask, 0)
    skipped = (padding_before.amax(-1, keepdim=True) - padding_before).masked_fill(~key_mask, 0)
    if torch.compiler.is_compiling():
        torch._assert_async(
            ~skipped.any(),
            "attention_mask: got one with padding between tokens, expected padding on the left or the right: a compiled "
            "model has ALiBi by place alone (it takes one where it is not compiled)",
        )
        return None
    return skipped if bool(skipped.any()) else None


def _channels(skipped: Tensor, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """More dimensions of the head for query (H, 1, C) and key (B, 1, M, C), whose scaled product is slope * skipped.

    In half precision neither factor fits a number: the slope is a sum of three, and what was skipped has digits of base 256.
    """
    slopes, dtype = alibi_slopes(query.shape[1], query.device) / scale, query.dtype
    if dtype in (torch.float32, torch.float64):
        return slopes.to(dtype)[:, None, None], skipped.to(dtype)[:, None, :, None]
    terms = []
    for _ in range(3):
        terms.append(slopes.to(dtype))
        slopes = slopes - terms[-1].double()
    of_query, of_key = [], []
    for digit in range((skipped.shape[1].bit_length() + 7) // 8):
        share = 16**digit  # of 256 ** digit: float16 ends at 65504
        of_query += [term * share for term in terms]
        of_key += [(((skipped >> 8 * digit) & 255) * share).to(dtype)] * len(terms)
    return torch.stack(of_query, -1)[:, None], torch.stack(of_key, -1)[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, by_key: tuple[()] | tuple[Tensor, Tensor], *more: Any) -> Tensor:
    """`attend` with a bias by key, if any: as more dimensions of the head, of query (H, 1, C) and key (B, H, M, C)."""
    if not by_key:
        return attend(query, key, value, *more)
    most = MAX_HEAD_SIZE - by_key[0].shape[-1]
    if query.shape[-1] > most:
        raise ValueError(
            f"model: got heads of size {query.shape[-1]}, expected at most {most} where a bias rides on the keys "
            "(Falcon's, and BLOOM's with padding between tokens): falloff.hf.unfuse(model)"
        )
    of_query, of_key = (
        channels.expand(*tensor.shape[:-1], -1) for channels, tensor in zip(by_key, (query, key), strict=True)
    )
    return attend(torch.cat([query, of_query], -1), torch.cat([key, of_key], -1), value, *more)


def _by_offset(query: Tensor, key: Tensor, seen: Seen) -> Form:
    if query.shape[2] > 1 and not seen.causal:
        raise ValueError(
            "config.is_causal: got False, expected True: ahead of a query this model's bias rises, and ALiBi falls"
        )
    return ALiBi(query.shape[1]).form(query.shape[2], key.shape[2], seen.query_start, device=query.device)


class FusedMpt(Fused):
    """MptAttention. Positions are places in the cache, whatever the padding."""

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
        seen = told(attention_mask)
        bias = _by_offset(query, key, seen)
        dropout = self.attn_dropout_p if self.training else 0.0
        out = attend(query, key, value, bias, seen, self.softmax_scale, dropout)
        return self.out_proj(out.transpose(1, 2).reshape(hidden_states.shape)), None


class FusedMptBlock(Fused):
    """MptBlock, which hears of `output_attentions` and does not tell its attention."""

    def forward(self, *arguments: Any, output_attentions: bool = False, **named: Any) -> Any:
        """As before, but that nobody gets weights."""
        if output_attentions:
            refuse_weights()
        return super().forward(*arguments, **named)  # type: ignore[misc]


class FusedFalcon(_OneMatrix):
    """FalconAttention with ALiBi, divided by sqrt(D).

    Its bias is bfloat16(slope * position) by key, rounded to eight bits: no function of the offset any more, and trained so.
    It rides on the keys, as one more dimension of the head that every query meets with 1.
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
        by_key = alibi.new_ones(1), alibi.reshape(*key.shape[:3], 1)
        seen = told(attention_mask)
        out = _attend(query, key, value, by_key, None, seen, self.inv_norm_factor, self.dropout_now())
        return self.dense(out.transpose(1, 2).reshape(hidden_states.shape)), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        return None if module.config.alibi else "it has rotary positions and no bias"
