"""The text layers of Inkling and Inkling-2: a bias made of each token's states; sliding and global layers, log scaling.

Inkling-2's sinks, one for each query and head, come to the attention function beside the bias.
"""

from typing import Any

import torch
from torch import Tensor, nn

from falloff.forms import Band, Factored
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts


class FusedInkling(Fused):
    """InklingAttention, Inkling2SlidingAttention and Inkling2FullAttention, which make their bias by `FusedProfiles`.

    Both scale queries and bias by the logarithm of the position, Inkling the bias after `FusedProfiles`.
    """

    rel_logits_proj: nn.Module

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The original forward, after a check of the implementation."""
        self.check_implementation()
        return super().forward(*arguments, **named)  # type: ignore[misc]

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, mask: MaskParts) -> Band | Factored | None:
        """What `FusedProfiles` gave as a form: the states of many queries with the profiles, or a band of one query."""
        if position_bias is None:
            return None
        if query.shape[2] == 1:
            return Band(position_bias)
        return Factored(position_bias, self.rel_logits_proj(None, None, None))


class FusedProfiles(Fused):
    """InklingRelativeLogits and Inkling2RelativeLogits, by states or by offset instead of by key (B, H, N, M)."""

    proj: Tensor

    def forward(
        self, relative_states: Tensor | None, query_positions: Tensor | None, key_positions: Tensor | None
    ) -> Tensor:
        """The states by head (B, H, N, R); of a single query the values of its keys, last key first; or the profiles.

        The profiles (1, E, R) are what a call without states gives: a call, so that a hook that fetches weights runs.
        """
        if relative_states is None or query_positions is None:
            return self.proj.mT[None]
        if query_positions.shape[0] == 1:
            return torch.flip(super().forward(relative_states, query_positions, key_positions), (-1,))  # type: ignore[misc]
        return relative_states.transpose(1, 2)
