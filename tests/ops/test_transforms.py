"""Torch's transforms of functions: each gives what the reference gives, or an error that names the way out."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from falloff import FIRE, ALiBi, Band, Strip, T5Bias, attention
from ops.cases import tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in forward mode

BIASES = {"none": lambda: None, "t5": lambda: T5Bias(2), "fire": lambda: FIRE(2, width=4, init_L=3)}
QUERY, KEY, VALUE = (t.detach() for t in tensors(2, 2, 1, 6, 6, 4, torch.float32))


class Attend(torch.nn.Module):
    def __init__(self, bias, impl):
        super().__init__()
        self.bias, self.impl = bias, impl

    def forward(self, query, key, value):
        return attention(query, key, value, self.bias, causal=True, impl=self.impl)


WORKING = {
    "grad": lambda f, p, q, k, v: grad(lambda q: f(p, q, k, v).sin().sum())(q),
    "grad of parameters": lambda f, p, q, k, v: grad(lambda p: f(p, q, k, v).sin().sum())(p),
    "vjp": lambda f, p, q, k, v: vjp(f, p, q, k, v)[1](q.cos()),
    "vmap": lambda f, p, q, k, v: vmap(lambda q, v: f(p, q, k, v), in_dims=(0, 1))(
        torch.stack([q, 2 * q, -q]), torch.stack([v, 2 * v, -v], 1)
    ),
    "gradients of each sample": lambda f, p, q, k, v: vmap(
        grad(lambda p, *one: f(p, *(t[None] for t in one)).sin().sum()), in_dims=(None, 0, 0, 0)
    )(p, q, k, v),
    "an ensemble of biases": lambda f, p, q, k, v: vmap(lambda p: f(p, q, k, v))(
        {name: torch.stack([t, 2 * t]) for name, t in p.items()} or {"bias": torch.zeros(2)}
    ),
    "jacrev": lambda f, p, q, k, v: jacrev(lambda k: f(p, q, k, v).sum((1, 2)))(k),
}


@pytest.mark.parametrize("transform", WORKING)
@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("impl", ["blockwise", "cpu"])
def test_works(impl, name, transform):
    if transform == "an ensemble of biases" and name == "none":
        pytest.skip("there is none")
    torch.manual_seed(0)
    bias = BIASES[name]()
    parameters = {f"bias.{n}": p.detach() for n, p in bias.named_parameters()} if bias is not None else {}
    got, want = (
        WORKING[transform](lambda p, *x, i=i: functional_call(Attend(bias, i), p, x), parameters, QUERY, KEY, VALUE)
        for i in (impl, "reference")
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def dual_query(f, q):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(q, torch.ones_like(q)))).tangent


def twice(f, q):
    q = q.clone().requires_grad_()
    (once,) = torch.autograd.grad(f(q).sin().sum(), q, create_graph=True)
    return torch.autograd.grad(once.sum(), q)[0]


REFUSED = {
    "jvp": (lambda f, q: jvp(f, (q,), (q,))[1], "expected impl='reference' for forward-mode derivatives"),
    "jacfwd": (lambda f, q: jacfwd(lambda q: f(q).sum((1, 2)))(q), "forward-mode"),
    "dual tensors": (dual_query, "forward-mode"),
    "hessian": (lambda f, q: hessian(lambda q: f(q).sin().sum())(q), "forward-mode"),
    "second derivative": (twice, "expected impl='reference' for second derivatives"),
    "second derivative by torch.func": (lambda f, q: grad(lambda q: grad(lambda q: f(q).sin().sum())(q).sum())(q), "second"),
    "batched gradients": (
        lambda f, q: torch.autograd.grad(
            f(x := q.clone().requires_grad_()), x, torch.ones(3, *q.shape), is_grads_batched=True
        )[0],
        "is_grads_batched: got True, expected torch.func.vmap over torch.func.vjp",
    ),
}


@pytest.mark.parametrize("transform", REFUSED)
@pytest.mark.parametrize("impl", ["blockwise", "cpu", "auto"])
def test_is_refused_and_the_reference_serves(impl, transform):
    """At eed457e jvp, jacfwd, hessian gave tangents of 0, dual tensors None."""
    run, message = REFUSED[transform]

    def by(impl):
        return lambda q: attention(q, KEY, VALUE, causal=True, impl=impl)

    with pytest.raises(ValueError, match=message):
        run(by(impl), QUERY)
    assert run(by("reference"), QUERY).abs().sum() > 0


def test_a_tangent_of_the_bias_alone_is_refused():
    def run(values, impl):
        return attention(QUERY, KEY, VALUE, Strip(values), impl=impl)

    values = torch.randn(2, 3)
    with pytest.raises(ValueError, match="forward-mode"):
        jvp(lambda x: run(x, "auto"), (values,), (values,))
    assert jvp(lambda x: run(x, "reference"), (values,), (values,))[1].abs().sum() > 0


def test_forward_mode_of_something_else_goes_on():
    """Attention of tensors without a tangent, within a function that others differentiate."""
    with forward_ad.dual_level():
        attention(QUERY, KEY, VALUE)
    out = jvp(lambda x: attention(QUERY, KEY, VALUE) * x, (torch.tensor(2.0),), (torch.tensor(1.0),))[1]
    torch.testing.assert_close(out, attention(QUERY, KEY, VALUE))


@pytest.mark.usefixtures("unchecked")
def test_nested_tensors_name_the_way_out():
    nested = torch.nested.nested_tensor([torch.randn(3, 2, 4), torch.randn(5, 2, 4)], layout=torch.jagged).transpose(1, 2)
    with pytest.raises(ValueError, match="query: got a nested tensor, expected a padded one with key_mask"):
        attention(nested, nested, nested)


def test_vmap_over_masks_and_bands():
    key_masks = torch.rand(3, 2, 6) > 0.3
    values = torch.randn(3, 2, 2, 6, 4)
    got, want = (
        vmap(lambda mask, x, i=i: attention(QUERY, KEY, VALUE, Band(x), key_mask=mask, impl=i))(key_masks, values)
        for i in ("auto", "reference")
    )
    torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")  # of the tracers
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_tracers_are_answered(impl, monkeypatch):
    """torch.jit and ONNX: an error that names what works instead. By the reference ONNX has all operators."""

    class Attention(torch.nn.Module):
        def forward(self, query):
            return attention(query, query, query, ALiBi(2), causal=True, impl=impl)

    query = torch.randn(1, 2, 6, 8)
    with pytest.raises(
        ValueError, match=r"^query: got one of torch\.jit\.trace, .* for ONNX torch\.onnx\.export.*'reference'"
    ):
        torch.jit.trace(Attention(), query)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    if impl == "auto":
        with pytest.raises(ValueError, match=r"^impl: got one that is no operator of ONNX, expected 'reference'"):
            torch.export.export(Attention(), (query,), strict=False)
    else:
        program = torch.export.export(Attention(), (query,), strict=False)
        assert not any("falloff" in str(node.target) for node in program.graph.nodes)
        torch.testing.assert_close(program.module()(query), Attention()(query))


@pytest.mark.usefixtures("unchecked")
def test_masks_where_no_value_can_be_looked_at():
    masks = torch.randint(0, 2, (3, 2, 6))
    with pytest.raises(ValueError, match=r"key_mask: got torch.int64 under torch.func, expected .*mask.bool\(\)"):
        vmap(lambda mask: attention(QUERY, KEY, VALUE, key_mask=mask))(masks)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(t) for t in (QUERY, KEY, VALUE)]
        for mask in (mode.from_tensor(masks[0]), mode.from_tensor(masks[0].bool())):
            assert attention(*fake, FIRE(2), key_mask=mask).shape == QUERY.shape


def test_nothing_to_map_over_is_refused():
    with pytest.raises(ValueError, match="vmap: got a dimension of size 0, expected at least 1"):
        vmap(lambda query: attention(query, KEY, VALUE))(torch.zeros(0, *QUERY.shape))


@pytest.mark.parametrize("impl", ["reference", "blockwise", "cpu"])
def test_no_keys_behind_a_mask(impl):
    none = KEY[:, :, :0]
    out = attention(QUERY, none, none, FIRE(2), key_mask=torch.ones(2, 0, dtype=torch.bool), impl=impl)
    assert torch.equal(out, torch.zeros_like(QUERY))
