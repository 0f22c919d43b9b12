"""Keys may be skipped only where all that is skipped weighs less than rounding. What skips nothing passes too."""

from functools import lru_cache

import pytest
import torch
from torch.nn.functional import one_hot

from falloff import Strip, attention
from ops.cases import tensors
from ops.conformance.budget import Budget, Case, results_of
from ops.conformance.hard import ADVERSARIES, FALLS, SHAPES, UNDERFLOWS, falling
from ops.conformance.variants import share_of, variants

FOUND = [variant for variant in variants(torch.float32) if not getattr(variant, "tiny", False)]
STEPS = {"blockwise": 5, "triton": 3}  # it skips nothing; compiling takes the time. Odd: causal or not comes in turn


def _lengths(variant):
    """Heads and keys: the kernels of a GPU look at blocks of more keys."""
    return (1, 1100) if variant.impl == "triton" else (2, 900)


@lru_cache(maxsize=2)
def _budget(shape, adversary, causal, heads, keys, device):
    torch.manual_seed(3)
    query, key, value = tensors(1, heads, heads, 700, keys, 16, torch.float32)
    with torch.no_grad():
        ADVERSARIES[adversary](key, value)
    bias = SHAPES[shape](heads, keys)
    return Budget(Case(query, key, value, bias, [t for t in bias.tensors if t.requires_grad], {"causal": causal}))


CASES = [(shape, adversary, causal) for adversary in ADVERSARIES for causal in (True, False) for shape in SHAPES]


@pytest.mark.parametrize(("shape", "adversary", "causal", "variant"), share_of(CASES, FOUND, 17, STEPS))
def test_skipping_hides_nothing_that_matters(shape, adversary, causal, variant):
    budget = _budget(shape, adversary, causal, *_lengths(variant), variant.device)
    budget.hold(budget.results(*budget.case.run(variant.impl)))


MASSES = [
    (fall, norm, late, causal) for norm in (0.0, 0.3, 1.0) for late in (1, 60) for fall in FALLS for causal in (True, False)
]


@lru_cache(maxsize=2)
def _weights(fall, norm, late, causal, rows, keys, device):
    torch.manual_seed(3)
    query, key = torch.randn(1, 1, rows, 32) * norm, torch.randn(1, 1, keys, 32)
    key[..., 40, :] *= late
    value = one_hot(torch.arange(keys) // 64, 32).float()[None, None]
    strip = FALLS[fall](torch.arange(float(keys)))[None]
    exact = attention(*(t.double() for t in (query, key, value)), Strip(strip.double()), causal=causal, impl="reference")
    return query, key, value, Strip(strip), exact


@pytest.mark.parametrize(("fall", "norm", "late", "causal", "variant"), share_of(MASSES, FOUND, 5, STEPS))
def test_the_mass_that_is_skipped(fall, norm, late, causal, variant):
    """At most 2^-24 of each row. Values are such that an output component is the weight of one block of keys."""
    rows, keys = (500, 1088) if variant.impl == "triton" else (700, 960)
    *inputs, exact = _weights(fall, norm, late, causal, rows, keys, variant.device)
    got = attention(*inputs, causal=causal, impl=variant.impl)
    assert torch.where(got == 0, exact, 0.0).sum(-1).max() <= 2**-24


@pytest.mark.parametrize(("queries", "keys", "variant"), share_of(UNDERFLOWS, FOUND, 3, {"blockwise": 1, "triton": 1}))
def test_norms_that_underflow_skip_nothing(queries, keys, variant):
    """Norms of queries and keys, or their product with the scale, underflow in float32, where scores do not.

    A norm of 0 that is none would let a key be skipped that has all the weight. Two far keys have it: their scores are 1500,
    and the bias at most that of `num_keys` offsets. Gradients are those of inputs before they are made small.
    """
    num_queries, num_keys = (70, 1030) if variant.impl == "triton" else (320, 600)
    torch.manual_seed(5)
    query, key, value = torch.zeros(1, 2, num_queries, 16), torch.zeros(1, 2, num_keys, 16), torch.randn(1, 2, num_keys, 16)
    query[..., 0] = key[..., [3, 4], 0] = 1.0
    key[..., 1:] = torch.randn(1, 2, num_keys, 15)
    inputs = [query, key, value, falling(2, num_keys, 1.0).values]
    sent = torch.randn(1, 2, num_queries, 16), torch.randn(1, 2, num_queries)
    all_of = []
    for dtype, impl in ((torch.float64, "reference"), (torch.float32, variant.impl)):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        small = [leaf * size for leaf, size in zip(leaves, (queries, keys), strict=False)]
        scale = 1500 / (queries * keys)
        out, lse = attention(*small, leaves[2], Strip(leaves[3]), scale=scale, return_lse=True, impl=impl)
        all_of.append(results_of(out, lse, leaves, sent))
    for want, got in zip(*all_of, strict=True):
        assert (got - want).abs().max() <= 1e-3 * max(1.0, want.abs().max())
