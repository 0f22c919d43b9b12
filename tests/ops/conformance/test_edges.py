"""Rows that see nothing, nothing at all, everything dropped, far positions, and gradients that nobody asked for."""

import pytest
import torch

from falloff import ALiBi, Band, Strip, T5Bias, Warp, attention
from ops.cases import BIASES, bias_of, results, tensors
from ops.conformance.budget import Budget, Case
from ops.conformance.variants import every, share_of, variants

FLOAT32 = variants(torch.float32, reference=True)


@every(FLOAT32)
def test_rows_that_see_nothing_have_no_gradient_whatever_comes_back(variant):
    query, key, value = tensors(2, 2, 1, 6, 6, 4, torch.float32)
    key_mask = torch.arange(6) >= torch.tensor([[2], [0]])
    bias = T5Bias(2)
    out, lse = attention(query, key, value, bias, causal=True, key_mask=key_mask, return_lse=True, impl=variant.impl)
    loss = out.sum() + torch.where(lse == -torch.inf, 0.0, lse**2).sum()  # the square of -inf sends an infinity back
    grads = torch.autograd.grad(loss, [query, key, value, bias.weight])
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[0][0, :, :2] == 0).all()


@pytest.mark.parametrize("sizes", [(0, 4, 4), (2, 0, 4), (2, 4, 0), (2, 0, 0)], ids=str)
@pytest.mark.parametrize("name", ["none", "t5", "alibi", "fire", "fire beyond L"])
@every(FLOAT32)
def test_empty_dimensions(variant, name, sizes):
    batch, num_queries, num_keys = sizes
    query, key, value = tensors(batch, 2, 1, num_queries, num_keys, 4, torch.float32)
    bias, leaves = bias_of(name, 2, batch, num_queries, torch.float32)
    out, lse = attention(query, key, value, bias, impl=variant.impl, return_lse=True)
    assert out.shape == query.shape
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    for grad in results(out, lse, [query, key, value, *leaves])[2:]:
        assert (grad == 0).all()


@every(FLOAT32)
def test_dropping_all_leaves_nothing(variant):
    query, key, value = tensors(1, 2, 2, 5, 5, 4, torch.float32)
    out, lse = attention(query, key, value, dropout_p=1.0, return_lse=True, impl=variant.impl)
    assert (out == 0).all()
    assert torch.isfinite(lse).all()


WANTED = [("query",), ("key",), ("value",), ("bias",), ("key", "bias"), ("value", "bias")]


@pytest.mark.parametrize(("wanted", "variant"), share_of([(wanted,) for wanted in WANTED], variants()))
def test_only_the_gradients_asked_for(wanted, variant):
    torch.manual_seed(1)
    query, key, value = tensors(1, 2, 2, 9, 9, 4, variant.dtype)
    bias = T5Bias(2, std=1.0).to(variant.dtype)
    leaves = {"query": query, "key": key, "value": value, "bias": bias.weight}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in wanted)
    want, got = (
        torch.autograd.grad(
            attention(query, key, value, bias, causal=True, impl=impl).sin().sum(), [leaves[name] for name in wanted]
        )
        for impl in ("reference", variant.impl)
    )
    torch.testing.assert_close(got, want)


FAR = [(name, query_start) for name in BIASES for query_start in (2**31, -(2**31), 2**60, -(2**60))]


@pytest.mark.parametrize(
    ("name", "query_start", "variant"), share_of(FAR, variants(torch.float32, all_ways=False), 3, {"blockwise": 5})
)
def test_far_positions(name, query_start, variant):
    rows = 70 if variant.impl == "triton" else 7  # few rows take other kernels there
    query, key, value = (t.detach() for t in tensors(1, 2, 2, rows, 20, 8, torch.float32))
    if name.startswith("fire"):  # FIRE's own form would be as long as the distance
        bias = Warp(torch.arange(5.0), torch.ones(rows), torch.tensor([1.0, 2.5]), torch.randn(2, 3), torch.randn(2, 3))
    elif name in ("kerple-power", "alibi", "tisa"):
        bias = Strip(torch.randn(2, 9), start=-3)
    elif name == "band":
        bias = Band(torch.randn(1, 2, rows, 9))
    else:
        bias, _ = bias_of(name, 2, 1, rows, torch.float32)
    case = Case(*(t.requires_grad_() for t in (query, key, value)), bias, [], {"query_start": query_start})
    with torch.no_grad():
        got = case.run(variant.impl)
    Budget(case).hold(got)


