"""The contestants: falloff, PyTorch's SDPA in three ways, flex attention, and eager attention."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from falloff.bench import flex
from falloff.bench.cases import Case
from falloff.bench.problem import Problem
from falloff.bench.timing import Timed
from falloff.bench.turns import Run, first_line, run_of
from falloff.ops.api import attention

OURS = "falloff"
NO_BIAS = "sdpa, no bias"
DENSE = "sdpa, dense bias"
LEARNED = "sdpa, dense learned"
FLEX = "flex"
EAGER = "eager"
OLDER = "falloff, older"
PLAIN = "falloff, no bias"
BAND = "falloff, band"
NAMES = (OURS, OLDER, PLAIN, BAND, NO_BIAS, DENSE, LEARNED, FLEX, EAGER)

_MOST_DENSE = 1e9  # bytes of one dense (B, H, N, M) tensor


@dataclass
class Contestants:
    """The contestants of a case, and why the others do not take part."""

    runs: dict[str, Run] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def same_result(self) -> list[str]:
        """The contestants that compute the same as falloff."""
        return [name for name in self.runs if name in (DENSE, LEARNED, FLEX, EAGER)]


def in_order(by_name: dict[str, Any]) -> dict[str, Any]:
    """The entries of contestants in the order of the tables."""
    return {name: by_name[name] for name in NAMES if name in by_name}


def figures_of(case: Case, timed: Timed, peak_gflops: float, last_rows_error: float | None) -> dict[str, Any]:
    """What a suite says of a case whose contestants took turns."""
    gflops = 1e3 * case.gflop / timed.median(OURS)
    milliseconds = in_order(timed.milliseconds)
    return {
        "last_rows_error": last_rows_error,
        "turns": timed.turns,
        "milliseconds": milliseconds,
        "skipped": {},
        "gflops": gflops,
        "share_of_peak": gflops / peak_gflops,
        "ratio": {name: timed.median(name) / timed.median(OURS) for name in milliseconds if name != OURS},
    }


def ours(problem: Problem, impl: str) -> Run:
    """falloff; the form is made within the timed call."""
    return run_of(
        lambda: attention(*problem.inputs, problem.bias.for_call(), causal=problem.case.causal, impl=impl),
        list(problem.leaves.values()),
        problem.grad_out,
    )


def without_bias(problem: Problem) -> Run:
    """SDPA on the same tensors without bias: the cost of attention alone."""
    grouped = problem.case.key_heads is not None
    return run_of(
        # Not causal for one query: it is the last row, and SDPA would take it for the first.
        lambda: scaled_dot_product_attention(*problem.inputs, is_causal=problem.case.hides_keys, enable_gqa=grouped),
        list(problem.inputs) if problem.case.training else [],
        problem.grad_out,
    )


def dense_mask(problem: Problem) -> Tensor:
    """Bias and causal mask as one constant tensor (1 or B, H, N, M) in the dtype of query."""
    with torch.no_grad():
        mask = problem.bias.dense(problem.case, problem.query.device)
        hidden = problem.hidden()
        return (mask if hidden is None else mask.add_(hidden)).to(problem.query.dtype)


def with_dense_mask(problem: Problem, mask: Tensor, *, learned: bool) -> Run:
    """SDPA with a mask made before the timed call: constant, or, if `learned`, with a gradient."""
    mask = mask.detach().requires_grad_(learned)
    leaves = [*problem.inputs, *([mask] if learned else [])]
    return run_of(
        lambda: scaled_dot_product_attention(*problem.inputs, attn_mask=mask),
        leaves if problem.case.training else [],
        problem.grad_out,
    )


def with_dense_scheme(problem: Problem) -> Run:
    """SDPA with the dense bias made within the timed call and gradients of its parameters, as models do it."""

    def forward() -> Tensor:
        mask = problem.bias.dense(problem.case, problem.query.device)
        hidden = problem.hidden()
        mask = mask if hidden is None else mask + hidden
        grouped = problem.case.key_heads is not None
        return scaled_dot_product_attention(*problem.inputs, attn_mask=mask.to(problem.query.dtype), enable_gqa=grouped)

    return run_of(forward, list(problem.leaves.values()), problem.grad_out)


def eager(problem: Problem, mask: Tensor) -> Run:
    """Eager attention, as models write it: product, bias, softmax, product. A learned bias gets its dense gradient."""
    learned = bool(problem.case.training and problem.bias.leaves())
    mask = mask.detach().requires_grad_(learned)
    query, key, value = problem.inputs
    scale = 1 / math.sqrt(problem.case.head_size)

    def forward() -> Tensor:
        return torch.softmax(query @ key.transpose(-1, -2) * scale + mask, -1) @ value

    leaves = [query, key, value, *([mask] if learned else [])]
    return run_of(forward, leaves if problem.case.training else [], problem.grad_out)


def dense_refusal(case: Case) -> str | None:
    """Why no contestant with dense tensors takes part in this case, or None."""
    size = case.batch * case.heads * case.length * case.keys * (2 if case.dtype == "bfloat16" else 4)
    return f"each dense tensor would take {size / 1e9:.1f} GB" if size >= _MOST_DENSE else None


def contestants(problem: Problem, impl: str, *, with_flex: bool) -> Contestants:
    """The contestants of a case, in the order of the tables. Flex attention is compiled here.

    Args:
        problem: the case with its tensors.
        impl: falloff's implementation.
        with_flex: whether flex attention takes part in the cases marked for it.
    """
    case = problem.case
    found = Contestants({OURS: ours(problem, impl), NO_BIAS: without_bias(problem)})
    learned = bool(case.training and problem.bias.leaves())
    refusal = dense_refusal(case)
    if refusal is None:
        mask = dense_mask(problem)
        found.runs[DENSE] = with_dense_mask(problem, mask, learned=False)
        if learned:
            found.runs[LEARNED] = with_dense_mask(problem, mask, learned=True)
    else:
        found.skipped |= dict.fromkeys([DENSE, *([LEARNED] if learned else []), EAGER], refusal)
    _add_flex(found, problem, with_flex=with_flex)
    if refusal is None:
        found.runs[EAGER] = eager(problem, mask)
    return found


def _add_flex(found: Contestants, problem: Problem, *, with_flex: bool) -> None:
    case = problem.case
    if case.training:
        found.skipped[FLEX] = "it cannot train on the CPU"
    elif not with_flex:
        found.skipped[FLEX] = "left out: it is compiled for each case; --flex includes it"
    elif not case.flex:
        found.skipped[FLEX] = "not compiled for this case"
    else:
        try:
            forward = flex.compiled(problem)
        except Exception as error:  # a compiler may raise anything
            found.skipped[FLEX] = first_line(error)
        else:
            found.runs[FLEX] = run_of(forward, [], problem.grad_out)
