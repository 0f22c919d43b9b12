"""The bias of pairs of positions: whether pairs at the same offset have the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from falloff.schemes.base import Scheme
from falloff.views.content import refuse_without_content
from falloff.views.properties import Properties

LARGEST_POSITION = 2**17


@dataclass(frozen=True)
class PositionPair:
    """The bias of one head for a query and a key; the later position is the query, as in a causal model."""

    query: int
    key: int
    bias: float

    @property
    def offset(self) -> int:
        return self.query - self.key


def pair_biases(scheme: Scheme, pairs: Sequence[tuple[int, int]], head: int = 0) -> list[PositionPair]:
    """The bias of each pair of positions, of one head.

    Raises:
        ValueError: for a head or position out of range, or a bias that depends on content.

    >>> from falloff import ALiBi
    >>> [pair.bias for pair in pair_biases(ALiBi(8), [(3, 7), (27, 23)])]
    [-2.0, -2.0]
    """
    refuse_without_content(scheme)
    if not 0 <= head < scheme.num_heads:
        raise ValueError(f"head: got {head}, expected 0 .. {scheme.num_heads - 1}: the bias has {scheme.num_heads} heads")
    found = []
    with torch.no_grad():
        for pair in pairs:
            key, query = min(pair), max(pair)
            if key < 0 or query > LARGEST_POSITION:
                raise ValueError(f"pairs: got {pair[0]},{pair[1]}, expected positions from 0 to {LARGEST_POSITION}")
            bias = scheme.dense(1, query + 1, query_start=query, dtype=torch.float64)[head, 0, key]
            found.append(PositionPair(query, key, bias.item()))
    return found


def pairs_in_words(pairs: Sequence[PositionPair], properties: Properties) -> str:
    """What the pairs show: that the offset decides, or that the row does too.

    >>> from falloff import FIRE
    >>> from falloff.views.properties import scheme_properties
    >>> fire = FIRE(1, init_L=8)
    >>> pairs_in_words(pair_biases(fire, [(3, 7), (23, 27)]), scheme_properties(fire))
    'At the same offset 4 the biases differ: from row 9 on, the query position matters too.'
    """
    offsets = {pair.offset for pair in pairs}
    if len(pairs) < 2:
        return ""
    if len(offsets) > 1:
        listed = ", ".join(map(str, sorted(offsets)))
        return f"The offsets differ ({listed}), so these pairs tell nothing of whether the offset alone decides."
    (offset,) = offsets
    first = properties.not_toeplitz_from
    if first is None:
        return f"At the same offset {offset} the biases are equal: the offset alone decides."
    if max(pair.query for pair in pairs) < first:
        return (
            f"At the same offset {offset} the biases are equal, since both rows lie before row {first}: from there on, the "
            "query position matters too."
        )
    return f"At the same offset {offset} the biases differ: from row {first} on, the query position matters too."
