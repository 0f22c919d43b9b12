import pytest

from falloff import FIRE, SCHEMES, ALiBi, T5Bias
from falloff.views.comparison import FACTS, compared
from falloff.views.no_bias import NO_BIASES


@pytest.mark.parametrize("name", [*SCHEMES, *NO_BIASES])
def test_every_scheme_has_every_fact(name):
    column = compared(NO_BIASES[name] if name in NO_BIASES else SCHEMES[name](8))
    assert (column.name, tuple(column.facts)) == (name, FACTS)
    assert all(isinstance(fact, str) and fact for fact in column.facts.values())


def test_what_holds_for_the_present_values_only():
    assert compared(ALiBi(8)).at_hand == ()
    assert compared(ALiBi(8, learned=True)).at_hand == ()
    assert compared(T5Bias(8)).at_hand == ("monotone",)
    assert "1 untrained bucket" in compared(T5Bias(8), trained_length=100).facts["beyond"]
    assert compared(FIRE(8)).at_hand == ("Toeplitz", "monotone", "beyond")
    assert compared(FIRE(8, init_L=9)).facts["Toeplitz"] == "no, from row 10"
