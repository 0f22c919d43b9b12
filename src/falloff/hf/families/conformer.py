"""Wav2Vec2-Conformer with relative positions, as in Transformer-XL: (query + u) key^T + (query + v) table^T, by offset.

Transformers multiplies (query + v) with the projected sinusoids of all offsets, and shifts the product (B, H, N, 2N - 1).
Here these sinusoids are a table by offset.
"""

from typing import Any

from torch import Tensor, nn

from falloff.forms import Factored
from falloff.hf.attention import attend, mask_parts, refuse_weights
from falloff.hf.families.fused import Fused, by_head


class FusedConformer(Fused):
    """Wav2Vec2ConformerSelfAttention with relative positions."""

    num_heads: int
    scaling: float
    training: bool
    pos_bias_u: Tensor
    pos_bias_v: Tensor
    linear_pos: nn.Module
    linear_out: nn.Module
    dropout: nn.Dropout

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        relative_position_embeddings: Tensor | None = None,
        **named: Any,
    ) -> tuple[Tensor, None]:
        """Attention; no weights. The embeddings (1, 2N - 1, C) are by falling offset, from N - 1."""
        if named.get("output_attentions"):
            refuse_weights()
        self.check_implementation()
        if relative_position_embeddings is None:
            raise ValueError("relative_position_embeddings: got None, expected those of the model's encoder")
        query, key, value = (
            by_head(getattr(self, name)(hidden_states), self.num_heads) for name in ("linear_q", "linear_k", "linear_v")
        )
        table = self.linear_pos(relative_position_embeddings.flip(1)) * self.scaling
        table = by_head(table, self.num_heads)[0]  # (H, 2N - 1, D)
        bias = Factored(query + self.pos_bias_v[:, None], table, -(table.shape[1] // 2), "clamp")
        mask = mask_parts(attention_mask, query, key, causal=False)
        dropout = self.dropout.p if self.training else 0.0
        out = attend(query + self.pos_bias_u[:, None], key, value, bias, mask, self.scaling, dropout)
        return self.linear_out(out.transpose(1, 2).flatten(2)), None

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        kind = module.position_embeddings_type
        return None if kind == "relative" else f"it has {kind or 'no'} positions and no bias"
