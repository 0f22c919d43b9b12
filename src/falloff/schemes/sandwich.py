"""Sandwich: the inner product of two sinusoidal position embeddings, as a bias."""

from typing import ClassVar

import torch
from torch import Tensor

from falloff.offsets import check_count
from falloff.schemes.cached import CachedScheme


class Sandwich(CachedScheme):
    """The inner product of two sinusoidal position embeddings minus its value at distance 0, scaled for each head.

    (sum over k of cos(n / 10000^(2k / dim)) - dim / 2) / (8 h / H) at offset n, with k = first .. first + dim / 2 - 1 and
    h = 1 .. H. It falls with distance, but not monotonically. It has no parameters.

    Args:
        num_heads: H, at least 1.
        dim: dimensions of the sinusoidal embedding: even, at least 2. It need not be the head size.
        first: where k starts, 1 or 0: published implementations differ.

    Raises:
        ValueError: for arguments out of range.

    Paper: Chi et al. 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field Analysis".

    >>> Sandwich(8).dense(1, 1)[0]
    tensor([[0.]])
    """

    name = "sandwich"
    largest_settings: ClassVar[dict[str, int]] = {"dim": 8192}
    depends_on = ()
    formula = "(sum_k cos(n / 10000^(2k/dim)) - dim/2) / (8h/H)"
    paper = "Chi et al. 2023, Sandwich"
    reading = (
        "A penalty that grows roughly with the logarithm of distance, with small waves on it: the similarity of two "
        "sinusoidal position embeddings. Later heads are flatter. Nothing is learned."
    )

    def __init__(self, num_heads: int, dim: int = 128, *, first: int = 1) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("dim", dim, 2)
        if dim % 2:
            raise ValueError(f"dim: got {dim}, expected an even number: cosines come in pairs with sines")
        if isinstance(first, bool) or first not in (0, 1):
            raise ValueError(f"first: got {first!r}, expected 0 or 1")
        self.num_heads = num_heads
        self.dim = dim
        self.first = first

    def _constants(self, offsets: Tensor) -> Tensor:
        distance = offsets.abs().double()
        total = torch.full_like(distance, -self.dim / 2)
        for k in range(self.first, self.first + self.dim // 2):  # a loop: memory stays O(L)
            total = total + torch.cos(distance * 10000.0 ** (-2 * k / self.dim))
        return total

    def _bias(self, constants: Tensor) -> Tensor:
        heads = torch.arange(1, self.num_heads + 1, device=constants.device, dtype=torch.float64)
        return constants / (8 * heads / self.num_heads)[:, None]
