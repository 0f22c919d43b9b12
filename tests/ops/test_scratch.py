"""The memory that CPU kernels keep from call to call: what an earlier call left in it reaches no later one.

Kernels do not clear it: a sum begins in the first product that gives to it, and what nothing gives to is zero.
"""

import pytest
import torch

from falloff import attention
from ops.cases import BIASES, FORMS, tensors
from ops.conformance.budget import Case, agree
from ops.conformance.calls import SIZES, bias_of
from ops.conformance.variants import WAYS, Variant

MASKS = SIZES["small"].masks


@pytest.fixture(autouse=True, params=WAYS["cpu"].values(), ids=WAYS["cpu"])
def _way(request, monkeypatch, one_thread):
    """On each instruction set, by one thread: it is this thread's memory that is left and found."""
    request.param(monkeypatch)


def leave_nan():
    """Calls that leave NaN all over the memory: of several sizes, so that what one leaves alone another one writes."""
    for head_size, num_queries, dropout_p in ((64, 200, 0.0), (23, 90, 0.5), (128, 4, 0.0)):
        inputs = tensors(1, 2, 1, num_queries, 300, head_size, torch.float32)
        out = attention(*(tensor * torch.nan for tensor in inputs), dropout_p=dropout_p, impl="cpu")
        assert all(grad.isnan().all() for grad in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [*MASKS, "padding", "beyond all rows"])
@pytest.mark.parametrize("name", [*BIASES, *FORMS])
def test_the_same_bits_whatever_was_left(name, mask, dtype):
    query, key, value = tensors(2, 4, 2, 101, 317, 20, dtype)
    bias, leaves = bias_of(name, 4, 2, 101, torch.float32, 317)
    settings = dict(MASKS.get(mask, {}))
    if mask == "padding":
        settings = {"key_mask": torch.arange(317) % 7 > torch.tensor([[6], [2]])}  # the first entry sees nothing
    elif mask == "beyond all rows":
        settings = {"causal": True, "query_start": -40}  # rows that see nothing, and keys that no row sees

    def run():
        torch.manual_seed(7)
        out, lse = attention(query, key, value, bias, impl="cpu", return_lse=True, **settings)
        return [out, lse, *torch.autograd.grad(out.float().sin().sum(), [query, key, value, *leaves])]

    leave_nan()
    first = run()
    attention(*(torch.ones_like(tensor) for tensor in (query, key, value)), impl="cpu")
    for one, other in zip(first, run(), strict=True):
        assert torch.equal(one, other)
        assert not one.isnan().any()


@pytest.mark.parametrize("name", ["t5 bidirectional", "fire", "fire beyond L", "band", *FORMS])
def test_sums_begin_where_the_first_rows_see_only_some_keys(name):
    """Of 500 keys in three tiles, the first rows see none, later ones a window that moves; keys beyond get zeros."""
    query, key, value = tensors(1, 4, 2, 130, 500, 20, torch.float32)
    bias, leaves = bias_of(name, 4, 1, 130, torch.float32, 500)
    leave_nan()
    settings = {"causal": True, "query_start": 150, "window": 45}
    agree(Case(query, key, value, bias, leaves, settings), Variant("cpu", torch.float32))
    out = attention(query, key, value, bias, impl="cpu", **settings)
    grads = torch.autograd.grad(out.sin().sum(), [key, value])
    for grad in grads:
        assert (grad[:, :, :106] == 0).all()
        assert (grad[:, :, 280:] == 0).all()
        assert (grad[:, :, 106:280] != 0).any(-1).all()
