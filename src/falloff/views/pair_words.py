"""Pairs at one offset in words: whether the offset alone decides."""

from collections.abc import Sequence

from falloff.schemes.base import Scheme
from falloff.views.pairs import PairBias


def pair_words(scheme: Scheme, one: PairBias, other: PairBias) -> str:
    """What two pairs at the same offset show, for the head in which they differ most.

    >>> from falloff import ALiBi
    >>> from falloff.views.pairs import pair_bias
    >>> print(pair_words(ALiBi(1), pair_bias(ALiBi(1), 7, 3), pair_bias(ALiBi(1), 27, 23)))
    Key 3 lies 4 before query 7, and key 23 lies 4 before query 27. Both pairs get the same bias, -0.01562 in head 0: \
here the offset alone decides.
    """
    differences = _differences(one, other)
    head = differences.index(max(differences))
    said = (
        f"Key {one.key} lies {one.offset} before query {one.query}, and key {other.key} lies {other.offset} before query "
        f"{other.query}. "
    )
    a, b = one.values[head], other.values[head]
    if differences[head] <= 1e-9 * max(abs(a), abs(b)):
        return f"{said}Both pairs get the same bias, {a:.4g} in head {head}: here the offset alone decides{_below(scheme)}."
    return (
        f"{said}The offset is the same, the bias is not: {a:.4g} and {b:.4g} in head {head}. {_why(scheme)}"
        "So the matrix is not constant along its diagonals: it is not Toeplitz."
    )


def pairs_in_words(scheme: Scheme, pairs: Sequence[PairBias]) -> str:
    """What several pairs show, if all have one offset: the first of them, and the one that differs most from it.

    If none differs, it is the last. Nothing for a single pair.

    >>> from falloff import ALiBi
    >>> from falloff.views.pairs import pair_bias
    >>> pairs_in_words(ALiBi(1), [pair_bias(ALiBi(1), 7, 3), pair_bias(ALiBi(1), 9, 3)])
    'The offsets differ (4, 6): these pairs do not show whether the offset alone decides.'
    """
    offsets = sorted({pair.offset for pair in pairs})
    if len(offsets) > 1:
        return (
            f"The offsets differ ({', '.join(map(str, offsets))}): these pairs do not show whether the offset alone decides."
        )
    if len(pairs) < 2:
        return ""
    first, *others = pairs
    return pair_words(scheme, first, max(reversed(others), key=lambda other: max(_differences(first, other))))


def _differences(one: PairBias, other: PairBias) -> list[float]:
    return [abs(a - b) for a, b in zip(one.values, other.values, strict=True)]


def _below(scheme: Scheme) -> str:
    if scheme.toeplitz:
        return ""
    return ". The query's position begins to matter where it exceeds L (init_L)" if hasattr(scheme, "init_L") else ""


def _why(scheme: Scheme) -> str:
    if not hasattr(scheme, "init_L"):
        return ""
    return (
        "FIRE divides the distance by the query's position (both through a logarithm, and by no less than L): what is far "
        "for an early query is near for a late one. "
    )
