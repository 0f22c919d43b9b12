"""The calls that ranks are held to: each is made whole, cut for the ranks, and its results are put together again."""

from dataclasses import dataclass
from itertools import count

import torch

from falloff import Band, Warp
from falloff.distributed.forms import axes_of, rebuilt
from falloff.distributed.shards import even_layout, layout_of
from falloff.forms import Form
from ops.cases import FORMS, bias_of, form_of, tensors
from ops.conformance.budget import Case

WORLDS = (2, 3, 4)
METHODS = ("ulysses", "all-gather", "ring")
BIASES = ("none", "t5 bidirectional", "alibi", "fire", "fire beyond L", "band", "warp", "warp by text", *FORMS)
HEADS = ((4, 2), (4, 4), (5, 5), (4, 1), (6, 3), (6, 2))
RAGGED = {2: (9, 14), 3: (11, 0, 12), 4: (3, 8, 1, 11)}
EVEN = 23


def masks_of(batch, num_queries, num_keys):
    """Settings of the whole call by name. Of a sink, its shape comes with the call."""
    padding = torch.rand(batch, num_keys) > 0.4
    padding[-1, : num_keys // 2] = False
    ids = torch.stack([torch.arange(num_queries) // 6, torch.arange(num_queries) % 3])
    ids[0, -1] = 0  # a document in two parts
    return {
        "none": {},
        "causal": {"causal": True},
        "window": {"window": 5},
        "causal window": {"causal": True, "window": 4},
        "padding": {"key_mask": padding},
        "causal padding": {"key_mask": padding.int(), "causal": True},
        "documents": {"document_ids": ids},
        "causal documents": {"document_ids": ids[:1], "causal": True},
        "documents, padding and window": {"document_ids": ids, "key_mask": padding[:1], "window": 7},
        "dropout": {"dropout_p": 0.3, "causal": True},
        "documents and dropout": {"document_ids": ids, "dropout_p": 0.4},
        "scales": {"scale": 0.7, "bias_scale": -1.3},
        "sink": {"sink": None, "causal": True},
        "sink by row": {"sink": None},
        "other lengths": {"query_start": 4, "causal": True},
        "other lengths, by default": {"window": 9},
    }


MASKS = tuple(masks_of(2, 1, 1))


def bias_by_name(name, heads, batch, num_queries, num_keys, dtype):
    if name in FORMS:
        return form_of(name, heads, batch, num_queries, num_keys, dtype)[0]
    if "warp" in name:
        shape = (batch, num_queries) if "text" in name else (num_queries,)
        g, a = torch.rand(num_keys, dtype=dtype).cumsum(0), torch.rand(shape, dtype=dtype)
        lines = torch.randn(2, heads, 3, dtype=dtype)
        return Warp(g, a, torch.tensor([1.0, 3.0], dtype=dtype), *lines)
    if name == "band":
        return Band(torch.randn(batch, heads, num_queries, 5, dtype=dtype))
    bias, _ = bias_of(name, heads, batch, num_queries, dtype)
    return bias


@dataclass(frozen=True)
class Sharded:
    """A call on some ranks."""

    world: int
    method: str
    order: str
    bias: str
    mask: str
    heads: tuple
    dtype: torch.dtype = torch.float64
    impl: str = "blockwise"
    scale: int = 1
    """By which lengths are multiplied."""
    seed: int = 0

    def __str__(self):
        dtype = "" if self.dtype == torch.float64 else f", {str(self.dtype).removeprefix('torch.')}"
        return f"{self.method}, {self.order}, {self.bias}, {self.mask}, heads {self.heads}{dtype} on {self.world}"

    @property
    def layouts(self):
        """Of rows and keys."""
        if self.order == "zigzag":
            length = EVEN * self.scale
            lengths = (length, length + 6 if "other" in self.mask else length)
            return [even_layout(length, self.world, "zigzag") for length in lengths]
        rows = [length * self.scale for length in RAGGED[self.world]]
        keys = [length + 2 for length in rows[::-1]] if "other" in self.mask else rows
        return [layout_of("query", lengths, "contiguous") for lengths in (rows, keys)]

    def whole(self):
        """The call on one process."""
        torch.manual_seed(self.seed)
        heads, groups = self.heads
        rows, keys = (layout.length for layout in self.layouts)
        inputs = tensors(2, heads, groups, rows, keys, 6, self.dtype)
        sums = torch.promote_types(self.dtype, torch.float32)
        bias = bias_by_name(self.bias, heads, 2, rows, keys, sums)
        leaves = []
        if isinstance(bias, Form):
            leaves = [tensor.detach().requires_grad_() for tensor in bias.tensors]
            bias = rebuilt(bias, leaves)
            # The knots of a warp get no gradient.
            leaves = [leaf for leaf, name in zip(leaves, bias.tensor_names, strict=True) if "knots" not in name]
        elif bias is not None:
            leaves = [parameter for parameter in bias.parameters() if parameter.requires_grad]
        settings = masks_of(2, rows, keys)[self.mask]
        if "sink" in settings:
            shape = (2, heads, rows) if "row" in self.mask else (heads,)
            settings["sink"] = torch.randn(shape, dtype=sums, requires_grad=True)
        return Case(*inputs, bias, leaves, settings)

    def cut(self, case, rank):
        """Arguments of this rank; and its leaves, each with the layout and dimension by which it is cut, or None."""
        rows, keys = self.layouts
        leaves = []

        def leaf(tensor, layout=None, dim=2):
            own = (
                tensor if layout is None else layout.of_rank(tensor.detach(), dim, rank).requires_grad_(tensor.requires_grad)
            )
            leaves.append((own, layout, dim))
            return own

        inputs = [leaf(case.query, rows), leaf(case.key, keys), leaf(case.value, keys)]
        bias, settings = case.bias, dict(case.settings)
        if isinstance(bias, Form):
            made = []
            for tensor, axes, name in zip(bias.tensors, axes_of(bias), bias.tensor_names, strict=True):
                layout = None if axes.length is None else keys if axes.of_keys else rows
                made.append(tensor if "knots" in name else leaf(tensor, layout, axes.length))
            bias = rebuilt(bias, made)
        else:
            leaves += [(parameter, None, 0) for parameter in case.leaves]
        for name, layout in (("key_mask", keys), ("document_ids", rows)):
            if name in settings:
                settings[name] = layout.of_rank(settings[name], 1, rank)
        if "sink" in settings:
            settings["sink"] = leaf(settings["sink"], rows if settings["sink"].dim() == 3 else None)
        return inputs, bias, settings, leaves


def _table():
    number = count()
    for world in WORLDS:
        for bias in BIASES:
            for method in METHODS:
                for _ in range(2):
                    place = next(number)
                    mask = MASKS[place % len(MASKS)]
                    if method == "ring" and "dropout" in mask:
                        mask = "causal"
                    heads = HEADS[place % len(HEADS)]
                    order = ("contiguous", "zigzag")[place // 2 % 2]
                    impl = "reference" if place % 7 == 0 else "blockwise"
                    yield Sharded(world, method, order, bias, mask, heads, impl=impl, seed=place)


def _in_half_and_single():
    for place, bias in enumerate(("t5 bidirectional", "fire", "factored", "potential", "band", "alibi")):
        for method in METHODS:
            dtype = (torch.float32, torch.bfloat16)[place % 2]
            mask = ("causal", "causal padding", "causal documents")[place % 3]
            # One key head goes to both ranks in Ulysses, and its gradient comes from both.
            heads = (4, 2) if place < 3 else (4, 1)
            yield Sharded(2, method, "zigzag", bias, mask, heads, dtype, "auto", 4, seed=place)


EXACT = list({str(case): case for case in _table()}.values())
BUDGETED = list(_in_half_and_single())
