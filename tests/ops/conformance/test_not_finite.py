"""NaN and infinity: what `key_mask` hides reaches nothing; what a row sees, it shows; what nobody sees has no gradient."""

import pytest
import torch

from falloff import Strip, Warp, attention
from ops.cases import bias_of, tensors
from ops.conformance.budget import results_of
from ops.conformance.hard import falling
from ops.conformance.variants import GPU, every, share_of, variants

ALL = [one for one in variants(torch.float32, torch.bfloat16, reference=True) if not getattr(one, "tiny", False)]
FLOAT32 = [one for one in ALL if getattr(one, "dtype", torch.float32) == torch.float32]
HIDING = [one for one in ALL if not (getattr(one, "interpreted", False) and one.dtype != torch.float32)]
MASKS = {"": {}, "causal": {"causal": True}, "causal, all dropped": {"causal": True, "dropout_p": 1.0}}
HIDDEN = [
    *(
        (rows, "strip", head_size, masks)
        for head_size in (18, 16)
        for masks in ("", "causal, all dropped")
        for rows in (70, 3, 1)
    ),
    *((rows, name, 18, "causal") for name in ("none", "t5", "fire beyond L") for rows in (70, 1)),
]


def _spoilt(inputs, hidden, with_what):
    """Query, key and value, of which the last two hold this in turn in what is hidden."""
    query, *others = inputs
    filler = torch.tensor(with_what).repeat(others[0].shape[2])[: others[0].shape[2], None]
    return [query, *(t.detach().where(~hidden, filler.to(t.dtype)).requires_grad_() for t in others)]


