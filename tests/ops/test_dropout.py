import pytest
import torch

from falloff import ALiBi, attention
from falloff.ops.dropout import keep_mask, shifted_seed
from ops.cases import tensors


def in_plain_python(seed, p, b, h, i, j):
    """The module's docstring, one weight at a time in Python integers."""
    low = 0xFFFFFFFF

    def mix(x):
        x ^= x >> 16
        x = x * 0x21F0AAAD & low
        x ^= x >> 15
        x = x * 0xD35A2D97 & low
        return x ^ x >> 15

    states = []
    for half in (seed & low, seed >> 32):
        state = mix(half)
        for index in (b, h, i):
            state = mix((state + index * 0x9E3779B9) & low)
        states.append(state)
    start, step = states
    return mix((start + j * (step | 1)) & low) >= round(p * 2**32)


def mask(seed, p, batch, heads, rows, keys):
    return keep_mask(torch.tensor(seed), p, *(torch.arange(size) for size in (batch, heads, rows, keys)))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5, 2**63 - 2])
def test_is_the_documented_function(seed):
    got = mask(seed, 0.4, 2, 3, 4, 5)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in got.shape)).tolist():
        assert got[tuple(index)] == in_plain_python(seed, 0.4, *index)


def test_known_bits():
    """So that no later implementation, nor this one, changes what a seed drops."""
    rows = ["".join(map(str, row)) for row in mask(1234567890123456789, 0.5, 1, 1, 2, 16)[0, 0].int().tolist()]
    assert rows == ["0100101101101110", "1111010110111111"]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 2])
def test_part_of_a_call_drops_what_the_whole_drops_there(seed):
    whole = mask(seed, 0.4, 3, 5, 7, 11)
    for batch, head, row in ((1, None, None), (2, 3, None), (0, 4, None), (2, 1, 4), (0, 0, 6)):
        sizes = (3 - batch if head is None else 1, 5 - (head or 0) if row is None else 1, 7 - (row or 0), 11)
        part = mask(int(shifted_seed(torch.tensor(seed), batch, head, row)), 0.4, *sizes)
        ends = (batch + sizes[0], (head or 0) + sizes[1])
        assert torch.equal(part, whole[batch : ends[0], head or 0 : ends[1], row or 0 :])


@pytest.mark.parametrize("p", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_share_and_independence(p):
    kept = (~mask(3, p, 2, 4, 200, 300)).double()
    bound = 5 * (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - p) <= bound
    centred = kept - p
    for axis in range(4):  # neighbours along every axis are uncorrelated
        size = kept.shape[axis]
        product = centred.narrow(axis, 0, size - 1) * centred.narrow(axis, 1, size - 1)
        assert abs(product.mean()) <= 5 * p * (1 - p) / product.numel() ** 0.5
    assert kept.mean((0, 1, 2)).std() <= 2 * (p * (1 - p) / 1600) ** 0.5


def test_seed_comes_from_torchs_generator():
    query, key, value = tensors(1, 2, 2, 8, 8, 4)

    def run(seed):
        torch.manual_seed(seed)
        return attention(query, key, value, dropout_p=0.5)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    first = run(1)
    assert not torch.equal(first, attention(query, key, value, dropout_p=0.5))  # the next call draws anew


def test_expectation_is_attention_without_dropout():
    query, key, value = (tensor.detach() for tensor in tensors(1, 1, 1, 6, 6, 3))
    many = attention(*(t.expand(20000, -1, -1, -1) for t in (query, key, value)), ALiBi(1), dropout_p=0.25)
    plain = attention(query, key, value, ALiBi(1))
    error = many.std(0) / 20000**0.5
    assert ((many.mean(0) - plain[0]).abs() <= 5 * error).all()
