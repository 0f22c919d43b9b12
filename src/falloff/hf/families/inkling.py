"""The text layers of Inkling and Inkling-2: a band whose values depend on each token's content; sliding and global layers.

Inkling-2's sinks, one for each query and head, come to the attention function beside the band.
"""

from typing import Any

import torch
from torch import Tensor

from falloff.forms import Band
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts


class FusedInkling(Fused):
    """InklingAttention, Inkling2SlidingAttention and Inkling2FullAttention, which make their bias by `FusedProfiles`.

    Both scale queries and bias by the logarithm of the position, Inkling the bias after `FusedProfiles`.
    """

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The original forward, after a check of the implementation."""
        self.check_implementation()
        return super().forward(*arguments, **named)  # type: ignore[misc]

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, mask: MaskParts) -> Band | None:
        """The values of `FusedProfiles` as a band."""
        return None if position_bias is None else Band(position_bias)


class FusedProfiles(Fused):
    """InklingRelativeLogits and Inkling2RelativeLogits, by offset (B, H, N, E) instead of by key (B, H, N, M)."""

    proj: Tensor

    def forward(self, relative_states: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The values of each query by offset, (B, H, N, E); of a single query those of its keys, last key first."""
        if query_positions.shape[0] == 1:
            return torch.flip(super().forward(relative_states, query_positions, key_positions), (-1,))  # type: ignore[misc]
        mixed: Any = relative_states @ self.proj
        return mixed.transpose(1, 2)