@pytest.mark.parametrize(("rows", "name", "head_size", "masks", "variant"), share_of(HIDDEN, HIDING, 7))
def test_what_a_hidden_key_holds_reaches_nothing(rows, name, head_size, masks, variant):
    """Results are the same bits whatever a key that key_mask hides holds, and its gradients are zero."""
    torch.manual_seed(2)
    heads, groups = (2, 2) if variant.interpreted else (4, 2)
    inputs = tensors(2, heads, groups, rows, 300, head_size, variant.dtype)
    key_mask = torch.rand(2, 300) > 0.4
    key_mask[1, :70] = False  # a tile of which nothing is seen
    hidden = ~key_mask[:, None, :, None]
    if name == "strip":
        values = torch.linspace(0, -30, 300).repeat(heads, 1).requires_grad_()
        bias, leaves = Strip(values), [values]
    else:
        bias, leaves = bias_of(name, heads, 2, rows, torch.float32)
    sent = torch.randn(2, heads, rows, head_size), torch.randn(2, heads, rows)
    forward_alone = rows <= 4 and variant.interpreted  # decoding, whose backward is that of any call

    def results_with(*anything):
        torch.manual_seed(2)
        query, key, value = _spoilt(inputs, hidden, anything)
        out, lse = attention(query, key, value, bias, key_mask=key_mask, return_lse=True, impl=variant.impl, **MASKS[masks])
        where_seen = sent[0], sent[1].where(lse > -torch.inf, 0.0)
        return [out, lse] if forward_alone else results_of(out, lse, [query, key, value, *leaves], where_seen)

    expected = results_with(0.5)
    got = results_with(torch.nan, torch.inf, -torch.inf)
    assert not any(tensor.isnan().any() for tensor in expected)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    for grad in got[3:5]:
        assert (grad.masked_select(hidden) == 0).all()
    if forward_alone:
        return
    with torch.no_grad():  # a row that is NaN reaches no hidden key either, and no other entry or key head
        inputs[0][0, 0, 0] = torch.nan
    out, _, _, *grads = results_with(torch.nan)[:5]
    assert out[0, 0, 0].isnan().all()
    assert out[1].isfinite().all()
    assert out[0, heads // groups :].isfinite().all()
    for grad in grads:
        assert (grad.masked_select(hidden) == 0).all()
        assert grad[1].isfinite().all()
        assert grad[0, 1].isfinite().all()


SPREADING = [(which, bad) for bad in (torch.nan, torch.inf, -torch.inf) for which in ("key", "value", "query")]


@pytest.mark.parametrize(("which", "bad", "variant"), share_of(SPREADING, FLOAT32, 1 if GPU else 4))
def test_what_is_not_finite_spreads_to_all_that_see_it(which, bad, variant):
    """As in masked softmax, however far away and however steep the bias. What a row does not see may reach it or not."""
    length = 1100 if variant.impl == "triton" else 600
    inputs = dict(
        zip(("query", "key", "value"), (t.detach() for t in tensors(1, 1, 1, length, length, 8, torch.float32)), strict=True)
    )
    inputs[which][0, 0, 300 if which == "query" else 5, 1] = bad
    out, expected = (
        attention(*inputs.values(), falling(1, length, 2.0), causal=True, impl=impl).detach()
        for impl in (variant.impl, "reference")
    )
    seen = slice(128 if variant.impl == "triton" else 5, None) if which == "value" else slice(None)
    out, expected = out[:, :, seen], expected[:, :, seen]
    assert not expected.isfinite().all()
    assert torch.equal(out.isfinite(), expected.isfinite())  # inf * a weight that underflows to 0 is NaN: either may come
    torch.testing.assert_close(out[out.isfinite()], expected[out.isfinite()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("which", "bad", "variant"), share_of(SPREADING, variants(all_ways=False), 9))
def test_it_is_what_masked_softmax_gives(which, bad, variant):
    """Written out. Torch's own kernels differ here: some hide a NaN query, some spread hidden keys."""
    inputs = dict(
        zip(("query", "key", "value"), (t.detach() for t in tensors(1, 1, 1, 12, 12, 4, variant.dtype)), strict=True)
    )
    inputs[which][0, 0, 5, 1] = bad
    query, key, value = inputs.values()
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    expected = (query @ key.mT / 2).masked_fill(hidden, -torch.inf).softmax(-1) @ value
    got = attention(query, key, value, causal=True, impl=variant.impl)
    torch.testing.assert_close(got, expected, equal_nan=True)


@every(FLOAT32)
def test_a_row_that_sees_nan_is_nan_and_no_other_head_is(variant):
    query, key, value = tensors(2, 4, 2, 70, 70, 8, torch.float32)
    for tensor in (key, value):
        inputs = [t.detach().clone() for t in (query, key, value)]
        inputs[1 if tensor is key else 2][1, 1, 30, 3] = torch.nan
        out, lse = attention(*inputs, causal=True, return_lse=True, impl=variant.impl)
        seen = out[1, 2:, 30:] if tensor is key else out[1, 2:, 30:, 3]
        assert seen.isnan().all()
        assert out[0].isfinite().all()
        assert out[1, :2].isfinite().all()
        assert lse[0].isfinite().all()


@every(FLOAT32)
def test_a_gradient_of_the_log_sum_exp_that_is_not_finite_reaches_every_key_of_its_row(variant):
    """However far away and however steep the bias: nothing is skipped of such a row."""
    length = 1100 if variant.impl == "triton" else 600
    query, key, value = tensors(1, 1, 1, length, length, 8, torch.float32)
    sent = torch.zeros(1, 1, length)
    sent[0, 0, length - 2] = torch.nan
    _, lse = attention(query, key, value, falling(1, length, 2.0), causal=True, return_lse=True, impl=variant.impl)
    of_query, of_key = torch.autograd.grad(lse, [query, key], sent)
    assert of_query[0, 0, length - 2].isnan().all()
    assert of_query[0, 0, : length - 128].isfinite().all()
    assert of_key[0, 0, : length - 1].isnan().all()


@every(FLOAT32)
def test_a_warp_of_an_infinite_distance_has_its_last_line(variant):
    """As in its definition: 0 * inf, in the segments that a score is not in, does not count."""
    query, key, value = tensors(1, 2, 2, 9, 9, 8, torch.float32)
    g = torch.tensor([0.0, 1.0, 2.0, 3.0, torch.inf])
    form = Warp(g, torch.ones(9), torch.tensor([1.5]), torch.tensor([[1.0, -1.0], [0.5, -0.25]]), torch.randn(2, 2))
    if variant.impl == "cpu":
        pytest.skip("it refuses a warp that is not finite")
    out, expected = (attention(query, key, value, form, causal=True, impl=impl) for impl in (variant.impl, "reference"))
    assert expected.isfinite().all()
    torch.testing.assert_close(out, expected)
