"""Sums of schemes and forms: `T5Bias(8) + ALiBi(8)`."""

import copy
import pickle
from functools import reduce
from operator import add

import pytest
import torch

from falloff import (
    BAM,
    FIRE,
    TISA,
    ALiBi,
    Band,
    Factored,
    ForgettingBias,
    KerpleLog,
    Potential,
    ProfileMixture,
    Scheme,
    ShawBias,
    Strip,
    Sum,
    T5Bias,
    attention,
    hf,
)
from falloff.schemes.settings import title_of
from falloff.schemes.sums import SchemeSum
from falloff.views.explanations import explanation_view
from falloff.views.properties import scheme_properties

SIZES = [(9, 9, None), (3, 14, None), (11, 4, None), (4, 5, 30), (3, 3, -2)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    "makers",
    [
        (lambda: T5Bias(4, 8, 12, std=1.0), lambda: ALiBi(4)),
        (lambda: TISA(4), lambda: T5Bias(4, bidirectional=True)),
        (lambda: ALiBi(4), lambda: FIRE(4, init_L=2)),
        (lambda: BAM(4), lambda: KerpleLog(4), lambda: FIRE(4), lambda: T5Bias(4)),
    ],
    ids=["t5 alibi", "tisa t5", "alibi fire", "four"],
)
def test_form_and_dense_are_the_sums_of_those_of_the_parts(makers, sizes):
    parts = [make().double() for make in makers]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert len(total.parts) == len(parts)
    expected = sum(part.dense(*sizes) for part in parts)
    forms = [total.form(*sizes).dense(*sizes), total(*sizes).dense(*sizes)]
    for got in (total.dense(*sizes), total(*sizes, dense=True), *forms):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    parameters = list(total.parameters())
    assert all(one is other for one, other in zip(parameters, (p for part in parts for p in part.parameters()), strict=True))
    grads = [torch.autograd.grad(bias.sin().sum(), parameters, allow_unused=True) for bias in (forms[1], expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-11)


def test_two_strips_become_one():
    form = (T5Bias(4) + ALiBi(4))(5, 5)
    assert isinstance(form, Strip)
    assert isinstance((ALiBi(4) + FIRE(4, init_L=2))(5, 5), Sum)


def test_facts_are_those_of_the_parts():
    t5, alibi, fire = T5Bias(4, 8, 20), ALiBi(4), FIRE(4)
    total = t5 + alibi
    assert isinstance(total, Scheme)
    assert (total.num_heads, total.kind, total.toeplitz, total.needs_content) == (4, "learned", True, False)
    assert (total.reach, total.future_reach) == (None, None)
    assert (alibi + ALiBi(4)).kind == "heuristic"
    assert not (t5 + fire).toeplitz
    assert ((t5 + T5Bias(4, 8, 50)).reach, (t5 + T5Bias(4)).future_reach) == (T5Bias(4, 8, 50).reach, 0)
    assert title_of(total) == total.name == "t5 (num_buckets=8, max_distance=20) + alibi"
    assert total.formula == f"{t5.formula}\n+ {alibi.formula}"
    assert total.paper == f"{t5.paper}; {alibi.paper}"
    assert t5.reading in total.reading
    assert total.state_dict().keys() == {"parts.0.weight"}
    assert torch.equal(total.at(torch.arange(9)), t5.at(torch.arange(9)) + alibi.at(torch.arange(9)))


def test_forms_are_added_on_either_side():
    alibi, gates = ALiBi(2), torch.randn(1, 2, 6)
    potential = ForgettingBias(2)(gates)
    expected = alibi.dense(6, 6) + potential.dense(6, 6)
    for total in (alibi + potential, potential + alibi):
        torch.testing.assert_close(total.dense(6, 6), expected)
        torch.testing.assert_close(total(6, 6).dense(6, 6), expected)
        assert total.needs_content
    strip = Strip(torch.randn(2, 5), -2)
    total = strip + alibi
    assert (total.toeplitz, total.needs_content, total.reach, total.future_reach) == (True, False, None, None)
    torch.testing.assert_close(total(4, 4).dense(4, 4), strip.dense(4, 4) + alibi.dense(4, 4))
    torch.testing.assert_close(total.at(torch.arange(-4, 9)), strip.dense(13, 1, -4)[..., 0] + alibi.at(torch.arange(-4, 9)))


@pytest.mark.parametrize("impl", ["auto", "reference", "blockwise"])
def test_attention_takes_sums(impl):
    query, key, value = (torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3))
    t5, fire, alibi, shaw = T5Bias(4, std=1.0), FIRE(4, init_L=3), ALiBi(4), ShawBias(4, 8)(query)
    potential = ForgettingBias(4)(torch.randn(2, 4, 9))
    mask = torch.arange(9) > torch.tensor([[0], [3]])
    for parts in ([t5, alibi], [t5, fire], [t5, potential], [alibi, shaw, potential]):
        bias = reduce(add, parts)
        got = attention(query, key, value, bias, causal=True, key_mask=mask, impl=impl)
        starts = (~mask).sum(1)[:, None].expand(2, 9)  # of the texts: FIRE counts from there
        dense = sum(p.dense(9, 9, text_start=starts) if isinstance(p, Scheme) else p.dense(9, 9) for p in parts)
        scores = query @ key.mT / 8**0.5 + dense
        scores = scores.masked_fill(~(mask[:, None, None] & torch.ones(9, 9).tril().bool()), -torch.inf)
        expected = scores.softmax(-1).nan_to_num(0.0) @ value
        seen = mask[:, None, :, None]
        torch.testing.assert_close(got * seen, expected * seen, rtol=1e-4, atol=1e-5)


