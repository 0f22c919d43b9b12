"""How many operators of torch a call of attention runs beside falloff's own: on a GPU, most of them launch a kernel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from falloff.bench.problem import Problem
from falloff.ops.api import attention


class OtherOperators(TorchDispatchMode):
    """Collects the names of the operators that run within the context and are not falloff's own.

    >>> with OtherOperators() as counted:
    ...     _ = torch.ones(3).add(1)
    >>> counted.names
    ['aten::ones', 'aten::add']
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name().partition(".")[0]
        if not name.startswith("falloff::"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def operators_of(problem: Problem, impl: str) -> dict[str, int]:
    """Count the operators of a second call: `forward` without gradients; `training` (forward) and `backward` with them."""

    def forward() -> torch.Tensor:
        return attention(*inputs, problem.bias.for_call(), causal=problem.case.causal, impl=impl)

    inputs = problem.inputs
    with torch.no_grad():
        forward()
        with OtherOperators() as without:
            forward()
    query, key, value = (tensor.detach().requires_grad_() for tensor in problem.inputs)
    inputs = query, key, value
    leaves = [*inputs, *problem.bias.leaves().values()]
    torch.autograd.grad(forward(), leaves, problem.grad_out)
    with OtherOperators() as training:
        out = forward()
    with OtherOperators() as backward:
        torch.autograd.grad(out, leaves, problem.grad_out)
    return {"forward": len(without.names), "training": len(training.names), "backward": len(backward.names)}
