"""Profile mixture: the bias of each query is a mixture of learned profiles over distance (Inkling's relative logits)."""

from typing import ClassVar, NoReturn

import torch
from torch import Tensor, nn

from falloff.forms import Band
from falloff.offsets import check_count, first_query_position, offset_matrix
from falloff.schemes.base import Scheme
from falloff.shapes import Float


class ProfileMixture(Scheme):
    """A bias that depends on the query's content: state[b, h, i] . profiles[:, n] at offset n if 0 <= n < extent, else 0.

    The model computes the states (B, H, N, R), and passes the form: `attention(query, key, value, mixture(state))`. The form
    is a band on the device of the states, in their dtype (under autocast, in that of a matrix product); other schemes
    compute in at least float32, as they depend on positions. The parameter `profiles` is (R, E), initially normal with mean
    0 and standard deviation 0.02.

    Args:
        num_heads: H, at least 1.
        state_dim: R, how many profiles are mixed, at least 1.
        extent: E, the number of offsets 0 .. E - 1 at which the bias is not 0, at least 1.

    Raises:
        ValueError: for arguments out of range.

    Source: the relative logits of the Inkling models, 2026.

    >>> mixture = ProfileMixture(2, state_dim=4, extent=16)
    >>> mixture(torch.zeros(1, 2, 8, 4)).values.shape
    torch.Size([1, 2, 8, 16])
    """

    name = "profile-mixture"
    needs_content = True
    largest_settings: ClassVar[dict[str, int]] = {"state_dim": 1024, "extent": 2**16}
    formula = "state[b, h, i] . profiles[:, n] for 0 <= n < extent, else 0"
    paper = "Inkling models, 2026"
    reading = "Each query mixes learned profiles of bias by distance, so what is near or far depends on the content."
    toeplitz = False

    def __init__(self, num_heads: int, state_dim: int = 16, extent: int = 1024) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("state_dim", state_dim, 1)
        check_count("extent", extent, 1)
        self.num_heads = num_heads
        self.state_dim = state_dim
        self.extent = extent
        self.profiles = nn.Parameter(torch.randn(state_dim, extent) * 0.02)

    def forward(self, state: Float[Tensor, "B H N R"] | int, *_: object, **__: object) -> Band:  # type: ignore[override]
        """The form of these states, a band: what `falloff.attention` takes as its bias.

        Raises:
            ValueError: for states of the wrong shape or dtype, or if it is called with sizes, as other schemes are.
        """
        if isinstance(state, int):
            self.at(torch.empty(0))
        self._check_state(state)
        return Band(state @ self.profiles.to(state.dtype))

    def at(self, offsets: Tensor) -> NoReturn:
        """Raise ValueError: without states there is no bias."""
        raise ValueError("bias: got a ProfileMixture without states, expected mixture(state): its bias depends on the query")

    def form(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        state: Tensor | None = None,
        **_: object,
    ) -> Band:
        """The same as a call, after checking that the states are those of N queries. For the sizes see `Scheme.form`.

        Raises:
            ValueError: for sizes out of range, or states that are missing or of the wrong shape or dtype.
        """
        if state is None:
            self.at(torch.empty(0))
        first_query_position(num_queries, num_keys, query_start)  # raises for a size or position out of range
        self._check_state(state, num_queries)
        return self.forward(state)

    def dense(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        state: Tensor | None = None,
        **_: object,
    ) -> Float[Tensor, "B H N M"]:
        """The whole bias of these states, from the definition. Arguments and errors are those of `form`."""
        if state is None:
            self.at(torch.empty(0))
        first_query_position(num_queries, num_keys, query_start)  # raises for a size or position out of range
        self._check_state(state, num_queries)
        offsets = offset_matrix(num_queries, num_keys, query_start, state.device)
        inside = (offsets >= 0) & (offsets < self.extent)
        profile = self.profiles.to(state.dtype)[:, offsets.clamp(0, self.extent - 1)]  # (R, N, M)
        return torch.einsum("bhnr,rnm->bhnm", state, profile * inside)

    def _check_state(self, state: object, num_queries: int | None = None) -> None:
        expected = f"(B, {self.num_heads}, {'N' if num_queries is None else num_queries}, {self.state_dim})"
        if not isinstance(state, Tensor) or not state.is_floating_point():
            got = state.dtype if isinstance(state, Tensor) else type(state).__name__
            raise ValueError(f"state: got {got}, expected a floating point tensor of shape {expected}")
        fits = state.dim() == 4 and (state.shape[1], state.shape[3]) == (self.num_heads, self.state_dim)
        if not fits or num_queries not in (None, state.shape[2]):
            raise ValueError(f"state: got shape {tuple(state.shape)}, expected {expected}")
