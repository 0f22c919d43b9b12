"""Every call by name on every variant: values and all gradients within the budget of each tensor."""

import pytest
import torch

from ops.conformance.calls import CALLS, budget_of
from ops.conformance.variants import on_each, variants

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EXACT = variants()
OTHERS = [variant for variant in variants(*DTYPES, all_ways=False) if str(variant) not in map(str, EXACT)]


def _pairs(calls, found):
    """As parameters; the variants of a call follow one another, so that they share the definition's results."""
    return [pair for call in calls for pair in on_each((call,), found, call.taken_by)]


@pytest.mark.parametrize(("call", "variant"), [*_pairs(CALLS, EXACT), *_pairs(CALLS[::11], OTHERS)])
def test_agrees_with_the_definition(call, variant):
    """In the most exact dtype in every way to work; in others as an implementation works by itself, each eleventh call."""
    budget = budget_of(call, variant)
    case = budget.case
    if variant.interpreted and call.forward_alone:
        with torch.no_grad():
            got = case.run(variant.impl)
        budget.hold(got)
    else:
        budget.hold(budget.results(*case.run(variant.impl)))
