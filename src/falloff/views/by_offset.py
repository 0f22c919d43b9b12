"""The numbers of a bias by offset, as one query sees it: what curves draw."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from falloff.offsets import check_count
from falloff.schemes.base import Scheme
from falloff.views.content import refuse_without_content

_MOST_LENGTH = 2**20

Spacing = Literal["every", "even", "octaves"]


@dataclass(frozen=True)
class Curves:
    """The bias of every head at rising offsets: `offsets` (L,), `values` (H, L), seen by the query at position `query`."""

    offsets: Tensor
    values: Tensor
    query: int


def curves_by_offset(scheme: Scheme, length: int, spacing: Spacing = "every", most: int = 512) -> Curves:
    """The bias of every head by offset, as the query at position length - 1 sees it.

    Offsets run from 0 to length - 1. If keys in the future have a bias of their own, as in bidirectional schemes and TISA,
    there are as many negative offsets.

    Args:
        scheme: any scheme whose bias does not depend on content.
        length: how many offsets, 1 .. 2^20.
        spacing: every offset; or at most about `most` of them, evenly spaced; or by octaves, for a logarithmic axis: offsets
            from 1 on, with the same number in each octave (for a length of 1, offset 0).
        most: how many offsets are kept, at least 2.

    Raises:
        ValueError: for a length out of range, or a bias that depends on content.

    >>> from falloff import ALiBi
    >>> found = curves_by_offset(ALiBi(8), 1024, "octaves", most=11)
    >>> found.offsets.tolist(), found.values[0, 3].item()
    ([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023], -4.0)
    """
    check_count("length", length, 1)
    if length > _MOST_LENGTH:
        raise ValueError(f"length: got {length}, expected at most {_MOST_LENGTH}")
    refuse_without_content(scheme)
    if spacing == "octaves":
        # Rounded, so that a short length gives each offset once.
        spread = torch.logspace(0, 1, most, base=max(length - 1, 1), dtype=torch.float64)
        offsets = spread.round().long().clamp(max=length - 1).unique()
        return Curves(offsets, _past(scheme, length, offsets), length - 1)
    offsets = torch.arange(length)
    if spacing == "even" and length > most:
        offsets = torch.linspace(0, length - 1, most, dtype=torch.float64).round().long()
    past, future = _past(scheme, length, offsets), _future(scheme, length, offsets)
    if bool((future == past[:, :1]).all()) or torch.equal(past, future):
        return Curves(offsets, past, length - 1)
    both = torch.cat([-offsets[1:].flip(0), offsets])
    return Curves(both, torch.cat([future[:, 1:].flip(1), past], dim=1), length - 1)


def _past(scheme: Scheme, length: int, offsets: Tensor) -> Tensor:
    """The bias of the query at position length - 1 at offsets of keys in the past, (H, L)."""
    with torch.no_grad():
        if scheme.toeplitz:
            return scheme.at(offsets)
        return scheme.dense(1, length)[..., 0, :].flip(-1)[:, offsets]


def _future(scheme: Scheme, length: int, distances: Tensor) -> Tensor:
    """The bias of the same query for keys this far in the future, (H, L)."""
    with torch.no_grad():
        if scheme.toeplitz:
            return scheme.at(-distances)
        return scheme.dense(1, 2 * length - 1, query_start=length - 1)[..., 0, length - 1 :][:, distances]
