"""What torch expects of an operator: opcheck, gradcheck, autocast, checkpointing; in traced.py torch.compile and export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from falloff import FIRE, ALiBi, attention
from falloff.forms import Band, Factored, Potential, Strip, Sum, Warp
from falloff.ops import operators
from ops.cases import tensors


def test_traced_without_shape_checks():
    """torch.compile and torch.export cannot trace jaxtyping's wrappers: traced.py runs in a process without them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("traced.py")]
    environment = os.environ | {"FALLOFF_SHAPE_CHECKS": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]


def forms(heads, batch, num_queries):
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    knots = torch.tensor([-0.4, 0.1, 0.6], dtype=torch.float64)
    return {
        "none": None,
        "strip": Strip(leaf(heads, 6), start=-2),
        "band": Band(leaf(batch, heads, num_queries, 4)),
        "warp": Warp(leaf(12), leaf(num_queries), knots, leaf(heads, 4), leaf(heads, 4)),
        "strided warp": Warp(
            leaf(12), leaf(num_queries, batch).mT, knots.flip(0).flip(0), leaf(4, heads).T, leaf(4, heads).T
        ),
        "rising warp": Warp(  # as the CPU kernels take it
            torch.arange(12.0, dtype=torch.float64).requires_grad_(),
            torch.rand(batch, num_queries, dtype=torch.float64).requires_grad_(),
            knots,
            leaf(heads, 4),
            leaf(heads, 4),
        ),
        "warp by text": Warp(leaf(12), leaf(batch, num_queries), knots, leaf(heads, 4), leaf(heads, 4)),
        "factored": Factored(leaf(batch, heads, num_queries, 3), leaf(1, 5, 3), -1),
    }


def forms_of_keys(heads, batch, num_queries, num_keys):
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    by_query = Factored(leaf(batch, heads, num_queries, 3), leaf(heads, 5, 3), -1, "clamp")
    by_key = Factored(leaf(batch, heads, num_keys, 2), leaf(1, 4, 2), -2, "zero", "key")
    potential = Potential(leaf(batch, heads, num_queries), leaf(batch, heads, num_keys))
    strip = Strip(leaf(heads, 6), start=-2)
    return {"factored by key": by_key, "potential": potential, "sum": Sum([potential, by_key, strip, by_query])}


# opcheck of torch 2.14 traces clones of the arguments, which are no leaves, and reads their .grad.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("impl", "name"),
    [("blockwise", name) for name in ("none", "strip", "band", "warp", "warp by text", "strided warp", "potential", "sum")]
    + [("cpu", name) for name in ("none", "strip", "band", "rising warp")]
    + [("triton", name) for name in ("strip", "band", "warp by text", "factored")],
)
def test_opcheck(impl, name, masked):
    form = (forms(4, 2, 7) | forms_of_keys(4, 2, 7, 7))[name]
    query, key, value = tensors(2, 4, 2, 7, 7, 4, torch.float64 if impl == "blockwise" else torch.float32)
    grads = [tensor.requires_grad for tensor in form.tensors] if form else []
    tensors_of_form = [t.detach().requires_grad_(grad) for t, grad in zip(form.tensors if form else [], grads, strict=True)]
    masks = (torch.rand(2, 7) > 0.2, torch.zeros(2, 7, dtype=torch.long), torch.tensor(5)) if masked else (None, None, None)
    if isinstance(form, Warp):
        form = form.settled()
    settings = (
        form.kind if form else "",
        form.numbers if form else [],
        True,
        0.5,
        0,
        5 if masked else None,
        0.2 if masked else 0.0,
    )
    arguments = (query, key, value, impl, tensors_of_form, *masks, *settings)
    torch.library.opcheck(operators.fused_attention, arguments)
    out, lse, lowered = (t.detach() for t in operators.fused_attention(*arguments))
    needs = [True, True, False, True]
    inputs = [t.detach() for t in (torch.randn_like(out), torch.randn_like(lse), query, key, value, out, lse, lowered)]
    plain = [t.detach() for t in tensors_of_form]
    arguments = (*inputs, needs, impl, plain, *masks, *settings)
    torch.library.opcheck(operators.fused_attention_backward, arguments)


