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
from falloff.schemes import ALiBi


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
    """BloomAttention. Positions count the tokens that are not padding."""

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
        bias = _bias_of_positions(alibi, query, key, seen)
        out = attend(query, key, value, bias, seen, self.inv_norm_factor, self.dropout_now())
        out = self.dense(out.transpose(1, 2).reshape(residual.shape))
        return residual + drop(out, self.hidden_dropout, self.training), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        if module.pretraining_tp > 1 and module.slow_but_exact:
            return "slow_but_exact adds up its output in slices"
        return None


def _bias_of_positions(alibi: Tensor, query: Tensor, key: Tensor, seen: Seen) -> Form:
    """ALiBi by offset. For one query as the model made it, (B H, 1, M), which holds for any mask."""
    batch, heads, num_queries, _ = query.shape
    if num_queries == 1:
        if alibi.shape[-1] != key.shape[2]:
            raise ValueError(
                f"attention_mask: got one of {alibi.shape[-1]} tokens, expected one of {key.shape[2]}, as the cache"
            )
        return Band(torch.flip(alibi.view(batch, heads, 1, -1), (-1,)))
    if seen.key_mask is not None:
        begins = seen.key_mask[:, 1:] & ~seen.key_mask[:, :-1]
        consecutive = (begins.sum(1) + seen.key_mask[:, 0] <= 1).all()
        said = (
            "attention_mask: got one with padding between tokens, expected padding on the left or the right: this model "
            "counts positions without it (it takes one after falloff.hf.unfuse)"
        )
        if torch.compiler.is_compiling():
            torch._assert_async(consecutive, said)
        elif not consecutive:
            raise ValueError(said)
    return _by_offset(query, key, seen)


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
        batch, num_keys = key.shape[0], key.shape[2]
        key, value = (tensor.expand(-1, self.num_heads, -1, -1) for tensor in (key, value))
        by_key = alibi.reshape(batch, self.num_heads, num_keys, 1)
        out = attend(
            torch.cat([query, torch.ones_like(query[..., :1])], -1),
            torch.cat([key, by_key], -1),
            torch.cat([value, torch.zeros_like(by_key)], -1),
            None,
            told(attention_mask),
            self.inv_norm_factor,
            self.dropout_now(),
        )[..., : self.head_dim]
        return self.dense(out.transpose(1, 2).reshape(hidden_states.shape)), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        return None if module.config.alibi else "it has rotary positions and no bias"
