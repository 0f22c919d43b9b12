"""The calls that are emulated, by name: 'form, mask, D, ways ...', one of conformance's single calls, or a hard bias."""

import random
import zlib
from contextlib import contextmanager

import pytest
import torch

from falloff.ops.triton.host import bias, skip
from ops.cases import BIASES, GPU_FORMS, tensors
from ops.conformance.budget import Case
from ops.conformance.calls import CALLS, SIZES, bias_of
from ops.conformance.hard import SHAPES

MASKS = [*SIZES["large"].masks, "key_mask", "documents", "decode", "decode window"]
HEAD_SIZES = (16, 33, 64, 80, 128, 256)
LENGTHS = ((200, 200), (150, 333), (170, 90))
WAYS = ((), ("long loop",), ("skipping",), ("float16",))
FORMS = (*BIASES, *GPU_FORMS)
HARD = {f"skipping, {name}": shape for name, shape in SHAPES.items()}
SINGLE = {
    call.name: call
    for call in CALLS
    if call.size in ("any", "large") and not call.name.startswith(FORMS) and call.name.split("draw ")[-1] in (call.name, "0")
}


def names(seed):
    """All calls, in a random order."""
    draw = random.Random(seed)
    grid = [(form, mask, str(size)) for form in FORMS for mask in MASKS for size in HEAD_SIZES]
    found = [", ".join([*parts, *draw.choice(WAYS)]) for parts in grid]
    found += [*HARD, *SINGLE]
    draw.shuffle(found)
    return found


def is_call(name):
    """Whether `case_of` knows the name."""
    if name in SINGLE or name in HARD:
        return True
    parts = name.split(", ")
    known = len(parts) >= 3 and parts[0] in FORMS and parts[1] in MASKS and parts[2].isdecimal()
    return known and {*parts[3:]} <= {way for ways in WAYS for way in ways}


def case_of(name):
    """The call of a name, always of the same numbers."""
    torch.manual_seed(zlib.crc32(name.encode()))
    if name in SINGLE:
        return SINGLE[name].case(torch.bfloat16)
    if name in HARD:
        strip = HARD[name](1, 1100)
        leaves = [tensor for tensor in strip.tensors if tensor.requires_grad]
        return Case(*tensors(1, 1, 1, 300, 1100, 64, torch.bfloat16), strip, leaves, {"causal": "both" not in name})
    form, mask, head_size, *ways = name.split(", ")
    dtype = torch.float16 if "float16" in ways else torch.bfloat16
    batch, queries, keys, settings = _masked(mask, *random.Random(name).choice(LENGTHS))
    inputs = tensors(batch, 2, 1, queries, keys, int(head_size), dtype)
    return Case(*inputs, *bias_of(form, 2, batch, queries, dtype, keys), settings)


def _masked(mask, queries, keys):
    """Batch, lengths and settings."""
    if mask == "key_mask":
        return 2, queries, keys, {"key_mask": torch.rand(2, keys) > 0.3, "causal": True}
    if mask == "documents":
        ids = torch.randint(0, 4, (2, queries)).sort(-1).values
        return 2, queries, queries, {"document_ids": ids, "causal": True, "dropout_p": 0.1}
    if mask == "decode":
        return 2, 3, 333, {"causal": True}
    if mask == "decode window":
        return 2, 1, 333, {"window": 100, "dropout_p": 0.4, "key_mask": torch.rand(2, 333) > 0.3}
    return 1, queries, keys, SIZES["large"].masks[mask]


@contextmanager
def way_of(name):
    """Within, the kernels take the loops for long texts, or look for keys to skip, if the name says so."""
    with pytest.MonkeyPatch.context() as patch:
        if "long loop" in name:
            patch.setattr(bias, "_SHORT", 0)
        if "skipping" in name:
            patch.setattr(skip, "_SKIP_FROM", 0)
        yield
