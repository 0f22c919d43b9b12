"""The calls by name. A failure names the call and the variant; pytest runs its node id again.

Tiles of different sizes have their edges at different lengths: a variant takes the calls of its own size, and those of any.
"""

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from falloff import ALiBi, Band, Strip, Warp
from falloff.ops.call import sum_dtype
from ops import cases
from ops.cases import BIASES, FORMS, GPU_FORMS, tensors
from ops.conformance.budget import Budget, Case


@dataclass(frozen=True)
class Call:
    """A call by name: how it is made, at which size, and how many of its kind make one for the interpreter."""

    name: str
    make: Callable
    size: str = "any"
    share: int = 1
    place: int = 0
    forward_alone: bool = False
    """In the interpreter."""
    long: bool = False
    """Not for tiny tiles: there are too many of them."""

    def __str__(self):
        return self.name

    def case(self, dtype):
        """The call itself, always of the same numbers."""
        torch.manual_seed(zlib.crc32(self.name.encode()))
        return self.make(dtype)

    def taken_by(self, variant):
        """Whether a variant runs it: an interpreter its share; a GPU, where compiling takes the time, each third one."""
        size = SIZE_OF.get(variant.impl, "small")
        if self.size not in ("any", size) or (self.long and variant.tiny):
            return False
        share = self.share if variant.interpreted else min(self.share, 3) if variant.impl == "triton" else 1
        return self.place % share == 0


SIZE_OF = {"blockwise": "tiny", "triton": "large"}
"""Of the others, as of the CPU kernels: small."""


@lru_cache(maxsize=4)  # the variants of a call follow one another
def _budget(call, dtype, device):
    return Budget(call.case(dtype))


def budget_of(call, variant):
    """The budget of a call, made once for all variants of a dtype."""
    return _budget(call, variant.dtype, variant.device)


def bias_of(name, heads, batch, num_queries, dtype, num_keys=None):
    """As in cases, in the dtype of sums; but a band's leaf is the band, which can be given in two dtypes."""
    sums = sum_dtype(torch.empty(0, dtype=dtype))
    if name in FORMS:
        return cases.form_of(name, heads, batch, num_queries, num_queries if num_keys is None else num_keys, sums)
    bias, leaves = cases.bias_of(name, heads, batch, num_queries, sums)
    if isinstance(bias, Band):
        values = bias.values.detach().requires_grad_()
        return Band(values), [values]
    return bias, leaves


def _masks(few, far, causal):
    return {
        "none": {},
        "causal": {"causal": True},
        "window": {"window": 3},
        "causal window": {"causal": True, "window": few},
        "query_start": {"causal": True, "query_start": 5},
        "far query_start": {"query_start": far},
        "negative query_start": {"causal": True, "query_start": -3},
        "dropout": {"dropout_p": 0.3, "causal": causal},
        "scales": {"scale": 0.7, "bias_scale": -1.3},
        "negative scale": {"scale": -0.3, "causal": True},
    }


@dataclass(frozen=True)
class Size:
    """Sizes of calls with edges of tiles inside."""

    batch: int
    heads: int
    groups: int
    lengths: tuple
    head_size: int
    masks: dict
    padded: int
    """The length of calls with padding and documents."""


SIZES = {
    "tiny": Size(2, 4, 2, ((12, 12), (5, 17), (17, 5), (1, 9)), 6, _masks(4, 40, False), 13),
    "small": Size(2, 4, 2, ((70, 70), (5, 117), (117, 5), (1, 9)), 18, _masks(40, 400, True), 83),
    "large": Size(1, 2, 1, ((150, 150), (70, 93), (130, 40)), 18, _masks(40, 400, True), 83),
}


def _form_and_mask(size, name, mask, lengths):
    def make(dtype):
        inputs = tensors(size.batch, size.heads, size.groups, *lengths, size.head_size, dtype)
        return Case(*inputs, *bias_of(name, size.heads, size.batch, lengths[0], dtype, lengths[1]), size.masks[mask])

    return make


