"""Every scheme, dense and as a form, against its published definition: float64, values and parameter gradients."""

import pytest
import torch

from falloff import FIRE, SCHEMES, ALiBi, PerOffsetBias, ProfileMixture, Sandwich, T5Bias
from falloff.forms import Strip, Warp
from schemes import definitions
from schemes.drawn import SIZES, cases, moved

OTHERS = {
    "t5": lambda: T5Bias(3, 8, 12),
    "t5 bidirectional": lambda: T5Bias(2, 8, 7, bidirectional=True),
    "t5 odd": lambda: T5Bias(2, 5, 9),
    "per-offset": lambda: PerOffsetBias(3, 4),
    "per-offset bidirectional": lambda: PerOffsetBias(3, 4, bidirectional=True),
    "alibi": lambda: ALiBi(6),
    "alibi learned": lambda: ALiBi(4, learned=True),
    "sandwich": lambda: Sandwich(3, 8),
    "sandwich from 0": lambda: Sandwich(3, 8, first=0),
    "fire": lambda: FIRE(3, width=8, init_L=1000),
    "fire beyond L": lambda: FIRE(3, width=8, init_L=3.5),
}
CASES = cases(definitions, [cls for cls in SCHEMES.values() if not cls.needs_content], OTHERS, heads=3)


def scheme_of(name):
    definition, make = CASES[name]
    return definition, moved(make, lambda parameter: 0.1 * torch.rand_like(parameter))


def gradients(bias, scheme):
    parameters = list(scheme.parameters())
    if not parameters:
        return []
    weights = torch.sin(torch.arange(bias.numel(), dtype=torch.float64)).view(bias.shape)
    return torch.autograd.grad(
        (bias * weights).sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_dense_and_form_are_the_definition(name, sizes):
    definition, scheme = scheme_of(name)
    expected = definitions.dense(definition, scheme, *sizes)
    dense = scheme.dense(*sizes, dtype=torch.float64)
    form = scheme.form(*sizes, dtype=torch.float64).dense(*sizes)
    assert dense.dtype == form.dtype == torch.float64
    for got in (dense, form):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        for grad, expected_grad in zip(gradients(got, scheme), gradients(expected, scheme), strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-11)


def test_every_scheme_is_held_against_its_definition():
    tested = {type(make()) for _, make in CASES.values()}
    assert tested == {scheme for scheme in SCHEMES.values() if not scheme.needs_content}  # the others: test_content.py


@pytest.mark.parametrize("sizes", [(5, 5, None), (2, 9, None), (6, 3, None), (2, 4, 11)], ids=str)
def test_profile_mixture(sizes):
    num_queries, num_keys, query_start = sizes
    mixture = ProfileMixture(2, state_dim=3, extent=4).double()
    state = torch.randn(2, 2, num_queries, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, 2, num_queries, num_keys, dtype=torch.float64) + 0 * (state.sum() + mixture.profiles.sum())
    start = num_keys - num_queries if query_start is None else query_start
    for r in range(num_queries):
        for j in range(num_keys):
            if 0 <= start + r - j < 4:
                expected[:, :, r, j] = state[:, :, r] @ mixture.profiles[:, start + r - j]
    dense = mixture.dense(*sizes, state=state)
    form = mixture.form(*sizes, state=state).dense(*sizes)
    leaves = [state, mixture.profiles]
    for got in (dense, form):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad((bias**2).sum(), leaves, retain_graph=True) for bias in (got, expected)]
        for grad, expected_grad in zip(*grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_one_query_is_the_last_row_of_the_square(name):
    _, scheme = scheme_of(name)
    torch.testing.assert_close(scheme.dense(1, 12)[:, 0], scheme.dense(12, 12)[:, -1])


@pytest.mark.parametrize("name", CASES)
def test_toeplitz_as_declared(name):
    _, scheme = scheme_of(name)
    dense = scheme.dense(40, 40, dtype=torch.float64)
    constant = torch.allclose(dense[:, 1:, 1:], dense[:, :-1, :-1], rtol=1e-12, atol=1e-12)
    assert constant == (scheme.toeplitz or name == "fire")


def test_fire_hands_over_the_cheapest_exact_form():
    fire = FIRE(2, init_L=10)
    assert isinstance(fire.form(10, 10), Strip)  # the last row is 9
    assert isinstance(fire.form(11, 11), Warp)
    assert isinstance(fire.form(1, 4), Strip)
    assert isinstance(fire.form(1, 4, 40), Warp)


@pytest.mark.parametrize("tweak", ["dead unit", "all dead", "twin knots", "negative c"])
def test_fire_as_lines_survives_degenerate_networks(tweak):
    fire = FIRE(2, width=4, init_L=2).double()
    first = fire.mlp[0]
    with torch.no_grad():
        if tweak == "dead unit":
            first.weight[1], first.bias[1] = 0.0, 0.7
            first.weight[2], first.bias[2] = 0.0, -0.7
        elif tweak == "all dead":
            first.weight.zero_()
        elif tweak == "twin knots":
            first.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]))
            first.bias.copy_(torch.tensor([-0.5, 0.5, -1.0, 1.0]))
        else:
            fire.c.neg_()
    expected, got = fire.dense(9, 9, dtype=torch.float64), fire.form(9, 9, dtype=torch.float64).dense(9, 9)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for grad, expected_grad in zip(gradients(got, fire), gradients(expected, fire), strict=True):
        assert torch.isfinite(grad).all()
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_a_model_in_bfloat16_computes_its_bias_in_float32(name):
    _, make = CASES[name]
    scheme = make().bfloat16()
    bias = scheme.form(4, 4).dense(4, 4)
    assert bias.dtype == torch.float32
    exact = scheme.double().dense(4, 4, dtype=torch.float64)
    torch.testing.assert_close(bias.double(), exact, rtol=1e-5, atol=1e-5)
