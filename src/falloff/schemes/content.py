"""The base class of schemes whose bias depends on the content of the tokens: called with states, they return a form."""

from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from falloff.forms import Form
from falloff.offsets import IntLike, first_query_position
from falloff.schemes.base import Scheme


class ContentScheme(Scheme):
    """A bias that depends on the content of the tokens. A subclass defines `form_of` and names its arguments in `content`.

    A model calls the scheme with its states, and passes the form: `attention(query, key, value, scheme(query))`.
    """

    needs_content = True
    toeplitz = False
    content: ClassVar[tuple[str, ...]]
    """The arguments of `form_of` that a model computes: "query" (B, H, N, D); "key" (B, H, M, D); "hidden" (B, N, H * D),
    its hidden states; what it projects from these for the scheme, "gates" (B, H, M) or "state" (B, H, N, `state_dim`)."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """The arguments of `form_of` among "num_queries", "num_keys" and "query_start"; by default those of self-attention."""
    scale: float | None = None
    """The `scale` that `falloff.attention` gets beside this bias; None for its default."""

    def form_of(self, *states: Any, **more: Any) -> Form:
        """The form of these states."""
        raise NotImplementedError(f"{type(self).__name__} must define form_of({', '.join(self.content)})")

    def content_query(self, query: Tensor) -> Tensor:
        """The query (B, H, N, D) that `falloff.attention` gets beside this bias."""
        return query

    def forward(self, *states: Any, **more: Any) -> Form:
        """The result of `form_of`, what `falloff.attention` takes as its bias; hooks see this call.

        Raises:
            ValueError: as `form_of` does, or if it is called with sizes, as other schemes are.
        """
        if not (states or more) or (states and isinstance(states[0], IntLike)):
            self._refuse()
        return self.form_of(*states, **more)

    def at(self, offsets: Tensor) -> NoReturn:
        """Raise ValueError: without states there is no bias."""
        self._refuse()

    def form(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: object = None,
        device: object = None,
        dtype: torch.dtype | None = None,
        **states: Any,
    ) -> Form:
        """The same as a call with these states, after checking that they are those of N queries and M keys.

        Raises:
            ValueError: for sizes out of range, or states that are missing or of the wrong shape or dtype.
        """
        if not states:
            self._refuse()
        first_query_position(num_queries, num_keys, query_start)  # raises for a size or position out of range
        sizes = {"num_queries": num_queries, "num_keys": num_keys, "query_start": query_start}
        made = self.form_of(**states, **{name: sizes[name] for name in self.sizes})
        made.check_call(made.tensors[0].shape[0], num_queries, num_keys)
        return made if dtype is None else made.to(dtype)

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None, **more: Any) -> Tensor:
        """The whole bias of these states, (B, H, N, M). Arguments and errors are those of `form`."""
        return self.form(num_queries, num_keys, query_start, **more).dense(num_queries, num_keys, query_start)

    def _refuse(self) -> NoReturn:
        call = f"{self.name.replace('-', '_')}({', '.join(self.content)})"
        got = f"a {type(self).__name__} without states"
        raise ValueError(f"bias: got {got}, expected {call}: its bias depends on what the tokens say")


def check_states(argument: str, states: object, *shape: int | str) -> None:
    """Raise ValueError for what is no floating point tensor of this shape, in which a name stands for any size."""
    # The message is built only on failure: torch.compile makes a length in a message a constant.
    if not isinstance(states, Tensor) or not states.is_floating_point():
        got = states.dtype if isinstance(states, Tensor) else type(states).__name__
        raise ValueError(f"{argument}: got {got}, expected a floating point tensor of shape ({', '.join(map(str, shape))})")
    fits = states.dim() == len(shape)
    if not fits or any(not isinstance(want, str) and want != size for want, size in zip(shape, states.shape, strict=True)):
        raise ValueError(f"{argument}: got shape {tuple(states.shape)}, expected ({', '.join(map(str, shape))})")


def checked_scale(scale: float | None, head_dim: int) -> float:
    """The factor of the scores: 1 / sqrt(D) by default, as in `falloff.attention`."""
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError(f"scale: got {scale!r}, expected None or a number")
    return float(scale)
