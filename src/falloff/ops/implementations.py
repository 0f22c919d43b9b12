"""The table of implementations, and the choice of one for a call.

An implementation is a folder beside this file and one line in `IMPLEMENTATIONS`. Its module defines the members of
`Implementation`. The reference is not in the table: it is plain differentiable torch and needs none of this.

A call is **lowered** once: the implementation computes what it needs before the first tile (the strip with its ends
continued, the bends of a warp, labels of documents). The forward writes this into one int32 tensor, floats as their bits,
whose size depends on shapes alone; the backward starts from it.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from falloff.ops import blockwise, cpu, triton
from falloff.ops.call import Call
from falloff.ops.checks import refuse


@runtime_checkable
class Implementation(Protocol):
    """The members that the module of an implementation defines."""

    CHECKS_INPUTS: bool
    """Whether it checks sizes, dtypes and memory itself. If not, `checks.py` does so before each call."""

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        ...

    def refusal(self, query: Tensor, key: Tensor, call: Call) -> str | None:
        """Why it cannot serve a call, or None. Reads no values of tensors."""
        ...

    def lowered_size(self, query: Tensor, key: Tensor, call: Call) -> int:
        """How many int32 numbers the lowered call takes; 0 if nothing is lowered."""
        ...

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output (B, H, N, D) and the log-sum-exp (B, H, N). Writes `lowered`, which is None if no backward follows."""
        ...

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        lowered: Tensor,
        call: Call,
        needs: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
        """The gradients of query, key, value and the form's tensors: those that `needs` asks for."""
        ...


IMPLEMENTATIONS: dict[str, Implementation] = {"cpu": cpu, "triton": triton, "blockwise": blockwise}
"""In the order in which "auto" tries them. They import their C++ kernels or Triton on first use."""


def choose(impl: str, query: Tensor, key: Tensor, call: Call) -> str:
    """The name of the implementation that serves the call: `impl` itself, or for "auto" the first that can.

    Raises:
        ValueError: if there is none of that name, or if it cannot serve the call, with the reason.
    """
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        refuse("impl", repr(impl), "'auto' or one of " + ", ".join(map(repr, IMPLEMENTATIONS)))
    for name in IMPLEMENTATIONS if impl == "auto" else (impl,):
        refusal = IMPLEMENTATIONS[name].refusal(query, key, call)
        if refusal is None:
            return name
    raise ValueError(f"impl: got {impl!r}, which cannot serve this call: {refusal}")


def refuse_unserved(impl: str, query: Tensor, key: Tensor, call: Call) -> None:
    """Check that `impl` names an implementation that can serve the call; "auto" is not allowed in an operator.

    Raises:
        ValueError: with the reason, if it cannot.
    """
    if impl not in IMPLEMENTATIONS:
        refuse("impl", repr(impl), "one of " + ", ".join(map(repr, IMPLEMENTATIONS)))
    choose(impl, query, key, call)
