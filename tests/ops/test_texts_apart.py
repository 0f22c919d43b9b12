"""A padded or packed batch equals its texts run one by one: also for FIRE, which counts positions from the text's start."""

import pytest
import torch

from falloff import FIRE, attention
from ops.cases import bias_of, tensors

LENGTHS = (9, 4, 13)
BIASES = ("none", "t5", "alibi", "fire", "fire beyond L")


def alone(texts, bias):
    return [attention(*text, bias, causal=True, impl="reference") for text in texts]


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BIASES)
def test_padded(name, side, impl):
    texts = [[t.detach() for t in tensors(1, 2, 2, n, n, 4)] for n in LENGTHS]
    bias, _ = bias_of(name, 2, 1, 1)
    longest = max(LENGTHS)
    padded = [torch.randn(3, 2, longest, 4, dtype=torch.float64) for _ in range(3)]
    key_mask = torch.zeros(3, longest, dtype=torch.bool)
    places = [slice(longest - n, longest) if side == "left" else slice(0, n) for n in LENGTHS]
    for b, (text, place) in enumerate(zip(texts, places, strict=True)):
        key_mask[b, place] = True
        for whole, part in zip(padded, text, strict=True):
            whole[b, :, place] = part[0]
    out = attention(*padded, bias, causal=True, key_mask=key_mask, impl=impl)
    for b, (place, expected) in enumerate(zip(places, alone(texts, bias), strict=True)):
        torch.testing.assert_close(out[b, :, place], expected[0], rtol=1e-12, atol=1e-12)
    # and the last token of each, decoded against a cache padded on the left
    if side == "left":
        last = attention(padded[0][:, :, -1:], *padded[1:], bias, causal=True, key_mask=key_mask, impl=impl)
        torch.testing.assert_close(last, out[:, :, -1:])


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("name", BIASES)
def test_packed(name, impl):
    texts = [[t.detach() for t in tensors(1, 2, 2, n, n, 4)] for n in LENGTHS]
    bias, _ = bias_of(name, 2, 1, 1)
    packed = [torch.cat(parts, dim=2) for parts in zip(*texts, strict=True)]
    document_ids = torch.cat([torch.full((n,), 3 - k) for k, n in enumerate(LENGTHS)])[None]
    out = attention(*packed, bias, causal=True, document_ids=document_ids, impl=impl)
    torch.testing.assert_close(out, torch.cat(alone(texts, bias), dim=2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
def test_packed_and_padded_within(impl):
    """Documents whose first keys are padding start at their first visible key."""
    texts = [[t.detach() for t in tensors(1, 2, 2, n, n, 4)] for n in LENGTHS]
    bias, _ = bias_of("fire beyond L", 2, 1, 1)
    gap = [torch.randn(1, 2, 3, 4, dtype=torch.float64) for _ in range(3)]
    packed = [torch.cat([p for part in parts for p in (g, part)], dim=2) for g, *parts in zip(gap, *texts, strict=True)]
    ids = torch.cat([torch.full((n + 3,), k) for k, n in enumerate(LENGTHS)])[None]
    visible = torch.cat([torch.arange(n + 3) >= 3 for n in LENGTHS])
    out = attention(*packed, bias, causal=True, document_ids=ids, key_mask=visible[None], impl=impl)
    torch.testing.assert_close(out[:, :, visible], torch.cat(alone(texts, bias), dim=2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", ["reference", "blockwise", "cpu"])
@pytest.mark.parametrize("name", [*BIASES, "fire beyond L within a part"])
def test_keys_in_parts_merge_to_the_whole(name, impl):
    """By their log-sum-exps: the first parts lie before all queries, so that query_start is past their keys."""
    query, key, value = (t.detach() for t in tensors(2, 2, 1, 5, 40, 8, torch.float32))
    bias, _ = bias_of(name, 2, 1, 1, torch.float32)
    if "within" in name:  # positions counted from a part would stay below L
        bias = FIRE(2, width=6, init_c=0.5, init_L=36.0)
    start, parts = 35, []
    for s, end in ((0, 16), (16, 30), (30, 40)):
        part = bias
        if name.startswith("fire"):
            part = bias.form(5, end - s, start - s, text_start=-s)
        settings = {"causal": True, "query_start": start - s, "return_lse": True, "impl": impl}
        parts.append(attention(query, key[:, :, s:end], value[:, :, s:end], part, **settings))
    outs, lses = (torch.stack(part) for part in zip(*parts, strict=True))
    lse = lses.logsumexp(0)
    want = attention(query, key, value, bias, causal=True, return_lse=True, impl="reference")
    torch.testing.assert_close(((outs * (lses - lse).exp()[..., None]).sum(0), lse), want, rtol=1e-5, atol=1e-5)