def test_parts_are_called_as_modules():
    total, calls = T5Bias(2) + ALiBi(2), []
    for part in total.parts:
        part.register_forward_hook(lambda module, arguments, out: calls.append(type(module).__name__))
    attention(*[torch.randn(1, 2, 3, 4)] * 3, total)
    assert calls == ["T5Bias", "ALiBi"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda scheme: pickle.loads(pickle.dumps(scheme))])
def test_copies(duplicate):
    total = T5Bias(2, std=1.0) + ALiBi(2) + Strip(torch.randn(2, 3))
    again = duplicate(total)
    assert torch.equal(again.dense(5, 5), total.dense(5, 5))
    assert again.name == total.name


def test_views_show_sums():
    pytest.importorskip("matplotlib")
    total = T5Bias(4) + ALiBi(4)
    assert total.plot(16).axes[0].get_title("left") == title_of(total)
    assert total.show(4).axes
    properties = scheme_properties(total)
    assert properties.toeplitz
    assert not properties.bounded
    assert explanation_view(total, properties, "")
    with pytest.raises(ValueError, match="whose bias depends on what the tokens say"):
        (ALiBi(2) + ForgettingBias(2)(torch.randn(1, 2, 5))).plot()


def test_swap_and_load_take_sums(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=9, **sizes)).eval()
    hf.swap(model, lambda heads: T5Bias(heads, std=1.0) + ALiBi(heads))
    tokens = torch.arange(7)[None]
    expected = model(tokens).logits
    model.save_pretrained(tmp_path)
    again = hf.load(tmp_path, lambda heads: T5Bias(heads, std=1.0) + ALiBi(heads)).eval()
    torch.testing.assert_close(again(tokens).logits, expected)
    with pytest.raises(ValueError, match=r"it made SchemeSum\(parts='t5 \(num_buckets=32, max_distance=64, std=1\)"):
        hf.load(tmp_path, lambda heads: T5Bias(heads, max_distance=64, std=1.0) + ALiBi(heads))
    with pytest.raises(ValueError, match="for a model with SchemeSum, which is not a scheme of falloff's"):
        hf.load(tmp_path)


def test_errors():
    with pytest.raises(ValueError, match="bias: got 2 heads of alibi, expected the 4 heads of t5, which it is added to"):
        T5Bias(4) + ALiBi(2)
    with pytest.raises(ValueError, match="bias: got 2 heads of strip, expected the 4 heads of alibi"):
        ALiBi(4) + Strip(torch.zeros(2, 3))
    for both in ((ALiBi(4), ProfileMixture(4)), (ShawBias(4), ALiBi(4))):
        with pytest.raises(ValueError, match="without states in a sum, expected its form"):
            add(*both)
    with pytest.raises(ValueError, match="at most one form of each kind"):
        (FIRE(2, init_L=2) + FIRE(2, init_L=2))(5, 5)
    with pytest.raises(ValueError, match="parts: got none"):
        SchemeSum()
    for other in (3, "alibi", None, torch.zeros(2)):
        with pytest.raises(TypeError, match="unsupported operand"):
            ALiBi(2) + other
    bands = ALiBi(2) + Band(torch.zeros(1, 2, 5, 3))
    with pytest.raises(ValueError, match="expected a band for batch size 1 and 4 query rows"):
        attention(*[torch.randn(1, 2, 4, 8)] * 3, bands)
    with pytest.raises(ValueError, match="has no bias by offset"):
        bands.at(torch.arange(3))
    factored = Factored(torch.zeros(1, 2, 3, 4), torch.zeros(1, 5, 4))
    assert (ALiBi(2) + factored).name == "alibi + factored by query"
    assert isinstance((Potential(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)) + factored), Sum)
