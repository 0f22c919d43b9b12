"""Flex attention with the bias in its score_mod, as PyTorch suggests: from a strip's table, or by FIRE's network."""

from collections.abc import Callable

import torch
from torch import Tensor

from falloff.bench.problem import Problem
from falloff.bench.turns import Run, run_of
from falloff.forms import Form, Strip
from falloff.schemes import FIRE

ScoreFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def compiled(problem: Problem) -> Callable[[], Tensor]:
    """Flex attention for one case, compiled by a first call. Takes tens of seconds; a compiler may raise anything."""
    with torch.no_grad():
        strip = _form(problem)
    if not isinstance(strip, Strip):
        raise NotImplementedError("the bias is no strip")
    forward = _compiled(problem, _from_table(problem, strip))
    with torch.no_grad():
        forward()
    return forward


def learning(problem: Problem) -> Run:
    """A run on a GPU, where flex attention trains: with gradients of the table, or of FIRE's network, which is inlined.

    Raises:
        NotImplementedError: for other biases.
    """
    scheme = problem.scheme
    if not problem.case.training:
        return run_of(compiled(problem), [], problem.grad_out)
    if isinstance(scheme, FIRE):
        biased, leaves = _fire_inlined(problem, scheme)
    else:
        strip = _form(problem)
        if not isinstance(strip, Strip):
            raise NotImplementedError("the bias is neither a strip nor FIRE")
        strip = Strip(strip.values.detach().requires_grad_(), strip.start)
        biased, leaves = _from_table(problem, strip), [strip.values]
    run = run_of(_compiled(problem, biased), [*problem.inputs, *leaves], problem.grad_out)
    run()
    return run


def _form(problem: Problem) -> Form | None:
    scheme, case = problem.scheme, problem.case
    return None if scheme is None else scheme.form(case.length, case.keys, device=problem.query.device)


def _from_table(problem: Problem, strip: Strip) -> ScoreFunction:
    table, last = strip.values, strip.values.shape[1] - 1
    first_offset = problem.case.keys - problem.case.length - strip.start

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + table[head, (query - key + first_offset).clamp(0, last)]

    return biased


def _fire_inlined(problem: Problem, scheme: FIRE) -> tuple[ScoreFunction, list[Tensor]]:
    """FIRE's network within score_mod, unit by unit. The factor that depends on the row alone is computed beforehand."""
    parameters = dict(scheme.mlp.named_parameters())
    w1, b1, w2, b2 = (
        parameters[name].detach().clone().requires_grad_() for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    )
    w1 = w1.detach().flatten().requires_grad_()
    c = scheme.c.detach().clone().reshape(())  # a score is a scalar
    with torch.no_grad():
        case = problem.case
        form = scheme.form(case.length, case.keys, device=problem.query.device)
        rows = getattr(form, "a", None)  # (N,): 1 / psi(max(i, L)); a strip has one value for all rows
        if rows is None:
            rows = (1 / torch.log1p((c * scheme.threshold()).abs())).expand(case.length).contiguous()
    shift = case.keys - case.length

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        x = torch.log1p((c * (query + shift - key)).abs()) * rows[query]
        total = b2[head]
        for unit in range(scheme.width):
            total = total + w2[head, unit] * torch.relu(x * w1[unit] + b1[unit])
        return score + total

    return biased, [w1, b1, w2, b2]


def _compiled(problem: Problem, biased: ScoreFunction) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    case = problem.case

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query + (case.keys - case.length) >= key

    mask = create_block_mask(seen, None, None, case.length, case.keys, device=problem.query.device) if case.causal else None
    torch.compiler.reset()  # after a case of another length, torch.compile would make lengths symbolic
    run = torch.compile(flex_attention, dynamic=False)

    return lambda: run(*problem.inputs, score_mod=biased, block_mask=mask)