@pytest.mark.parametrize("name", ["none", "strip", "band", "rising warp"])
@pytest.mark.parametrize("impl", ["blockwise", "cpu", "triton"])
def test_a_dispatch_mode_changes_nothing(impl, name):
    """Counters of operations and selective checkpointing are such modes; torch.func inside an operator fails under them."""
    form = forms(4, 2, 7)[name]
    if isinstance(form, Warp):
        form = form.settled()
    leaves = [tensor for tensor in form.tensors if tensor.requires_grad] if form else []

    def gradients():
        query, key, value = tensors(2, 4, 2, 7, 7, 4, torch.float32)
        out = attention(query, key, value, form, impl=impl)
        return out, *torch.autograd.grad(out.square().sum(), (query, key, value, *leaves))

    torch.manual_seed(0)
    plain = gradients()
    torch.manual_seed(0)
    with FlopCounterMode(display=False):
        counted = gradients()
    assert all(torch.equal(*pair) for pair in zip(plain, counted, strict=True))


@pytest.mark.parametrize("impl", ["blockwise", "cpu", "triton"])
def test_the_output_has_the_heads_of_a_row_side_by_side_where_the_query_has(impl):
    """As PyTorch's own: what joins them for the next matrix copies nothing."""
    query, key, value = (torch.randn(2, 20, 3, 8).transpose(1, 2) for _ in range(3))
    out = attention(query, key, value, ALiBi(3), impl=impl)
    assert out.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(out, attention(*(t.contiguous() for t in (query, key, value)), ALiBi(3), impl=impl))
    one = attention(query[:, :, -1:], key, value, ALiBi(3), impl=impl)
    torch.testing.assert_close(one, out[:, :, -1:])


@pytest.mark.parametrize("name", ["none", "strip", "band", "warp", "warp by text", "factored", "sum"])
def test_gradcheck(name):
    form = (forms(2, 2, 5) | forms_of_keys(2, 2, 5, 6))[name]
    query, key, value = tensors(2, 2, 1, 5, 6, 3)
    leaves = [tensor for tensor in form.tensors if tensor.requires_grad] if form else []

    def run(*_):
        return attention(query, key, value, form, query_start=1, return_lse=True, impl="blockwise")

    assert torch.autograd.gradcheck(run, (query, key, value, *leaves))


def test_autocast_halves_the_tensors_and_not_the_bias():
    query, key, value = tensors(1, 2, 2, 600, 600, 8, torch.float32)
    bias = FIRE(2, init_L=100)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(query, key, value, bias, causal=True)
        form = bias.form(600, 600)
        dense = bias.dense(600, 600)
    assert out.dtype == torch.bfloat16
    assert torch.equal(dense, bias.dense(600, 600))
    assert all(torch.equal(a, b) for a, b in zip(form.tensors, bias.form(600, 600).tensors, strict=True))
    expected = attention(*(t.bfloat16() for t in (query, key, value)), bias, causal=True)
    assert torch.equal(out, expected)


def test_checkpointing_replays_the_same_dropout():
    query, key, value = tensors(1, 2, 2, 20, 20, 4)
    bias = ALiBi(2, learned=True)

    def run(*inputs):
        return attention(*inputs, bias, causal=True, dropout_p=0.4)

    torch.manual_seed(5)
    plain = run(query, key, value)
    torch.manual_seed(5)
    replayed = checkpoint(run, query, key, value, use_reentrant=False)
    grads = [torch.autograd.grad(out.sin().sum(), [query, key, value, bias.log_slopes]) for out in (plain, replayed)]
    assert torch.equal(plain, replayed)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_an_implementation_that_cannot_serve_says_why(monkeypatch):
    from falloff.ops import blockwise

    monkeypatch.setattr(blockwise, "refusal", lambda query, key, call: "it is Sunday")
    query, key, value = tensors(1, 1, 1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"impl: got 'blockwise', which cannot serve this call: it is Sunday"):
        attention(query, key, value, impl="blockwise")
