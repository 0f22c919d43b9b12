"""Per-offset: a learned bias for every offset up to a maximum."""

from typing import Any

import torch
from torch import Tensor, nn

from falloff.offsets import check_count, check_offsets
from falloff.schemes.base import check_std
from falloff.schemes.cached import CachedScheme
from falloff.shapes import Int


class PerOffsetBias(CachedScheme):
    """A learned bias for every offset: weight[clamp(n, 0, max_distance), h].

    n is the offset. Keys in the future (n < 0) share the value of offset 0. With `bidirectional`, every offset from
    -max_distance to max_distance has a value of its own: weight[clamp(n, -max_distance, max_distance) + max_distance, h].
    The parameter `weight` is (max_distance + 1, H), with `bidirectional` (2 max_distance + 1, H).

    Args:
        num_heads: H, at least 1.
        max_distance: all larger distances share the value of this one; at least 1.
        bidirectional: whether keys in the future have values of their own.
        std: standard deviation of the initial weights, whose mean is 0; at least 0.

    Raises:
        ValueError: for arguments out of range.

    Paper: Shaw, Uszkoreit and Vaswani 2018, "Self-Attention with Relative Position Representations", clip distances like
    this; as a bias: Liu et al. 2021, "Swin Transformer".

    >>> PerOffsetBias(2, max_distance=3).bucket(torch.arange(6))
    tensor([0, 1, 2, 3, 3, 3])
    """

    name = "per-offset"
    depends_on = ("weight",)
    formula = "weight[clamp(n, 0, max_distance), h]"
    paper = "Shaw et al. 2018 (clipped distances); Liu et al. 2021, Swin (as a bias)"
    reading = "Learns one value for every distance up to max_distance, and one for all beyond."

    def __init__(self, num_heads: int, max_distance: int = 128, bidirectional: bool = False, *, std: float = 0.02) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_std(std)
        check_count("max_distance", max_distance, 1)
        if not isinstance(bidirectional, bool):
            raise ValueError(f"bidirectional: got {bidirectional!r}, expected True or False")
        self.num_heads = num_heads
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.reach = max_distance
        self.future_reach = max_distance if bidirectional else 0
        if bidirectional:
            self.formula = "weight[clamp(n, -max_distance, max_distance) + max_distance, h]"
            self.reading = (
                "Learns one value for every offset up to max_distance in either direction, and one for all beyond it."
            )
        self.weight = nn.Parameter(torch.randn(self.future_reach + max_distance + 1, num_heads) * std)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"max_distance": trained_length - 1}  # a value for every offset that training sees

    def bucket(self, offsets: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The row of `weight` for each integer offset, in the shape of `offsets`.

        Raises:
            ValueError: for offsets that are not integers.
        """
        check_offsets(offsets)
        lowest = -self.max_distance if self.bidirectional else 0
        return offsets.clamp(lowest, self.max_distance) - lowest

    def _constants(self, offsets: Tensor) -> Tensor:
        return self.bucket(offsets)

    def _bias(self, constants: Tensor) -> Tensor:
        return self._upcast(self.weight)[constants].T
