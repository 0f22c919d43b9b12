"""Profile mixture: the bias of each query is a mixture of learned profiles over distance (Inkling's relative logits)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from falloff.forms import Factored
from falloff.offsets import check_count
from falloff.schemes.content import ContentScheme, check_states
from falloff.shapes import Float


class ProfileMixture(ContentScheme):
    """A bias that depends on the query's content: state[b, h, i] . profiles[:, n] at offset n if 0 <= n < extent, else 0.

    The model computes the states (B, H, N, R), and passes the form: `attention(query, key, value, mixture(state))`. The form
    is on the device of the states and in their dtype; it takes the memory of the states, and of the profiles. The parameter
    `profiles` is (R, E), initially normal with mean 0 and standard deviation 0.02.

    Args:
        num_heads: H, at least 1.
        state_dim: R, how many profiles are mixed, at least 1.
        extent: E, the number of offsets 0 .. E - 1 at which the bias is not 0, at least 1.

    Raises:
        ValueError: for arguments out of range.

    Source: the relative logits of the Inkling models, 2026.

    >>> mixture = ProfileMixture(2, state_dim=4, extent=16)
    >>> mixture(torch.zeros(1, 2, 8, 4)).dense(8, 8).shape
    torch.Size([1, 2, 8, 8])
    """

    name = "profile-mixture"
    content = ("state",)
    largest_settings: ClassVar[dict[str, int]] = {"state_dim": 1024, "extent": 2**16}
    formula = "state[b, h, i] . profiles[:, n] for 0 <= n < extent, else 0"
    paper = "Inkling models, 2026"
    reading = "Each query mixes learned profiles of bias by distance, so what is near or far depends on the content."

    def __init__(self, num_heads: int, state_dim: int = 16, extent: int = 1024) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("state_dim", state_dim, 1)
        check_count("extent", extent, 1)
        self.num_heads = num_heads
        self.state_dim = state_dim
        self.extent = extent
        self.profiles = nn.Parameter(torch.randn(state_dim, extent) * 0.02)

    def form_of(self, state: Float[Tensor, "B H N R"]) -> Factored:
        """The form of these states (B, H, N, R).

        Raises:
            ValueError: for states of the wrong shape or dtype.
        """
        check_states("state", state, "B", self.num_heads, "N", self.state_dim)
        # Not a view of the parameter: FSDP warns of modules that return one.
        return Factored(state, self.profiles.to(state.dtype).T.contiguous()[None])
