"""Rows and columns of a bias by offset, of any length, computed in parts."""

import torch
from torch import Tensor

from falloff.schemes.base import Scheme

FLOAT32_ROUNDING = 2.0**-24
"""Changes smaller than this, relative to the largest value, are lost in float32: they count as no change."""

_AT_ONCE = 8192


def row(scheme: Scheme, position: int) -> Tensor:
    """The bias of the query at `position` and each key up to it, by rising offset: (H, position + 1).

    >>> from falloff import ALiBi
    >>> row(ALiBi(8), 2)[0]
    tensor([ 0.0000, -0.5000, -1.0000], dtype=torch.float64)
    """
    return scheme.dense(1, position + 1, dtype=torch.float64)[..., 0, :].flip(-1)


def column(scheme: Scheme, first: int, count: int) -> Tensor:
    """The bias of the queries at positions first .. first + count - 1 and key 0: (H, count). The offset is the position.

    >>> from falloff import ALiBi
    >>> column(ALiBi(8), 10, 2)[0]
    tensor([-5.0000, -5.5000], dtype=torch.float64)
    """
    parts = [
        scheme.dense(min(_AT_ONCE, first + count - start), 1, query_start=start, dtype=torch.float64)[..., 0]
        for start in range(first, first + count, _AT_ONCE)
    ]
    return torch.cat(parts, dim=-1)


def median(values: Tensor) -> float:
    """The median over all entries: the mean of the middle two if their number is even.

    >>> median(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    3.0
    """
    return values.double().quantile(0.5).item()
