"""The bias of single pairs of query and key."""

from dataclasses import dataclass

import torch

from falloff.schemes.base import Scheme


@dataclass(frozen=True)
class PairBias:
    """The bias of one query and one key, by head."""

    query: int
    key: int
    values: tuple[float, ...]

    @property
    def offset(self) -> int:
        return self.query - self.key


def pair_bias(scheme: Scheme, query: int, key: int) -> PairBias:
    """The bias of the query and the key at these positions, of every head.

    >>> from falloff import ALiBi
    >>> pair_bias(ALiBi(2), 7, 3)
    PairBias(query=7, key=3, values=(-0.25, -0.015625))
    """
    with torch.no_grad():
        row = scheme.dense(1, max(query, key) + 1, query_start=query, dtype=torch.float64)[..., 0, :]
    return PairBias(query, key, tuple(row[:, key].tolist()))
