"""Forgetting: each token's gate fades all keys before it (the forgetting transformer)."""

from typing import Literal

import torch
from torch import Tensor

from falloff.forms import Potential
from falloff.offsets import check_count, first_query_position
from falloff.schemes.content import ContentScheme, check_states
from falloff.shapes import Float


class _Cumulative(ContentScheme):
    """A bias that adds a number of each token between key and query: c_i - c_j, c the running sum of `_steps` of gates."""

    content = ("gates",)
    sizes = ("num_queries", "query_start")

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        self.num_heads = num_heads

    @property
    def kind(self) -> Literal["learned", "heuristic"]:
        """'learned': the model's projection is."""
        return "learned"

    def form_of(
        self, gates: Float[Tensor, "B H M"], *, num_queries: int | None = None, query_start: int | None = None
    ) -> Potential:
        """The form of these gates, in at least float32.

        Args:
            gates: (B, H, M), one number for each key and head. In generation, those of all keys so far.
            num_queries: N; M by default.
            query_start: position of the first query, counted from the first key; M - N by default. All queries are keys too.

        Raises:
            ValueError: for gates of the wrong shape or dtype, or queries at positions without a gate.
        """
        check_states("gates", gates, "B", self.num_heads, "M")
        num_keys = gates.shape[2]
        num_queries = num_keys if num_queries is None else num_queries
        start = first_query_position(num_queries, num_keys, query_start)
        if start < 0 or start + num_queries > num_keys:
            got = f"queries at the positions {start} .. {start + num_queries - 1}"
            raise ValueError(f"query_start: got {got}, expected positions of the {num_keys} keys, which have gates")
        sums = self._steps(self._upcast(gates)).cumsum(2)
        return Potential(sums[:, :, start : start + num_queries], -sums)

    def _steps(self, gates: Tensor) -> Tensor:
        """What each token adds."""
        raise NotImplementedError


class ForgettingBias(_Cumulative):
    """The log forget gates of all tokens between key j and query i: the sum of logsigmoid(gates[b, h, t]), j < t <= i.

    The model projects the gates (B, H, M) from its hidden states, by a Linear with H outputs and a bias, and passes the
    form. A gate of 0 forgets all before its token; a gate of 1, that is a large number, forgets nothing. There are no
    parameters.

    Args:
        num_heads: H, at least 1.

    Raises:
        ValueError: if num_heads is not an int of at least 1.

    Paper: Lin et al. 2025, "Forgetting Transformer: Softmax Attention with a Forget Gate".

    >>> from falloff import attention
    >>> forgetting, gates = ForgettingBias(2), torch.randn(1, 2, 5)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> whole = attention(query, key, value, forgetting(gates), causal=True)
    >>> one = attention(query[:, :, 4:], key, value, forgetting(gates, num_queries=1), causal=True)
    >>> torch.testing.assert_close(one, whole[:, :, 4:])
    """

    name = "forgetting"
    formula = "sum of logsigmoid(gates[b, h, t]) over j < t <= i"
    paper = "Lin et al. 2025, Forgetting Transformer"
    reading = "Each token may fade everything before it; a key's penalty is the sum of what all tokens since then forgot."

    def _steps(self, gates: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(gates)