@every(variants())
def test_a_bias_of_minus_infinity_hides_keys(variant):
    values = ALiBi(2).form(60, 60, dtype=variant.dtype).values.clone()
    values[0, :] = -torch.inf  # head 0 sees nothing
    query, key, value = tensors(1, 2, 2, 60, 60, 4, variant.dtype)
    out = attention(query, key, value, Strip(values), causal=True, impl=variant.impl)
    assert (out[0, 0] == 0).all()
    assert (out[0, 1] != 0).any()


@every(variants())
def test_the_gradient_of_a_strip_sums_to_zero_for_each_head(variant):
    query, key, value = tensors(2, 4, 2, 40, 40, 8, variant.dtype)
    bias = T5Bias(4).to(variant.dtype)
    attention(query, key, value, bias, causal=True, impl=variant.impl).sin().sum().backward()
    largest = bias.weight.grad.abs().max()
    assert largest > 1e-3
    assert bias.weight.grad.sum(0).abs().max() <= 500 * torch.finfo(variant.dtype).eps * max(1.0, largest)


@every([one for one in FLOAT32 if not getattr(one, "tiny", False)])
def test_masks_of_integers_and_of_one_row(variant):
    query, key, value = tensors(2, 2, 2, 5, 5, 4, torch.float32)
    seen = torch.tensor([[True, True, True, False, False]])
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    impl = variant.impl
    whole = attention(query, key, value, key_mask=seen.expand(2, -1), document_ids=ids.expand(2, -1), impl=impl)
    for mask in (seen, seen.long(), seen.int().expand(2, -1), seen.to(torch.uint8)):
        assert torch.equal(attention(query, key, value, key_mask=mask, document_ids=ids, impl=impl), whole)


FORMS = {
    "strip": lambda dtype: Strip(torch.linspace(-9, 9, 12, dtype=dtype).repeat(2, 1), -3),
    "band": lambda dtype: Band(torch.linspace(-9, 9, 1 * 2 * 6 * 4).view(1, 2, 6, 4).to(dtype)),
    "warp": lambda dtype: Warp(
        torch.arange(6, dtype=dtype), torch.ones(6, dtype=dtype), torch.tensor([2.0], dtype=dtype),
        torch.tensor([[3.0, 0], [1, 2]], dtype=dtype), torch.tensor([[0.0, 6], [1, -1]], dtype=dtype),
    ),
}  # fmt: skip
PRECISIONS = [
    (torch.float16, torch.float32, 1e4),  # overflows in half precision: was NaN
    (torch.bfloat16, torch.float32, 0.3),  # was rounded to eight bits
    (torch.float32, torch.float64, 1 / 3),  # lost eight digits
]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("of_form", "of_query", "bias_scale", "variant"),
    [parameter for precision in PRECISIONS for parameter in share_of([precision], variants(precision[1], all_ways=False))],
)
def test_bias_scale_multiplies_a_form_in_the_precision_of_the_scores(name, of_form, of_query, bias_scale, variant):
    query, key, value = tensors(1, 2, 2, 6, 6, 4, of_query)
    form = FORMS[name](of_form)
    out = attention(query, key, value, form, bias_scale=bias_scale, impl=variant.impl)
    exact = [t.double() for t in (query, key, value)]
    expected = attention(*exact, form.to(torch.float64), bias_scale=bias_scale, impl="reference")
    # Scores of 10^5 are known to 10^-2 in float32.
    tolerance = 1e-12 if of_query == torch.float64 else 2e-2 if bias_scale > 1 else 1e-4
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
