"""Flex attention with the table of a strip captured by its score function: the way that PyTorch itself suggests."""

from collections.abc import Callable

import torch
from torch import Tensor

from falloff.bench.problem import Problem
from falloff.forms import Strip


def compiled(problem: Problem) -> Callable[[], Tensor]:
    """Flex attention for one case, compiled by a first call: tens of seconds, and whatever a compiler may raise."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    case = problem.case
    with torch.no_grad():
        strip = problem.bias.scheme.form(case.length, case.keys)
    assert isinstance(strip, Strip)
    table, last = strip.values, strip.values.shape[1] - 1
    first_offset = case.keys - case.length - strip.start

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + table[head, (query - key + first_offset).clamp(0, last)]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query + (case.keys - case.length) >= key

    mask = create_block_mask(seen, None, None, case.length, case.keys, device="cpu") if case.causal else None
    torch.compiler.reset()  # an earlier case would make lengths symbolic
    run = torch.compile(flex_attention, dynamic=False)

    def forward() -> Tensor:
        return run(*problem.inputs, score_mod=biased, block_mask=mask)

    with torch.no_grad():
        forward()
    return forward
