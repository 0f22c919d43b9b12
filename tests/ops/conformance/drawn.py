"""Calls that are drawn: ragged sizes; and any form with any masks at once, also forms that no scheme makes."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from falloff import Band, Strip, Warp
from falloff.forms import Factored, Potential, Sum
from falloff.forms.factored import OUTSIDE, SIDES
from falloff.ops.call import sum_dtype
from ops.cases import BIASES, FORMS, GPU_FORMS, tensors
from ops.conformance.budget import Case
from ops.conformance.calls import bias_of
from ops.conformance.variants import GPU


@dataclass(frozen=True)
class Draws:
    """How many calls an implementation gets, and how large they are."""

    ragged: int = 150
    any: int = 120
    batches: tuple = (1, 2, 3)
    heads: tuple = ((1, 1), (4, 2), (6, 3), (4, 1))
    rows: int = 150
    keys: int = 400
    strip: int = 600
    start: int = 500
    extent: int = 400
    segments: int = 9
    head_sizes: tuple = (1, 5, 33)
    every_way: bool = True
    """Whether each call is run in every way to work, or in one that is drawn."""


DRAWS = {
    "cpu": Draws(),
    "blockwise": Draws(
        ragged=60, rows=30, keys=30, strip=12, start=50, extent=40, segments=5, head_sizes=(5,), every_way=False
    ),
    "triton": Draws(
        ragged=30 if GPU else 0,
        any=60 if GPU else 18,
        batches=(1, 2),
        heads=((1, 1), (2, 1), (3, 3)),
        rows=300 if GPU else 150,
        keys=300 if GPU else 150,
        strip=200,
        start=100,
        head_sizes=(5, 33),
        every_way=False,
    ),
}


def ragged(draw, dtype, limits, impl):
    """Any sizes, of every bias."""
    batch = draw(st.integers(1, 3))
    heads, groups = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]))
    num_queries, num_keys = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    head_size = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 96, 128, 256])))
    name = draw(st.sampled_from((*BIASES, *(GPU_FORMS if impl == "triton" else FORMS))))
    settings = {"causal": draw(st.booleans()), "window": draw(st.one_of(st.none(), st.integers(1, 320)))}
    torch.manual_seed(draw(st.integers(0, 2**32)))
    inputs = tensors(batch, heads, groups, num_queries, num_keys, head_size, dtype)
    return Case(*inputs, *bias_of(name, heads, batch, num_queries, dtype, num_keys), settings)


KINDS = ("strip", "band", "warp", "warp by text", "rising warp", "fire beyond L", "none", "potential", "factored", "sum")
"""The CPU kernels take a warp only if it rises, the GPU kernels not all of the last two."""
REFUSED = {"cpu": KINDS[2:4], "triton": KINDS[-2:]}


def any_form(draw, dtype, limits, impl):
    """Ends anywhere, too short, some tensors frozen; all masks at once."""
    torch.manual_seed(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from([kind for kind in KINDS if kind not in REFUSED.get(impl, ())]))
    batch, (heads, groups) = draw(st.sampled_from(limits.batches)), draw(st.sampled_from(limits.heads))
    documents = draw(st.booleans())
    num_queries = draw(st.integers(1, limits.rows))
    num_keys = num_queries if documents else draw(st.integers(1, limits.keys))
    sums = sum_dtype(torch.empty(0, dtype=dtype))

    def leaf(*shape):
        return torch.randn(*shape, dtype=sums).requires_grad_(draw(st.booleans()))

    def strip():
        return Strip(leaf(heads, draw(st.integers(1, limits.strip))), draw(st.integers(-limits.start, limits.start)))

    def factored(side):
        size, tables = draw(st.sampled_from([1, 5, 16, 21])), draw(st.sampled_from([1, heads]))
        states = leaf(batch, heads, num_queries if side == "query" else num_keys, size)
        table = leaf(tables, draw(st.integers(1, limits.strip)), size)
        return Factored(states, table, draw(st.integers(-limits.start, limits.start)), draw(st.sampled_from(OUTSIDE)), side)

    def potential():
        return Potential(leaf(batch, heads, num_queries), leaf(batch, heads, num_keys))

    if kind == "strip":
        bias = strip()
    elif kind == "factored":
        bias = factored(draw(st.sampled_from(SIDES)))
    elif kind == "potential":
        bias = potential()
    elif kind == "sum":
        parts = [strip, lambda: factored("query"), lambda: factored("key"), potential]
        chosen = draw(st.lists(st.integers(0, 3), min_size=2, max_size=4, unique=True))
        bias = Sum([parts[part]() for part in chosen])
    elif kind == "band":
        bias = Band(leaf(batch, heads, num_queries, draw(st.integers(1, limits.extent))))
    elif "warp" in kind:
        segments, length = draw(st.integers(1, limits.segments)), draw(st.integers(1, limits.extent))
        shape = (batch, num_queries) if draw(st.booleans()) or "text" in kind else (num_queries,)
        if kind == "rising warp":
            g, a = torch.rand(length, dtype=sums).cumsum(0).requires_grad_(), torch.rand(shape, dtype=sums).requires_grad_()
            knots = (torch.rand(segments - 1, dtype=sums) * 8).sort().values
        else:
            g, a = leaf(length), leaf(*shape)
            knots = (torch.randn(segments - 1, dtype=sums) * 2).sort().values
        bias = Warp(g, a, knots, leaf(heads, segments), leaf(heads, segments))
    else:
        bias, _ = bias_of(kind, heads, batch, num_queries, dtype)
    masks = {
        "causal": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 1, 3, 50, 200])),
        "key_mask": torch.rand(batch, num_keys) > 0.4 if draw(st.booleans()) else None,
        "document_ids": torch.randint(-2, 3, (batch, num_queries)) if documents else None,
        "query_start": None if documents else draw(st.sampled_from([None, 0, -5, -100, 7, 200])),
        "dropout_p": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "bias_scale": draw(st.sampled_from([1.0, 0.0, -2.0])),
        "scale": draw(st.sampled_from([None, 0.0, -1.0])),
    }
    inputs = tensors(batch, heads, groups, num_queries, num_keys, draw(st.sampled_from(limits.head_sizes)), dtype)
    made_of = [] if bias is None else bias.parameters() if hasattr(bias, "parameters") else bias.tensors
    return Case(*inputs, bias, [leaf for leaf in made_of if leaf.requires_grad], masks)