def _forms_and_masks():
    for label, size in SIZES.items():
        place = 0
        for mask in size.masks:
            for name in (*BIASES, *(FORMS if label != "large" else GPU_FORMS)):
                # The kernels of a GPU take any lengths alike: one each.
                one = label == "large" or name in FORMS
                chosen = [random.Random(name + mask).choice(size.lengths)] if one else size.lengths
                for lengths in chosen:
                    words = f"{name}, {mask}, {lengths[0]} x {lengths[1]}"
                    yield Call(words, _form_and_mask(size, name, mask, lengths), label, 7, place)
                    place += 1


def _padded(size, name, causal, documents):
    def make(dtype):
        length = size.padded
        key_mask = torch.rand(3, length) > 0.4
        key_mask[1] = False  # nothing to attend to at all
        settings = {"causal": causal, "key_mask": key_mask}
        if documents:
            step = math.ceil(length / 4)
            ids = torch.stack([torch.arange(length) // step, torch.arange(length) % 2, torch.full((length,), 5)])
            ids[0, -1] = 0  # a document in two parts
            settings |= {"document_ids": ids, "window": 6 if length < 20 else 26, "dropout_p": 0.2}
        inputs = tensors(3, 2, 1, length, length, 8 if length > 20 else 4, dtype)
        return Case(*inputs, *bias_of(name, 2, 3, length, dtype), settings)

    return make


def _padding_and_documents():
    for label, size in SIZES.items():
        place = 0
        for causal in (True, False):
            for name in (*BIASES, *(FORMS if label != "large" else GPU_FORMS)):
                for documents in (False, True):
                    what = "padding, documents, window and dropout" if documents else "padding"
                    words = f"{name}, {what}{', causal' if causal else ''}, {size.padded} x {size.padded}"
                    yield Call(words, _padded(size, name, causal, documents), label, 5, place)
                    place += 1


def _decoding(name, num_queries, masked):
    def make(dtype):
        settings = {"causal": True}
        if masked:
            settings = {"window": 100, "dropout_p": 0.4, "key_mask": torch.rand(2, 333) > 0.3}
        inputs = tensors(2, 4, 2, num_queries, 333, 24, dtype)
        return Case(*inputs, *bias_of(name, 4, 2, num_queries, dtype, 333), settings)

    return make


def _few_rows():
    """Few rows against many keys take kernels of their own, on a GPU and on a CPU."""
    for name, num_queries in ((name, rows) for name in (*BIASES, *FORMS) for rows in (1, 3)):
        for masked in (False, True):
            words = f"{name}, {num_queries} x 333, {'window, padding and dropout' if masked else 'causal'}"
            size = "any" if name in (*BIASES, *GPU_FORMS) else "small"
            yield Call(words, _decoding(name, num_queries, masked), size, forward_alone=True, long=True)


def _settled(make_bias, sizes, settings=None):
    """Of a bias that is made by a dtype, with its leaves."""
    return lambda dtype: Case(*tensors(*sizes, dtype), *make_bias(sum_dtype(torch.empty(0, dtype=dtype))), settings or {})


def _alibi(heads):
    return lambda dtype: (ALiBi(heads), [])


def _hidden_by_bias(length):
    def make(dtype):
        form = ALiBi(2).form(length, length, dtype=dtype)
        values = form.values.clone()
        values[0, :] = -torch.inf  # head 0 sees nothing
        values[1, : max(length // 10, 9)] = -torch.inf  # head 1 sees nothing in the future
        return Strip(values.requires_grad_(), form.start), [values]

    return make


def _strided(dtype):
    query = torch.randn(2, 7, 4, 6).to(dtype).transpose(1, 2).requires_grad_()
    key, value = (torch.randn(2, 2, 6, 7).to(dtype).mT.requires_grad_() for _ in range(2))
    return Case(query, key, value, ALiBi(4), [])


def _expanded(dtype):
    query = torch.randn(2, 7, 4, 6).to(dtype).transpose(1, 2).requires_grad_()
    key, value = (torch.randn(1, 1, 7, 6).to(dtype).expand(2, 2, 7, 6).requires_grad_() for _ in range(2))
    return Case(query, key, value, ALiBi(4), [])


def _wide_band(dtype):
    values = torch.randn(1, 1, 60, 100, dtype=dtype, requires_grad=True)
    return Band(values), [values]


def warp_of(intercepts, dtype, settings, magnitude=1.0):
    """A case of a warp with these intercepts, for scores of some magnitude."""
    sums = sum_dtype(torch.empty(0, dtype=dtype))
    query, key, value = tensors(1, 2, 1, 70, 93, 18, dtype)
    g, a = torch.linspace(0, 3, 93, dtype=sums), 0.5 + torch.rand(70, dtype=sums)
    slope, intercept = torch.randn(2, len(intercepts), dtype=sums), torch.tensor([intercepts, intercepts[::-1]], dtype=sums)
    leaves = [leaf.requires_grad_() for leaf in (g, a, slope, intercept)]
    form = Warp(g, a, torch.linspace(0.5, 2.5, len(intercepts) - 1, dtype=sums), slope, intercept)
    query = (query * magnitude).detach().requires_grad_()
    return Case(query, key, value, form, leaves, {"causal": True} | settings)


def _steep_warps():
    """Warps that leave little of the scores, and scores that leave nothing but the warp."""
    for intercepts, magnitude, settings in [
        ([0.1, -0.2, -1e4, 0.5], 1, {"scale": 0.0}),
        ([0.1, -0.2, -1e4, 0.5], 1, {"scale": -1e-30}),
        ([-1e30, 0.2, 0.1], 1, {}),
        ([-1e4], 1, {}),
        ([-1e9], 100, {}),
        ([-3e9, -3e9], 100, {}),
        ([-1e30], 100, {}),
    ]:
        words = [f"{number:g}" for number in intercepts] + [f"{name} {number:g}" for name, number in settings.items()]
        name = f"a warp of {' '.join(words)}, scores of {magnitude}"
        yield Call(name, partial(warp_of, intercepts, settings=settings, magnitude=magnitude), long=True)


def _t5(heads, queries):
    return lambda dtype: bias_of("t5 bidirectional", heads, 1, queries, dtype)


def _large_logits(sizes, magnitude):
    def make(dtype):
        query, key, value = tensors(*sizes, dtype)
        return Case((query * magnitude).detach().requires_grad_(), key, value, ALiBi(2), [], {"causal": True})

    return make


def _value_size(size):
    def make(dtype):
        query, key, _ = tensors(2, 4, 2, 7, 11, 8, dtype)
        value = torch.randn(2, 2, 11, size).to(dtype).requires_grad_()
        return Case(query, key, value, *bias_of("t5", 4, 2, 7, dtype))

    return make


def _single():
    for length in (9, 200, 300):
        settings = {"causal": True} if length > 9 else {}
        make = _settled(_hidden_by_bias(length), (1, 2, 2, length, length, 4), settings)
        yield Call(f"a bias of -inf, {length} x {length}", make, long=length > 9)
    yield Call("strides as torch gives them", _strided)
    yield Call("heads that are expanded", _expanded)
    make = _settled(_wide_band, (1, 1, 1, 60, 60, 8), {"causal": True, "window": 30})
    yield Call("a band beyond what rows see", make, long=True)
    for size in (1, 16, 33, 64, 80, 128, 256):
        yield Call(f"head size {size}", _settled(_t5(2, 40), (1, 2, 2, 40, 50, size)), long=True)
    for size in (1, 3, 8, 21):
        yield Call(f"value size {size}", _value_size(size))
    two_rows = (1, 2, 2, 2, 700, 16)
    yield Call("two rows with a window, 2 x 700", _settled(_alibi(2), two_rows, {"window": 5}), long=True)
    make = _settled(_alibi(2), two_rows, {"causal": True, "query_start": -1})
    yield Call("a row before the keys, 2 x 700", make, long=True)
    large = [(rows, sign * 1e4, draw) for draw in range(5) for rows in (120, 5, 4, 1) for sign in (1, -1)]
    for place, (rows, magnitude, draw) in enumerate(large):
        words = f"large logits, {rows} x 120, {magnitude:g}, draw {draw}"
        yield Call(words, _large_logits((1, 2, 2, rows, 120, 64), magnitude / 8), share=len(large), place=place, long=True)
    yield from _steep_warps()
    for sign in (1, -1):
        yield Call(f"large logits, 20 x 20, {sign * 1e4:g}", _large_logits((1, 2, 2, 20, 20, 4), sign * 1e4))


CALLS = [*_forms_and_masks(), *_padding_and_documents(), *_few_rows(), *_single()]

assert len({(call.name, call.size) for call in CALLS}) == len(CALLS)
