"""Inkling's text layers: a band, mixed of profiles by what each token says; sliding and global layers, log scaling."""

from typing import Any

import torch
from torch import Tensor

from falloff.forms import Band
from falloff.hf.families.fused import Fused
from falloff.hf.masks import Seen


class FusedInkling(Fused):
    """InklingAttention, which scales what `FusedProfiles` made by the logarithm of the position, as it does the queries."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As before."""
        self.must_be_ours()
        return super().forward(*arguments, **named)  # type: ignore[misc]

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, seen: Seen) -> Band | None:
        """The form of what `FusedProfiles` made."""
        return None if position_bias is None else Band(position_bias)


class FusedProfiles(Fused):
    """InklingRelativeLogits, by offset (B, H, N, E) instead of by key (B, H, N, M)."""

    proj: Tensor

    def forward(self, relative_states: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The values of each query by offset; of a single one those of its keys, from the last back."""
        if query_positions.shape[0] == 1:
            return torch.flip(super().forward(relative_states, query_positions, key_positions), (-1,))  # type: ignore[misc]
        mixed: Any = relative_states @ self.proj
        return mixed.transpose(1, 2)
