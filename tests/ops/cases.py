"""Inputs for the tests of attention."""

import torch

from falloff import FIRE, SCHEMES, ProfileMixture
from falloff.forms import Factored, Potential, Strip, Sum

BIASES = ("none", "t5", "t5 bidirectional", "alibi", "kerple-power", "tisa", "fire", "fire beyond L", "band")
FORMS = ("factored", "factored by key", "potential", "sum")
GPU_FORMS = ("factored", "potential")
"""Those that the GPU kernels serve."""


def tensors(batch, heads, groups, num_queries, num_keys, head_size, dtype=torch.float64):
    shapes = [(batch, heads, num_queries, head_size), *[(batch, groups, num_keys, head_size)] * 2]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def form_of(name, heads, batch, num_queries, num_keys, dtype=torch.float64):
    """One of `FORMS`, whose table ends within the offsets of a call, and the leaves that its gradient goes to."""
    if name == "sum":
        parts = [form_of(part, heads, batch, num_queries, num_keys, dtype) for part in FORMS[:3]]
        values = torch.randn(heads, num_keys, dtype=dtype, requires_grad=True)
        form = Sum([Strip(values, -2), *(form for form, _ in parts)])
        return form, form.tensors
    if name == "potential":
        leaves = [torch.randn(batch, heads, length, dtype=dtype, requires_grad=True) for length in (num_queries, num_keys)]
        return Potential(*leaves), leaves
    by_key, size = name == "factored by key", max(num_keys // 2, 3)
    states = torch.randn(batch, heads, num_keys if by_key else num_queries, 5, dtype=dtype, requires_grad=True)
    table = torch.randn(1 if by_key else heads, size, 5, dtype=dtype, requires_grad=True)
    start, outside, side = (-(size // 3), "clamp", "key") if by_key else (1 - size // 4, "zero", "query")
    return Factored(states, table, start, outside, side), [states, table]


def bias_of(name, heads, batch, num_queries, dtype=torch.float64):
    """A bias for one call and the leaves that its gradient goes to."""
    if name == "none":
        return None, []
    if name == "band":
        mixture = ProfileMixture(heads, state_dim=3, extent=5).to(dtype)
        state = torch.randn(batch, heads, num_queries, 3, dtype=dtype, requires_grad=True)
        return mixture(state).to_band(), [state, mixture.profiles]
    if name.startswith("fire"):
        scheme = FIRE(heads, width=6, init_c=0.5, init_L=4.5 if "beyond" in name else 1000)
    elif name == "t5 bidirectional":
        scheme = SCHEMES["t5"](heads, 8, 9, bidirectional=True, std=1.0)
    elif name == "t5":
        scheme = SCHEMES["t5"](heads, 6, 9, std=1.0)
    else:
        scheme = SCHEMES[name](heads)
    scheme = scheme.to(dtype)
    return scheme, list(scheme.parameters())


def results(out, lse, leaves):
    """Output, log-sum-exp and every gradient of a scalar that weighs both of them."""
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    weights = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape)
    scalar = (out.double() * weights).sum() + finite.double().cos().sum()
    grads = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [out, lse, *grads]
