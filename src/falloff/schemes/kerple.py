"""KERPLE: kernelised distances, a logarithmic or a power penalty with two learned parameters a head."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from falloff.offsets import check_count
from falloff.schemes.kept import KeptScheme

_LEAST = 0.01  # the published code keeps every parameter at or above this


class _Kerple(KeptScheme):
    paper = "Chi et al. 2022, KERPLE"
    largest_p: ClassVar[float] = torch.inf

    def __init__(self, num_heads: int, p_range: float, a_range: float) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        self.num_heads = num_heads
        # (H, 1, 1) as in the published code, so that its checkpoints load.
        self.bias_p = nn.Parameter((torch.rand(num_heads, 1, 1) * p_range).clamp(min=_LEAST))
        self.bias_a = nn.Parameter((torch.rand(num_heads, 1, 1) * a_range).clamp(min=_LEAST))

    def _constants(self, offsets: Tensor) -> tuple[Tensor, ...]:
        """The distances, the least and the largest p and a, (2, 1) each, and a zero."""
        dtype = self._dtype()
        least, p, a, zero = (
            torch.full((1, 1), number, dtype=dtype, device=offsets.device)
            for number in (_LEAST, self.largest_p, torch.inf, 0.0)
        )
        return offsets.abs().to(dtype), least, torch.cat([p, a]), zero

    def _clamped(self, least: Tensor, largest: Tensor) -> tuple[Tensor, ...]:
        """`bias_p` and `bias_a` within their ranges, (H, 1) each.

        The published code clamps the stored values and lets the gradient through. The same is done here without writing
        to the parameters: an optimizer can bring back one that has left its range.
        """
        both = self._raised(torch.cat([self.bias_p, self.bias_a], 1))  # (H, 2, 1): one launch for two
        with torch.no_grad():
            stored = both if forward_ad._current_level < 0 else both.detach()  # a tangent goes on where gradients do not
            missing = stored.clamp(least, largest) - stored
        return (both + missing).unbind(1)


class KerpleLog(_Kerple):
    """A logarithmic penalty: -r1 * ln(1 + r2 * abs(n)), r1 = `bias_p` and r2 = `bias_a`, both at least 0.01.

    Args:
        num_heads: H.

    Parameters `bias_p` ~ U(0, 2) and `bias_a` ~ U(0, 1), each (H, 1, 1). Added to the scaled scores, as in the published
    code; the paper's Eq. 1 divides it by sqrt(D) too (`bias_scale`).

    Raises:
        ValueError: for a number of heads below 1.

    Paper: Chi et al. 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation".

    >>> KerpleLog(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "kerple-log"
    keeps = ("bias_p", "bias_a")
    formula = "-r1_h * ln(1 + r2_h * |n|)"
    reading = "A penalty that grows with the logarithm of distance, with learned strength and scale for each head."

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads, p_range=2.0, a_range=1.0)

    def _bias(self, constants: tuple[Tensor, ...]) -> Tensor:
        distance, least, largest, zero = constants
        p, a = self._clamped(least, largest)
        return torch.addcmul(zero, p, torch.log1p(a * distance), value=-1)


class KerplePower(_Kerple):
    """A power penalty: -r1 * abs(n) ** r2, r1 = `bias_a` at least 0.01 and r2 = `bias_p` within 0.01 .. 2.

    With r2 = 1 it is ALiBi with a learned slope.

    Args:
        num_heads: H.

    Parameters `bias_a` ~ U(0, 1) and `bias_p` ~ U(0, 2), each (H, 1, 1).

    Raises:
        ValueError: for a number of heads below 1.

    Paper: Chi et al. 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation".

    >>> KerplePower(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "kerple-power"
    keeps = ("bias_p", "bias_a")
    largest_p = 2.0
    formula = "-r1_h * |n|^r2_h, 0 < r2_h <= 2"
    reading = "A penalty that grows with a learned power of distance, with a learned strength, for each head."

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads, p_range=2.0, a_range=1.0)

    def _bias(self, constants: tuple[Tensor, ...]) -> Tensor:
        distance, least, largest, zero = constants
        p, a = self._clamped(least, largest)
        return torch.addcmul(zero, a, distance**p, value=-1)
