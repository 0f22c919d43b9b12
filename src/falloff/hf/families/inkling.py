"""Inkling's text layers: a band whose values depend on each token's content; sliding and global layers, log scaling."""

from typing import Any

import torch
from torch import Tensor

from falloff.forms import Band
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts


class FusedInkling(Fused):
    """InklingAttention, which scales the values of `FusedProfiles` and the queries by the logarithm of the position."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The original forward, after a check of the implementation."""
        self.check_implementation()
        return super().forward(*arguments, **named)  # type: ignore[misc]

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, mask: MaskParts) -> Band | None:
        """The values of `FusedProfiles` as a band."""
        return None if position_bias is None else Band(position_bias)


class FusedProfiles(Fused):
    """InklingRelativeLogits, by offset (B, H, N, E) instead of by key (B, H, N, M)."""

    proj: Tensor

    def forward(self, relative_states: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The values of each query by offset, (B, H, N, E); of a single query those of its keys, last key first."""
        if query_positions.shape[0] == 1:
            return torch.flip(super().forward(relative_states, query_positions, key_positions), (-1,))  # type: ignore[misc]
        mixed: Any = relative_states @ self.proj
        return mixed.transpose(1, 2)
