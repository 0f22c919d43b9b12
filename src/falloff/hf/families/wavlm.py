"""WavLM: T5's bias, which each query and head multiplies by a gate of its states.

Transformers makes the bias a tensor (B * H, N, N) in the first layer, hands it on, and multiplies it in each layer. Here the
values by offset (H, K) are handed on, and gates and values are a product with one channel.
"""

from typing import Any

import torch
from torch import Tensor, nn

from falloff.forms import Factored
from falloff.hf.attention import attend, refuse_weights
from falloff.hf.families.fused import Fused, by_head
from falloff.hf.masks import MaskParts


class FusedWavLM(Fused):
    """WavLMAttention with its bias by offset."""

    num_heads: int
    num_buckets: int
    max_distance: int
    dropout: float
    scaling: float
    training: bool
    gru_rel_pos_const: Tensor
    gru_rel_pos_linear: nn.Module
    out_proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,
        **named: Any,
    ) -> tuple[Tensor, None, Tensor]:
        """Attention, no weights, and the bias by offset (H, K) for the next layer."""
        if named.get("output_attentions"):
            refuse_weights()
        if position_bias is None:
            position_bias = self._by_offset(hidden_states.shape[1], hidden_states.device)
        states = by_head(hidden_states, self.num_heads)  # (B, H, N, D)
        gates = torch.sigmoid(self.gru_rel_pos_linear(states).unflatten(-1, (2, 4)).sum(-1))  # (B, H, N, 2)
        gate = gates[..., :1] * (gates[..., 1:] * self.gru_rel_pos_const - 1.0) + 2.0  # (B, H, N, 1)
        bias = Factored(gate, position_bias[..., None], -(position_bias.shape[1] // 2), "clamp")
        query, key, value = (
            by_head(getattr(self, name)(hidden_states), self.num_heads) for name in ("q_proj", "k_proj", "v_proj")
        )
        mask = MaskParts(None if attention_mask is None else attention_mask == 1, False, None, 0, None)
        out = attend(query, key, value, bias, mask, self.scaling, self.dropout if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None, position_bias

    def _by_offset(self, length: int, device: torch.device) -> Tensor:
        """The bias by rising offset, (H, K), up to the reach or the length, whichever is less."""
        # There may be more exact buckets than max_distance.
        reach = torch.sym_min(max(self.max_distance, self.num_buckets // 4), length)
        of_keys = torch.arange(reach, -reach - 1, -1, device=device)  # key position - query position
        return self.rel_attn_embed(self._relative_positions_bucket(of_keys)).T  # type: ignore[attr-defined]
