"""From sums by offset to the entries of a form: sums beyond an end are added to that end."""

import torch
from torch import Tensor

from falloff.shapes import Float


def at_offsets(sums: Float[Tensor, "rows width"], lowest: int, start: int, size: int) -> Float[Tensor, "rows size"]:
    """From sums at the offsets lowest, lowest + 1, ... to the offsets start .. start + size - 1."""
    return _clamped(sums, lowest - start, size)


def at_distances(sums: Float[Tensor, "rows width"], lowest: int, size: int) -> Float[Tensor, "rows size"]:
    """From sums at the offsets lowest, lowest + 1, ... to the distances abs(offset) = 0 .. size - 1."""
    negative = min(max(-lowest, 0), sums.shape[1])
    past = _clamped(sums[:, negative:], lowest + negative, size)
    if negative == 0:
        return past
    return past + _clamped(sums[:, :negative].flip(1), 1 - lowest - negative, size)


def _clamped(values: Float[Tensor, "rows width"], first: int, size: int) -> Float[Tensor, "rows size"]:
    """Sum column p of `values` into column clamp(first + p, 0, size - 1), in a fixed order."""
    width = values.shape[1]
    if size == 1:
        return values.sum(1, keepdim=True)
    head, tail = (min(max(edge - first, 0), width) for edge in (1, size - 1))
    sums = torch.zeros(values.shape[0], size, dtype=values.dtype, device=values.device)
    sums[:, first + head : first + tail] = values[:, head:tail]
    sums[:, 0].add_(values[:, :head].sum(1))  # "+=" on an indexed tensor would copy the result once more
    sums[:, -1].add_(values[:, tail:].sum(1))
    return sums
