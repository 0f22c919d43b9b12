"""BAM: a generalised Gaussian prior over positions, with learned location, scale and shape for each head."""

import torch
from torch import Tensor, nn

from falloff.offsets import check_count
from falloff.schemes.alibi import alibi_slopes
from falloff.schemes.cached import CachedScheme


class BAM(CachedScheme):
    """The logarithm of a generalised Gaussian of the offset n: -(abs(n - location_h) / scale_h) ** shape_h.

    Shape 1 is a Laplace prior, which at location 0 is ALiBi with slope 1 / scale; shape 2 is a Gaussian. The parameters
    `location`, in positions, `log_scale` and `log_shape`, of which exp is taken, are (H,). At the start it is ALiBi.

    Args:
        num_heads: H, at least 1.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Bianchessi et al. 2025, "Bayesian Attention Mechanism: A Probabilistic Framework for Positional Encoding and
    Context Length Extrapolation" (GGD-BAM).

    >>> BAM(8).dense(1, 3)[0]
    tensor([[-1.0000, -0.5000, -0.0000]], grad_fn=<SelectBackward0>)
    """

    name = "bam"
    always = ("bounded", "reach")
    depends_on = ("location", "log_scale", "log_shape")
    formula = "-(|n - location_h| / scale_h) ** shape_h, scale = exp(log_scale), shape = exp(log_shape)"
    paper = "Bianchessi et al. 2025, Bayesian Attention Mechanism (BAM)"
    reading = "A penalty that grows with the distance from a learned place, with a learned width and a learned power."

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        self.num_heads = num_heads
        self.location = nn.Parameter(torch.zeros(num_heads))
        self.log_scale = nn.Parameter(-alibi_slopes(num_heads).log().to(torch.get_default_dtype()))
        self.log_shape = nn.Parameter(torch.zeros(num_heads))

    def _constants(self, offsets: Tensor) -> Tensor:
        return offsets

    def _bias(self, constants: Tensor) -> Tensor:
        location, log_scale, log_shape = (self._upcast(p)[:, None] for p in (self.location, self.log_scale, self.log_shape))
        distance = (constants - location).abs()
        at_location = distance == 0  # where a power below 1 has an infinite slope, and 0 * infinity is NaN
        logs = distance.masked_fill(at_location, 1.0).log() - log_scale
        return -(logs * log_shape.exp()).exp().masked_fill(at_location, 0.0)
