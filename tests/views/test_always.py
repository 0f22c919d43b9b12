import pytest
import torch

from falloff import SCHEMES, ALiBi, PerOffsetBias, T5Bias
from falloff.schemes.settings import make
from falloff.views.always import PROPERTIES, always
from falloff.views.properties import scheme_properties

LEARNED = {
    name: {"learned": True} if name == "alibi" else {}
    for name, cls in SCHEMES.items()
    if not cls.needs_content and name != "sandwich"
}


def verdicts(scheme):
    found = scheme_properties(scheme)
    return {
        "toeplitz": found.toeplitz,
        "monotone": (found.falling_heads, found.rising_heads) if found.monotone else False,
        "bounded": found.bounded,
        "sign_symmetric": found.sign_symmetric,
        "reach": found.reach,
        "beyond": found.beyond.verdict,
    }


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_said_to_hold_always_holds_for_other_values(name):
    scheme = make(SCHEMES[name], 4, LEARNED[name])
    stated = always(scheme)
    assert "toeplitz" in stated or not scheme.toeplitz
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in scheme.parameters():
                parameter.copy_(parameter + torch.randn_like(parameter) / 2)
        found = verdicts(scheme)
        before = verdicts(make(SCHEMES[name], 4, LEARNED[name]))
        assert {one: found[one] for one in stated} == {one: before[one] for one in stated}


def test_what_depends_on_values_does():
    """A T5 bias can fall, or not: `monotone` is none of what always holds."""
    scheme = T5Bias(1, num_buckets=4, max_distance=5)
    assert "monotone" not in always(scheme)
    with torch.no_grad():
        scheme.weight.copy_(-torch.arange(4.0)[:, None])
    assert verdicts(scheme)["monotone"]
    with torch.no_grad():
        scheme.weight[2] = 1.0
    assert not verdicts(scheme)["monotone"]


def test_without_parameters_everything_holds_always():
    assert always(ALiBi(8)) == PROPERTIES


def test_a_bias_that_still_changes_beyond_the_trained_length():
    assert "beyond" in always(PerOffsetBias(1, 100), 512)
    assert "beyond" not in always(PerOffsetBias(1, 1000), 512)
