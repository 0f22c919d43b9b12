"""A sink is one more key, with a score of its own and a value of zeros."""

import pytest
import torch

from falloff import ALiBi, attention
from ops.cases import tensors

SINKS = {
    "a head's": lambda batch, heads, rows: torch.randn(heads, dtype=torch.float64),
    "a row's": lambda batch, heads, rows: torch.randn(batch, heads, rows, dtype=torch.float64),
    "large": lambda batch, heads, rows: torch.full((heads,), 60.0, dtype=torch.float64),
    "none": lambda batch, heads, rows: torch.full((heads,), -torch.inf, dtype=torch.float64),
}


def definition(query, key, value, bias, seen, sink):
    """Output and log-sum-exp with the sink as a column more."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.mT / query.shape[3] ** 0.5 + bias
    scores = scores.masked_fill(~seen, -torch.inf)
    column = (sink if sink.dim() == 3 else sink[:, None]).expand(scores.shape[:3])[..., None]
    scores = torch.cat([scores, column], -1)
    return scores.softmax(-1)[..., :-1] @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("impl", ["reference", "blockwise", "cpu"])
@pytest.mark.parametrize("name", SINKS)
def test_sink(name, impl):
    if impl == "cpu":
        pytest.importorskip("falloff.ops.cpu._kernels")
    torch.manual_seed(0)
    inputs = [t.detach().double().requires_grad_() for t in tensors(2, 4, 2, 5, 9, 8, torch.float32)]
    sink = SINKS[name](2, 4, 5).requires_grad_()
    scheme, offsets = ALiBi(4), torch.arange(5)[:, None] + 4 - torch.arange(9)
    want = definition(*inputs, scheme.dense(5, 9, dtype=torch.float64), offsets >= 0, sink)
    dtype = torch.float32 if impl == "cpu" else torch.float64
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in (*inputs, sink)]
    got = attention(*given[:3], scheme, causal=True, sink=given[3], return_lse=True, impl=impl)
    sent = [torch.randn_like(tensor) for tensor in want]
    of_want = torch.autograd.grad(want, [*inputs, sink], sent)
    of_got = torch.autograd.grad(got, given, [grad.to(dtype) for grad in sent])
    tolerance = {"rtol": 1e-5, "atol": 2e-6} if impl == "cpu" else {"rtol": 1e-10, "atol": 1e-12}
    for ours, theirs in zip((*got, *of_got), (*want, *of_want), strict=True):
        torch.testing.assert_close(ours.double(), theirs.nan_to_num(0.0), **tolerance)


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("value", [0.5, -torch.inf])
def test_rows_that_see_nothing(impl, value):
    """Zeros, the sink as log-sum-exp, and gradients without NaN."""
    inputs = tensors(1, 2, 2, 3, 4, 8, torch.float32)
    sink = torch.full((2,), value, requires_grad=True)
    out, lse = attention(*inputs, key_mask=torch.zeros(1, 4, dtype=torch.bool), sink=sink, return_lse=True, impl=impl)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(lse, torch.full_like(lse, value))
    grads = torch.autograd.grad([out, lse], [*inputs, sink], [torch.ones_like(out), torch.ones_like(lse)])
    for grad in grads[:3]:
        assert torch.equal(grad, torch.zeros_like(grad))
    assert torch.equal(grads[3], torch.full((2,), 3.0 if value > 0 else 0.0))
