"""ALiBi: a linear penalty on distance, with a fixed slope for each head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from falloff.offsets import check_count
from falloff.schemes.cached import CachedScheme
from falloff.shapes import Float


def alibi_slopes(num_heads: int, device: torch.device | str | None = None) -> Float[Tensor, " H"]:
    """The slopes of ALiBi: 2^(-8 h / H) for h = 1 .. H, if H is a power of two.

    For other H: the slopes for c heads, c the largest power of two below H, then every second slope for 2c heads, until
    there are H.

    Args:
        num_heads: H, at least 1.
        device: of the result; the CPU by default.

    Returns:
        (H,), float64.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Press, Smith and Lewis 2022, "Train Short, Test Long".

    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039], dtype=torch.float64)
    """
    check_count("num_heads", num_heads, 1)

    def geometric(count: int) -> Tensor:
        return torch.exp2(torch.arange(1, count + 1, dtype=torch.float64, device=device) * (-8 / count))

    closest = 1 << (num_heads.bit_length() - 1)
    return torch.cat([geometric(closest), geometric(2 * closest)[0::2][: num_heads - closest]])


class ALiBi(CachedScheme):
    """A penalty that grows linearly with distance: -slope_h * abs(n).

    n is the offset; the slopes are those of `alibi_slopes`. The bias is added to the scaled scores. Falcon divides it by
    sqrt(D): for that, pass `bias_scale=D ** -0.5` to `falloff.attention`.

    Args:
        num_heads: H, at least 1; it need not be a power of two.
        learned: whether the slopes are trained, from these start values on, as exp of the parameter `log_slopes` (H,).

    Raises:
        ValueError: for arguments out of range.

    Paper: Press, Smith and Lewis 2022, "Train Short, Test Long".

    >>> ALiBi(8).dense(1, 3)[0]
    tensor([[-1.0000, -0.5000,  0.0000]])
    """

    name = "alibi"
    always = ("monotone", "bounded", "sign_symmetric", "reach", "beyond")
    depends_on = ("log_slopes",)
    formula = "-m_h * |n|, m_h = 2^(-8h/H) if H is a power of two"
    paper = "Press et al. 2022, Train Short, Test Long"
    reading = (
        "A penalty proportional to distance: each step away costs the head's slope, so steep heads see only their "
        "neighbourhood and flat heads see far. Nothing is learned."
    )

    def __init__(self, num_heads: int, learned: bool = False) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        if not isinstance(learned, bool):
            raise ValueError(f"learned: got {learned!r}, expected True or False")
        self.num_heads = num_heads
        self.learned = learned
        if learned:
            self.formula = "-m_h * |n|, m_h learned, from ALiBi's on"
            self.reading = self.reading.replace("Nothing is learned.", "The slopes are learned, from ALiBi's on.")
            self.log_slopes = nn.Parameter(alibi_slopes(num_heads).log().float())

    def _dependencies(self) -> Sequence[Tensor | None]:
        return super()._dependencies() if self.learned else []

    def _constants(self, offsets: Tensor) -> Tensor:
        return -offsets.abs()

    def _bias(self, constants: Tensor) -> Tensor:
        # Fixed slopes are not stored in a buffer: `model.bfloat16()` would round it.
        slopes = self._upcast(self.log_slopes).exp() if self.learned else alibi_slopes(self.num_heads, constants.device)
        return slopes[:, None] * constants
