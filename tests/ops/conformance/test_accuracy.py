"""Beside PyTorch's own attention, in every dtype: at most twice its error."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from falloff import attention
from ops import cases
from ops.conformance.budget import rms
from ops.conformance.variants import GPU, share_of, variants

BIASES = cases.BIASES if GPU else ("none", "t5", "alibi", "fire beyond L", "band")
FOUND = variants(torch.float32, torch.bfloat16, torch.float16, all_ways=False)
FOUND = [one for one in FOUND if not (getattr(one, "impl", "") == "triton" and one.dtype == torch.float32)]
LENGTH = 130


@pytest.mark.parametrize(("name", "variant"), share_of([(name,) for name in BIASES], FOUND))
def test_error_at_most_twice_that_of_pytorch(name, variant):
    """Root mean square error against float64, beside torch's attention in the same dtype with the dense bias.

    The gradients of all that a bias is made of count as one, over several draws: a single number, such as that of FIRE's L,
    may be right by luck. Beside twice torch's error, a millionth of the tensor's largest entry.
    """
    seeds, heads = (2, 1) if variant.interpreted else (8, 4)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    draws = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        low = cases.tensors(2, heads, heads, LENGTH, LENGTH, 32, variant.dtype)
        bias, leaves = cases.bias_of(name, heads, 2, LENGTH, torch.float32)

        def torchs(q, k, v, bias=bias):
            dense = torch.zeros(heads, LENGTH, LENGTH) if bias is None else bias.dense(LENGTH, LENGTH).to(q.device)
            mask = torch.where(causal, dense, -torch.inf).to(q.dtype)
            return scaled_dot_product_attention(q, k, v, mask.expand(2, -1, -1, -1))

        def ours(q, k, v, bias=bias):
            return attention(q, k, v, bias, causal=True, impl=variant.impl)

        def all_results(function, inputs, leaves=leaves):
            out = function(*inputs)
            grads = torch.autograd.grad((out.double() ** 2).sum(), [*inputs, *leaves], retain_graph=True)
            of_bias = torch.cat([grad.flatten() for grad in grads[3:]]) if leaves else torch.zeros(1)
            return dict(zip(("output", "query", "key", "value", "bias"), [out, *grads[:3], of_bias], strict=True))

        exact = all_results(torchs, [tensor.detach().double().requires_grad_() for tensor in low])
        draws.append([exact, all_results(torchs, low), all_results(ours, low)])
    for tensor in draws[0][0]:
        truth, theirs, got = (torch.stack([draw[side][tensor].detach().double() for draw in draws]) for side in range(3))
        most = 2 * rms(theirs - truth) + 1e-6 * truth.abs().max().item()
        assert rms(got - truth) <= most, tensor
