"""KERPLE: a penalty on distance, logarithmic or a power, with two learned parameters for each head."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from falloff.offsets import check_count
from falloff.schemes.cached import CachedScheme

_MIN = 0.01  # the published code clamps every parameter to at least this


class _Kerple(CachedScheme):
    paper = "Chi et al. 2022, KERPLE"
    always = ("monotone", "bounded", "sign_symmetric", "reach", "beyond")
    max_p: ClassVar[float] = torch.inf

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        self.num_heads = num_heads
        # (H, 1, 1) as in the published code, so that its checkpoints load.
        self.bias_p = nn.Parameter((2 * torch.rand(num_heads, 1, 1)).clamp(min=_MIN))
        self.bias_a = nn.Parameter(torch.rand(num_heads, 1, 1).clamp(min=_MIN))

    def _constants(self, offsets: Tensor) -> tuple[Tensor, ...]:
        """The distances (L,), the minimum of p and a (1, 1), their maxima (2, 1), and a zero (1, 1)."""
        dtype = self._dtype()
        minimum, max_p, max_a, zero = (
            torch.full((1, 1), number, dtype=dtype, device=offsets.device) for number in (_MIN, self.max_p, torch.inf, 0.0)
        )
        return offsets.abs().to(dtype), minimum, torch.cat([max_p, max_a]), zero

    def _clamped(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, ...]:
        """`bias_p` and `bias_a` clamped to their ranges, (H, 1) each; their gradient is that of the unclamped values.

        The published code clamps the parameters in place. Here they are not written to; an optimizer can still bring back a
        value that has left its range, since its gradient is not 0.
        """
        both = self._upcast(torch.cat([self.bias_p, self.bias_a], 1))  # (H, 2, 1): one kernel launch for two parameters
        values = both.detach()
        return (values.clamp(minimum, maximum) + (both - values)).unbind(1)  # what is added is 0, and has the gradient


class KerpleLog(_Kerple):
    """A logarithmic penalty: -r1 * ln(1 + r2 * abs(n)), r1 = `bias_p` and r2 = `bias_a`.

    n is the offset. The parameters `bias_p`, initialized from U(0, 2), and `bias_a`, from U(0, 1), are (H, 1, 1); below 0.01
    they count as 0.01. The bias is added to the scaled scores, as in the published code. The paper's Eq. 1 divides it by
    sqrt(D): for that, pass `bias_scale=D ** -0.5` to `falloff.attention`.

    Args:
        num_heads: H, at least 1.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Chi et al. 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation".

    >>> KerpleLog(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "kerple-log"
    depends_on = ("bias_p", "bias_a")
    formula = "-r1_h * ln(1 + r2_h * |n|)"
    reading = "A penalty that grows with the logarithm of distance, with learned strength and scale for each head."

    def _bias(self, constants: tuple[Tensor, ...]) -> Tensor:
        distance, minimum, maximum, zero = constants
        p, a = self._clamped(minimum, maximum)
        # The product and its sign in one launch, here and below.
        return torch.addcmul(zero, p, torch.log1p(a * distance), value=-1)


class KerplePower(_Kerple):
    """A power penalty: -r1 * abs(n) ** r2, r1 = `bias_a` and r2 = `bias_p`.

    n is the offset. With r2 = 1 it is ALiBi with learned slopes. The parameters `bias_a`, initialized from U(0, 1), and
    `bias_p`, from U(0, 2), are (H, 1, 1); below 0.01 they count as 0.01, and a `bias_p` above 2 as 2.

    Args:
        num_heads: H, at least 1.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Chi et al. 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation".

    >>> KerplePower(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "kerple-power"
    depends_on = ("bias_p", "bias_a")
    max_p = 2.0
    formula = "-r1_h * |n|^r2_h, 0 < r2_h <= 2"
    reading = "A penalty that grows with a learned power of distance, with a learned strength, for each head."

    def _bias(self, constants: tuple[Tensor, ...]) -> Tensor:
        distance, minimum, maximum, zero = constants
        p, a = self._clamped(minimum, maximum)
        return torch.addcmul(zero, a, distance**p, value=-1)
