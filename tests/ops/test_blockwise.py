"""Blockwise against the reference: values and all gradients, ragged sizes, every mask, with tiles small enough to matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falloff import ALiBi, Band, Scheme, Strip, T5Bias, Warp, attention
from falloff.ops.blockwise import tile
from ops import agreement
from ops.cases import BIASES, bias_of, results, tensors


@pytest.fixture(params=[(3, 5, 1), (4, 7, 60), (64, 1024, 1 << 19)], ids=["tiny tiles", "small tiles", "as shipped"])
def tiles(request, monkeypatch):
    for name, value in zip(("_ROWS", "_KEYS", "_SCORES"), request.param, strict=True):
        monkeypatch.setattr(tile, name, value)


def agree(query, key, value, bias, leaves, rtol=1e-11, **settings):
    both = []
    for impl in ("reference", "blockwise"):
        torch.manual_seed(7)  # the same dropout
        out, lse = attention(query, key, value, bias, impl=impl, return_lse=True, **settings)
        both.append(results(out, lse, [query, key, value, *leaves]))
    for expected, got in zip(*both, strict=True):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol)


MASKS = {
    "none": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "causal window": {"causal": True, "window": 4},
    "query_start": {"causal": True, "query_start": 5},
    "far query_start": {"query_start": 40},
    "negative query_start": {"causal": True, "query_start": -3},
    "dropout": {"dropout_p": 0.3},
    "scales": {"scale": 0.7, "bias_scale": -1.3},
}


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("sizes", [(12, 12), (5, 17), (17, 5), (1, 9)], ids=str)
def test_forms_and_masks(name, mask, sizes):
    query, key, value = tensors(2, 4, 2, *sizes, 6)
    bias, leaves = bias_of(name, 4, 2, sizes[0])
    agree(query, key, value, bias, leaves, **MASKS[mask])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", BIASES)
def test_padding_and_documents(name, causal):
    query, key, value = tensors(3, 2, 1, 13, 13, 4)
    bias, leaves = bias_of(name, 2, 3, 13)
    key_mask = torch.rand(3, 13) > 0.4
    key_mask[1] = False  # nothing to attend to at all
    document_ids = torch.tensor([[0] * 4 + [7] * 5 + [2] * 4, [0, 1] * 6 + [1], [5] * 13])
    agree(query, key, value, bias, leaves, causal=causal, key_mask=key_mask)
    masks = {"causal": causal, "key_mask": key_mask, "document_ids": document_ids}
    agree(query, key, value, bias, leaves, **masks, window=6, dropout_p=0.2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 9),
    st.sampled_from(BIASES),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 320)),
    st.integers(0, 2**32),
)
def test_ragged_sizes(batch, heads, num_queries, num_keys, head_size, name, causal, window, seed):
    torch.manual_seed(seed)
    query, key, value = tensors(batch, *heads, num_queries, num_keys, head_size)
    bias, leaves = bias_of(name, heads[0], batch, num_queries)
    agree(query, key, value, bias, leaves, rtol=1e-9, causal=causal, window=window)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["strip", "band", "warp", "warp by text", "fire beyond L", "none"]), st.data())
def test_any_form_with_any_masks(seed, kind, data):
    """Also forms that no scheme makes (ends anywhere, too short, some tensors frozen), all masks at once, in tiny tiles."""
    torch.manual_seed(seed)
    pick = data.draw
    batch, (heads, groups) = pick(st.integers(1, 3)), pick(st.sampled_from([(1, 1), (4, 2), (6, 3), (4, 1)]))
    documents = pick(st.booleans())
    num_queries = pick(st.integers(1, 30))
    num_keys = num_queries if documents else pick(st.integers(1, 30))

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=pick(st.booleans()))

    if kind == "strip":
        bias = Strip(leaf(heads, pick(st.integers(1, 12))), pick(st.integers(-50, 50)))
    elif kind == "band":
        bias = Band(leaf(batch, heads, num_queries, pick(st.integers(1, 40))))
    elif kind.startswith("warp"):
        segments = pick(st.integers(1, 5))
        knots = torch.randn(segments - 1, dtype=torch.float64).sort().values
        a = leaf(*((batch, num_queries) if kind == "warp by text" else (num_queries,)))
        bias = Warp(leaf(pick(st.integers(1, 40))), a, knots, leaf(heads, segments), leaf(heads, segments))
    else:
        bias, _ = bias_of(kind, heads, batch, num_queries)
    masks = {
        "causal": pick(st.booleans()),
        "window": pick(st.sampled_from([None, 1, 3, 50])),
        "key_mask": torch.rand(batch, num_keys) > 0.4 if pick(st.booleans()) else None,
        "document_ids": torch.randint(-2, 3, (batch, num_queries)) if documents else None,
        "query_start": None if documents else pick(st.sampled_from([None, 0, -5, -100, 7, 200])),
        "dropout_p": pick(st.sampled_from([0.0, 0.3, 1.0])),
        "bias_scale": pick(st.sampled_from([1.0, 0.0, -2.0])),
        "scale": pick(st.sampled_from([None, 0.0, -1.0])),
    }
    query, key, value = tensors(batch, heads, groups, num_queries, num_keys, 5)
    made_of = [] if bias is None else bias.parameters() if isinstance(bias, Scheme) else bias.tensors
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("_ROWS", "_KEYS", "_SCORES"), pick(st.sampled_from([(3, 5, 1), (8, 8, 300)])), strict=True):
            patch.setattr(tile, name, size)
        patch.setattr(tile, "_FEATURES", pick(st.sampled_from([1, 60, 1 << 20])))
        agree(query, key, value, bias, [leaf for leaf in made_of if leaf.requires_grad], rtol=1e-9, **masks)


@pytest.mark.parametrize("impl", ["reference", "blockwise", "cpu", "triton"])
def test_rows_that_see_nothing_have_no_gradient_whatever_comes_back(impl):
    query, key, value = tensors(2, 2, 1, 6, 6, 4, torch.float32)
    key_mask = torch.arange(6) >= torch.tensor([[2], [0]])
    bias = T5Bias(2)
    out, lse = attention(query, key, value, bias, causal=True, key_mask=key_mask, return_lse=True, impl=impl)
    loss = out.sum() + torch.where(lse == -torch.inf, 0.0, lse**2).sum()  # the square of -inf sends an infinity back
    grads = torch.autograd.grad(loss, [query, key, value, bias.weight])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[0][0, :, :2] == 0).all()


@pytest.mark.parametrize("sizes", [(0, 4, 4), (2, 0, 4), (2, 4, 0), (2, 0, 0)], ids=str)
@pytest.mark.parametrize("name", ["none", "t5", "alibi", "fire", "fire beyond L"])
@pytest.mark.parametrize("impl", ["reference", "blockwise", "cpu", "triton"])
def test_empty_dimensions(impl, name, sizes):
    batch, num_queries, num_keys = sizes
    query, key, value = tensors(batch, 2, 1, num_queries, num_keys, 4, torch.float32)
    bias, leaves = bias_of(name, 2, batch, num_queries, torch.float32)
    out, lse = attention(query, key, value, bias, impl=impl, return_lse=True)
    assert out.shape == query.shape
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    for grad in results(out, lse, [query, key, value, *leaves])[2:]:
        assert (grad == 0).all()


def test_strided_inputs_and_expanded_heads():
    query = torch.randn(2, 7, 4, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()
    key, value = (torch.randn(2, 2, 6, 7, dtype=torch.float64).mT.requires_grad_() for _ in range(2))
    agree(query, key, value, ALiBi(4), [])
    expanded = torch.randn(1, 1, 7, 6, dtype=torch.float64).expand(2, 2, 7, 6).detach().requires_grad_()
    agree(query, expanded, expanded, ALiBi(4), [])


def test_only_the_gradients_asked_for():
    query, key, value = tensors(1, 2, 2, 9, 9, 4)
    bias = T5Bias(2).double()
    for wanted in ([query], [key], [value], [bias.weight], [key, bias.weight]):
        for leaf in (query, key, value, bias.weight):
            leaf.requires_grad_(any(leaf is one for one in wanted))
        grads = [
            torch.autograd.grad(attention(query, key, value, bias, causal=True, impl=impl).sin().sum(), wanted)
            for impl in ("reference", "blockwise")
        ]
        for expected, got in zip(*grads, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("impl", "dtype"),
    [(impl, dtype) for impl in ("blockwise", "cpu") for dtype in (torch.float32, torch.bfloat16)]
    + [("blockwise", torch.float16)],
)
@pytest.mark.parametrize("name", ["none", "t5", "alibi", "fire beyond L", "band"])
def test_error_at_most_twice_that_of_pytorch(name, impl, dtype):
    agreement.error_at_most_twice_that_of_pytorch(name, impl, dtype)


@pytest.mark.parametrize("name", BIASES)
def test_two_runs_give_the_same_bits(name):
    query, key, value = tensors(2, 4, 2, 300, 300, 16, torch.float32)
    bias, leaves = bias_of(name, 4, 2, 300, torch.float32)
    runs = []
    for _ in range(3):
        torch.manual_seed(3)
        out, lse = attention(query, key, value, bias, causal=True, dropout_p=0.1, return_lse=True)
        runs.append(results(out, lse, [query, key, value, *leaves]))
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_the_gradient_of_a_strip_sums_to_zero_for_each_head():
    query, key, value = tensors(2, 4, 2, 40, 40, 8)
    bias = T5Bias(4).double()
    attention(query, key, value, bias, causal=True).sin().sum().backward()
    assert bias.weight.grad.abs().max() > 1e-3
    torch.testing.assert_close(bias.weight.grad.sum(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_logits(magnitude):
    query, key, value = tensors(1, 2, 2, 20, 20, 4)
    agree((query * magnitude).detach().requires_grad_(), key, value, ALiBi(2), [], causal=True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_and_inf_spread_to_what_sees_them(which, bad):
    """As in masked softmax written out. Torch's own kernels differ here: some hide a NaN query, some spread hidden keys."""
    inputs = [tensor.detach() for tensor in tensors(1, 1, 1, 12, 12, 4)]
    inputs[which][0, 0, 5, 1] = bad
    query, key, value = inputs
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    expected = (query @ key.mT / 2).masked_fill(hidden, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(attention(*inputs, causal=True, impl="blockwise"), expected, equal_nan=True)


def test_a_bias_of_minus_infinity_hides_keys():
    bias = ALiBi(2).form(9, 9, dtype=torch.float64)
    values = bias.values.clone()
    values[0, :] = -torch.inf  # head 0 sees nothing
    values[1, :9] = -torch.inf  # head 1 sees nothing in the future, nor itself
    strip = type(bias)(values.requires_grad_(), bias.start)
    query, key, value = tensors(1, 2, 2, 9, 9, 4)
    agree(query, key, value, strip, [values])
    assert (attention(query, key, value, strip)[0, 0] == 0).all()
