"""Verification: a case is timed only after its output and gradients agree with the definition in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from falloff.bench.cases import Case
from falloff.bench.contestants import OURS, ours, with_dense_scheme
from falloff.bench.problem import Problem, problem_of
from falloff.ops.api import attention

_FLOOR = 1e-6  # of the largest entry: a few roundings of float32
_LAST_ROWS = 64
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # relative RMS; a wrong mask or table gives about 1


class WrongResultError(Exception):
    """A result is wrong; nothing is reported."""


@dataclass(frozen=True)
class Verified:
    """The errors of a verified case.

    `errors`: for the output and the gradients of query, key, value and bias: the RMS error of falloff (`ours`), that of SDPA
    with the dense bias in the same dtype (`sdpa`), and the `budget`: twice that of SDPA, plus 1e-6 of the largest entry. The
    gradients of all parameters of the bias are compared together: the error ratio of a single scalar, such as FIRE's c, is
    noise.
    """

    queries: int
    keys: int
    errors: dict[str, dict[str, float]]

    def as_keys(self) -> dict[str, Any]:
        return {"verified_at": {"queries": self.queries, "keys": self.keys}, "errors": self.errors}


def verify(case: Case, impl: str) -> Verified:
    """Check falloff's output and gradients; those of a long case, at a length that the definition can take.

    Raises:
        WrongResultError: naming the case, the tensor, its error and its budget.
    """
    problem = problem_of(case.verified_as)
    exact = _joined(ours(problem.double(), "reference")())
    theirs = _joined(with_dense_scheme(problem)())
    found = _joined(ours(problem, impl)())
    errors: dict[str, dict[str, float]] = {}
    for name, want in exact.items():
        sdpa = _rms(theirs[name] - want)
        errors[name] = {"ours": _rms(found[name] - want), "sdpa": sdpa, "budget": 2 * sdpa + _FLOOR * _largest(want)}
        if not errors[name]["ours"] <= errors[name]["budget"]:  # NaN fails too
            what = "output" if name == "output" else f"gradient of {name}"
            raise WrongResultError(
                f"wrong result in {case.name!r}, impl {impl!r}: RMS error of the {what} at {problem.case.label!r} is "
                f"{errors[name]['ours']:.3g}, budget {errors[name]['budget']:.3g}; nothing is reported"
            )
    return Verified(problem.case.length, problem.case.keys, errors)


def check_rivals(case: Case, same_result: Sequence[str], outputs: dict[str, Tensor]) -> None:
    """Check at full size that the contestants in `same_result` agree with falloff: the time of a wrong rival means nothing.

    Raises:
        WrongResultError: naming the case and the contestant.
    """
    want = outputs[OURS].double()
    for name in same_result:
        difference = _rms(outputs[name].double() - want) / _rms(want)
        if not difference <= _TOLERANCE[case.dtype]:
            raise WrongResultError(
                f"wrong result in {case.name!r}: {OURS} and {name!r} differ by {difference:.3g} of the output; "
                "nothing is reported"
            )


def check_last_rows(problem: Problem, out: Tensor) -> float | None:
    """Check the last rows of a case that was verified at a smaller size: they show errors at large positions.

    Returns:
        Their RMS error over the RMS of the definition in float64; None if the whole case was verified.

    Raises:
        WrongResultError: naming the case.
    """
    case = problem.case
    if case.verified_as == case:
        return None
    rows = slice(-_LAST_ROWS, None)
    exact = problem.double()
    with torch.no_grad():
        exact = replace(exact, bias=exact.bias.of_rows(rows))
        want = attention(
            exact.query[:, :, rows], exact.key, exact.value, exact.bias.for_call(), causal=case.causal, impl="reference"
        )
    error = _rms(out[:, :, rows].double() - want) / _rms(want)
    if not error <= _TOLERANCE[case.dtype]:
        raise WrongResultError(
            f"wrong result in {case.name!r}: the last {_LAST_ROWS} rows of the output are wrong by {error:.3g} of their size"
            "; nothing is reported"
        )
    return error


def _joined(results: list[Tensor]) -> dict[str, Tensor]:
    """Output and gradients by name in float64; the gradients of all parameters of the bias as one vector."""
    named = dict(zip(("output", "query", "key", "value"), results, strict=False))
    if len(results) > 4:
        named["bias"] = torch.cat([gradient.flatten() for gradient in results[4:]])
    return {name: tensor.double() for name, tensor in named.items()}


def _rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
