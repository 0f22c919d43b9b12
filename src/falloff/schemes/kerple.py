"""KERPLE: kernelised distances, a logarithmic or a power penalty with two learned parameters a head."""

import torch
from torch import Tensor, nn

from falloff.offsets import check_count
from falloff.schemes.base import Scheme
from falloff.shapes import Float, Int

_LEAST = 0.01  # the published code keeps every parameter at or above this


class _Kerple(Scheme):
    paper = "Chi et al. 2022, KERPLE"

    def __init__(self, num_heads: int, p_range: float, a_range: float) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        self.num_heads = num_heads
        # (H, 1, 1) as in the published code, so that its checkpoints load.
        self.bias_p = nn.Parameter((torch.rand(num_heads, 1, 1) * p_range).clamp(min=_LEAST))
        self.bias_a = nn.Parameter((torch.rand(num_heads, 1, 1) * a_range).clamp(min=_LEAST))

    def _clamped(self, parameter: Tensor, most: float | None = None) -> Tensor:
        """The parameter within its range, (H, 1).

        The published code clamps the stored values and lets the gradient through. The same is done here without writing
        to the parameter: an optimizer can bring back one that has left its range.
        """
        value = self._raised(parameter).flatten(1)
        return value + (value.clamp(_LEAST, most) - value).detach()


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
    formula = "-r1_h * ln(1 + r2_h * |n|)"
    reading = "A penalty that grows with the logarithm of distance, with learned strength and scale for each head."

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads, p_range=2.0, a_range=1.0)

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        return -self._clamped(self.bias_p) * torch.log1p(self._clamped(self.bias_a) * offsets.abs())


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
    formula = "-r1_h * |n|^r2_h, 0 < r2_h <= 2"
    reading = "A penalty that grows with a learned power of distance, with a learned strength, for each head."

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads, p_range=2.0, a_range=1.0)

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        exponent = self._clamped(self.bias_p, most=2.0)
        return -self._clamped(self.bias_a) * offsets.abs().to(exponent.dtype) ** exponent
