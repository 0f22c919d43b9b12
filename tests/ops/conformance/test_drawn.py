"""Calls that are drawn, on every implementation. `make fuzz` draws others."""

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from falloff.ops.implementations import IMPLEMENTATIONS
from ops.conformance.budget import Budget
from ops.conformance.drawn import DRAWS, Draws, any_form, ragged
from ops.conformance.variants import DRAWN_WAYS, WAYS, variants


def _run(impl, make, examples, ways):
    """Draw calls, and hold each on all variants or on one that is drawn. What the definition gives is worked out once."""
    if (reason := IMPLEMENTATIONS[impl].unavailable()) is not None:
        pytest.skip(reason)
    found = [variant for variant in variants(ways=ways) if getattr(variant, "impl", None) == impl]
    limits = DRAWS.get(impl, Draws())

    # The same draws in each run: a budget that one call in a thousand goes beyond, where parts of a scheme's own gradient
    # cancel, is no bad budget. They are not varied one number at a time, which the interpreter's few draws would be lost on.
    @settings(max_examples=examples(limits), deadline=None, derandomize=True, phases=[Phase.generate])
    @given(st.data())
    def run(data):
        chosen = found if limits.every_way else [data.draw(st.sampled_from(found))]
        with chosen[0].chosen():
            case = make(data.draw, chosen[0].dtype, limits, impl)
            budget = Budget(case)
        note(f"{case.bias}, {case.settings}")
        for variant in chosen:
            note(f"on {variant}")
            with variant.chosen():
                budget.hold(budget.results(*case.run(impl)))

    run()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_ragged_sizes(impl):
    if DRAWS.get(impl, Draws()).ragged == 0:
        pytest.skip("in the interpreter: the other test draws smaller calls for it")
    ways = {name: {way: choose for way, choose in own.items() if "tiles" not in way} for name, own in WAYS.items()}
    _run(impl, ragged, lambda limits: limits.ragged, ways)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_any_form_with_any_masks(impl):
    _run(impl, any_form, lambda limits: limits.any, DRAWN_WAYS)
