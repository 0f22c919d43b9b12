"""Forms of what tokens hold, and sums of forms: what ties them to other forms, and what may be hidden or skipped."""

from itertools import combinations

import pytest
import torch
from torch.nn.functional import one_hot

from falloff import Band, Strip, Warp, attention
from falloff.forms import Factored, Potential, Sum
from ops.cases import results, tensors
from ops.conformance.budget import Case, agree
from ops.conformance.hard import ADVERSARIES
from ops.conformance.variants import every, share_of, variants

FLOAT32 = [variant for variant in variants(torch.float32) if getattr(variant, "impl", "") != "triton"]
CPU = [variant for variant in FLOAT32 if getattr(variant, "impl", "") == "cpu"]
SHIPPED = [variant for variant in FLOAT32 if not getattr(variant, "tiny", False)]


def leaf(*shape):
    return torch.randn(shape).requires_grad_()


@every(SHIPPED)
def test_states_and_a_table_are_the_band_of_their_products(variant):
    """To rounding, outputs and all gradients; the band's own gradient is held by other tests."""
    torch.manual_seed(1)
    inputs = tensors(2, 4, 2, 130, 330, 16, torch.float32)
    states, table = leaf(2, 4, 130, 7), leaf(4, 60, 7)
    found = []
    for bias in (Factored(states, table, 3), Factored(states, table, 3).to_band()):
        out, lse = attention(*inputs, bias, causal=True, return_lse=True, impl=variant.impl)
        found.append(results(out, lse, [*inputs, states, table]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def _parts(batch, heads, rows, keys):
    yield Strip(leaf(heads, 50), -9)
    yield Band(leaf(batch, heads, rows, 23))
    g, a = torch.rand(60).cumsum(0).requires_grad_(), torch.rand(rows).requires_grad_()
    yield Warp(g, a, torch.tensor([1.0, 5.0]), leaf(heads, 3), leaf(heads, 3), rising=True)
    yield Factored(leaf(batch, heads, rows, 3), leaf(1, 70, 3), -20, "clamp")
    yield Factored(leaf(batch, heads, keys, 9), leaf(heads, 70, 9), 5, "zero", "key")
    yield Potential(leaf(batch, heads, rows), leaf(batch, heads, keys))


@every(SHIPPED)
def test_the_sum_of_any_two_forms_and_of_all(variant):
    torch.manual_seed(2)
    for chosen in (*combinations(range(6), 2), range(6)):
        parts = list(_parts(2, 4, 67, 90))
        form = Sum([parts[part] for part in chosen])
        leaves = [tensor for tensor in form.tensors if tensor.requires_grad]
        agree(Case(*tensors(2, 4, 2, 67, 90, 8, torch.float32), form, leaves, {"causal": True, "query_start": 30}), variant)


@every(SHIPPED)
def test_what_belongs_to_hidden_keys_may_be_nan(variant):
    """States and potentials of keys that key_mask hides: nothing of them comes through, forward or backward."""
    inputs = tensors(2, 4, 2, 50, 90, 8, torch.float32)
    key_mask = torch.arange(90) % 3 > 0
    states, table, row, potential = leaf(2, 4, 90, 5), leaf(4, 70, 5), leaf(2, 4, 50), leaf(2, 4, 90)
    spoilt = [torch.where(key_mask[:, None], states, torch.nan), torch.where(key_mask, potential, torch.nan)]
    found = []
    for of_keys, key in ((states, potential), spoilt):
        form = Sum([Factored(of_keys, table, 0, "clamp", "key"), Potential(row, key)])
        out, lse = attention(*inputs, form, key_mask=key_mask.expand(2, -1), return_lse=True, impl=variant.impl)
        found.append(results(out, lse, [*inputs, states, table, row, potential]))
    for one, other in zip(*found, strict=True):
        assert other.isfinite().all()
        assert torch.equal(one, other)


def _forgetting(gate, heads, keys, rows):
    """c[r] - c[j], where c is the running sum of log gates."""
    c = (gate * torch.rand(1, heads, keys) * 2).cumsum(-1)
    return c[..., -rows:].clone().requires_grad_(), (-c).requires_grad_()


SKIPS = [
    (gate, strip, name, causal)
    for gate in (-0.5, -0.05)
    for strip in (False, True)
    for name in (None, *ADVERSARIES)
    for causal in (True, False)
]


@pytest.mark.parametrize(("gate", "strip", "adversary", "causal", "variant"), share_of(SKIPS, CPU))
def test_skipping_by_potentials_hides_nothing_that_matters(gate, strip, adversary, causal, variant):
    torch.manual_seed(3)
    query, key, value = tensors(1, 2, 2, 350, 600, 16, torch.float32)
    if adversary is not None:
        with torch.no_grad():
            ADVERSARIES[adversary](key, value)
    form = Potential(*_forgetting(gate, 2, 600, 350))
    form = Sum([form, Strip(-0.1 * torch.arange(600.0).repeat(2, 1).requires_grad_())]) if strip else form
    leaves = [tensor for tensor in form.tensors if tensor.requires_grad]
    agree(Case(query, key, value, form, leaves, {"causal": causal}), variant)


MASSES = [
    (gate, norm, late, strip, causal)
    for gate in (-0.5, -0.05)
    for norm in (0.0, 1.0)
    for late in (1, 60)
    for strip in (False, True)
    for causal in (True, False)
]


@pytest.mark.parametrize(("gate", "norm", "late", "strip", "causal", "variant"), share_of(MASSES, CPU))
def test_the_mass_that_potentials_skip(gate, norm, late, strip, causal, variant):
    """At most 2^-24 of each row, and some is skipped. Values make an output component the weight of a block of keys."""
    torch.manual_seed(3)
    query, key = torch.randn(1, 1, 700, 32) * norm, torch.randn(1, 1, 960, 32)
    key[..., 40, :] *= late
    value = one_hot(torch.arange(960) // 64, 32).float()[None, None]
    potential = [tensor.detach() for tensor in _forgetting(gate, 1, 960, 700)]

    def weights(impl, dtype):
        form = Potential(*(tensor.to(dtype) for tensor in potential))
        form = Sum([form, Strip(-0.02 * torch.arange(960, dtype=dtype)[None])]) if strip else form
        return attention(*(t.to(dtype) for t in (query, key, value)), form, causal=causal, impl=impl)

    exact, got = weights("reference", torch.float64), weights(variant.impl, torch.float32)
    assert torch.where(got == 0, exact, 0.0).sum(-1).max() <= 2**-24
    if late == 1 and causal and gate == -0.5:
        # Weights that float32 can hold, far below 2^-24, in blocks of keys that were skipped.
        assert ((got == 0) & (exact > 1e-30)).any()
