"""TISA: a sum of learned Gaussian bumps over the signed offset."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from falloff.offsets import check_count
from falloff.schemes.cached import CachedScheme


class TISA(CachedScheme):
    """A sum of radial basis functions of the signed offset n: sum over k of a_k * exp(-abs(b_k) * (n - c_k)^2).

    n = query position - key position. The parameters `kernel_amplitudes` (a), `kernel_sharpness` (b) and `kernel_offsets`
    (c, in positions) are (kernels, H). Initially they are normal: a and b with mean 0.1 and standard deviation 0.01, c with
    mean 0 and standard deviation 5.

    Args:
        num_heads: H, at least 1.
        kernels: number of radial basis functions of each head, at least 1.

    Raises:
        ValueError: for arguments out of range.

    Paper: Wennberg and Henter 2021, "The Case for Translation-Invariant Self-Attention in Transformer-Based Language
    Models".

    >>> TISA(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "tisa"
    always = ("bounded",)
    largest_settings: ClassVar[dict[str, int]] = {"kernels": 64}
    depends_on = ("kernel_offsets", "kernel_amplitudes", "kernel_sharpness")
    formula = "sum_k a_kh * exp(-|b_kh| * (n - c_kh)^2)"
    paper = "Wennberg and Henter 2021, TISA"
    reading = "Learns a few bumps, each with a place, height and width; far from all of them the bias is 0."

    def __init__(self, num_heads: int, kernels: int = 5) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("kernels", kernels, 1)
        self.num_heads = num_heads
        self.kernels = kernels
        self.kernel_offsets = nn.Parameter(5.0 * torch.randn(kernels, num_heads))
        self.kernel_amplitudes = nn.Parameter(0.1 + 0.01 * torch.randn(kernels, num_heads))
        self.kernel_sharpness = nn.Parameter(0.1 + 0.01 * torch.randn(kernels, num_heads))

    def _constants(self, offsets: Tensor) -> Tensor:
        return offsets

    def _bias(self, constants: Tensor) -> Tensor:
        centre, height, sharpness = (
            self._upcast(p)[..., None] for p in (self.kernel_offsets, self.kernel_amplitudes, self.kernel_sharpness)
        )
        return (height * torch.exp(-sharpness.abs() * (constants - centre) ** 2)).sum(0)
