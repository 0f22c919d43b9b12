"""The definition itself, against PyTorch's attention and against plain loops."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from falloff import ALiBi, T5Bias, attention
from ops.cases import bias_of, tensors


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", ["none", "t5", "fire beyond L", "band"])
def test_is_pytorchs_attention_with_a_dense_mask(name, groups):
    query, key, value = tensors(2, 4, groups, 7, 11, 8)
    bias, leaves = bias_of(name, 4, 2, 7)
    dense = torch.zeros(4, 7, 11, dtype=torch.float64) if bias is None else bias.dense(7, 11)
    causal = torch.ones(7, 11, dtype=torch.bool).tril(4)
    mask = torch.where(causal, dense.double() * 0.7, -torch.inf).expand(2, -1, -1, -1)
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    got = attention(query, key, value, bias, causal=True, scale=0.3, bias_scale=0.7, impl="reference")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    leaves = [query, key, value, *leaves]
    grads = [torch.autograd.grad(out.sin().sum(), leaves, retain_graph=True) for out in (got, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
def test_every_mask_by_its_words(impl):
    """One weight at a time, from the sentences of the docstring."""
    B, N = 2, 9
    query, key, value = tensors(B, 2, 1, N, N, 4)
    key_mask = torch.rand(B, N) > 0.3
    document_ids = torch.tensor([[3, 3, 3, 1, 1, 1, 1, 3, 3], [0, 0, 0, 0, 5, 5, 5, 5, 5]])
    bias = ALiBi(2)
    masks = {"causal": True, "window": 4, "key_mask": key_mask, "document_ids": document_ids}
    got, lse = attention(query, key, value, bias, **masks, return_lse=True, impl=impl)
    slopes = [2**-4, 2**-8]
    for b in range(B):
        for h in range(2):
            for i in range(N):
                may = [
                    j
                    for j in range(N)
                    if j <= i and i - j <= 3 and key_mask[b, j] and document_ids[b, i] == document_ids[b, j]
                ]
                if not may:
                    assert (got[b, h, i] == 0).all()
                    assert lse[b, h, i] == -torch.inf
                    continue
                scores = torch.stack([query[b, h, i] @ key[b, 0, j] / 2 - slopes[h] * (i - j) for j in may])
                torch.testing.assert_close(got[b, h, i], scores.softmax(0) @ value[b, 0, may])
                torch.testing.assert_close(lse[b, h, i], scores.logsumexp(0))


def test_query_start_defaults_to_the_end_of_the_cache():
    query, key, value = tensors(1, 2, 2, 6, 6, 4)
    whole = attention(query, key, value, ALiBi(2), causal=True, impl="reference")
    last = attention(query[:, :, -1:], key, value, ALiBi(2), causal=True, impl="reference")
    torch.testing.assert_close(last, whole[:, :, -1:])
    middle = attention(query[:, :, 2:4], key, value, ALiBi(2), causal=True, query_start=2, impl="reference")
    torch.testing.assert_close(middle, whole[:, :, 2:4])


def test_bias_scale_of_the_books_notation():
    """(q k^T + b) / sqrt(D) is bias_scale = D ** -0.5."""
    query, key, value = tensors(1, 2, 2, 5, 5, 16)
    bias = ALiBi(2)
    scores = (query @ key.mT + bias.dense(5, 5, dtype=torch.float64)) / 4
    expected = scores.softmax(-1) @ value
    torch.testing.assert_close(attention(query, key, value, bias, bias_scale=16**-0.5, impl="reference"), expected)


@pytest.mark.parametrize("impl", ["reference", "auto"])
@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_a_value_size_of_its_own(size, impl):
    """As PyTorch's attention allows; at eed457e it was refused."""
    query, key, _ = tensors(2, 4, 2, 7, 11, 8, torch.float32)
    value = torch.randn(2, 2, 11, size, requires_grad=True)
    bias = T5Bias(4, std=1.0)
    out = attention(query, key, value, bias, impl=impl)
    mask = bias.dense(7, 11)[None].expand(2, -1, -1, -1)
    expected = scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    grads = [torch.autograd.grad(t.sin().sum(), [query, key, value, bias.weight]) for t in (out, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
