"""Protocols: how windows of a test length are cut from held-out text, and which of their tokens count.

Papers differ in this, and their numbers cannot be compared across protocols: a token with little context before it is harder
to predict, and each protocol has another share of such tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]

DEFAULT_PROTOCOL = "last-k"


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Args:
        words: what it does, for a reader of its numbers.
        measures: what is computed from its windows: "tail", over the last k tokens of each, and "all", over all of them.
        source: papers that test so.
    """

    words: str
    measures: tuple[str, ...]
    source: str


PROTOCOLS = {
    "last-k": Protocol(
        "windows of all lengths end at the same places, spread over the held-out text; the last k tokens of each are the "
        "same tokens at every length, and only the context before them differs",
        ("tail", "all"),
        "Sandwich (Chi et al. 2023) and its successors score the end of a window",
    ),
    "non-overlapping": Protocol(
        "one stretch of the held-out text, cut into windows that follow one another; all tokens count, so that the first "
        "ones of each window have little context, and longer windows have fewer such tokens",
        ("all",),
        "ALiBi (Press et al. 2022), its first kind of evaluation",
    ),
    "sliding": Protocol(
        "a window moves over one stretch of the held-out text by k tokens at a time, and the k last ones of each window "
        "count: every token of the stretch counts once, with nearly a full window before it",
        ("tail",),
        "ALiBi (Press et al. 2022), its second kind of evaluation; Press et al. 2021",
    ),
}
"""Every protocol by its name on the command line."""


@dataclass(frozen=True)
class Windows:
    """The windows of one length.

    Args:
        ends: of each, one after its last target; the window predicts the `length` tokens before it.
        overlap: neighbouring windows that share tokens: their mean counts as one observation of all tokens.
    """

    ends: Indices
    overlap: int


def least_tokens(protocol: str, lengths: Sequence[int], tail: int, windows: int) -> int:
    """The fewest tokens of held-out text from which as many windows can be cut at every length.

    >>> [least_tokens(protocol, (64, 512), 64, 8) for protocol in PROTOCOLS]
    [961, 4097, 961]
    """
    if protocol == "non-overlapping":
        return 1 + windows * max(lengths)
    return 1 + max(lengths) + (windows - 1) * tail


def cut(protocol: str, lengths: Sequence[int], tail: int, windows: int, size: int) -> dict[int, Windows]:
    """The windows of each length in a held-out text of `size` tokens: at most `windows` of the longest length.

    >>> cut("last-k", (64, 512), 64, 8, 961)[64].ends
    array([513, 577, 641, 705, 769, 833, 897, 961])
    >>> cut("non-overlapping", (256, 512), 64, 8, 2000)[256].ends
    array([ 257,  513,  769, 1025, 1281, 1537])
    >>> cut("sliding", (64, 512), 32, 3, 2000)[64].ends
    array([513, 545, 577])
    """
    longest = max(lengths)
    if protocol == "non-overlapping":
        stretch = min(windows, (size - 1) // longest) * longest
        return {length: Windows(1 + length * np.arange(1, stretch // length + 1), 1) for length in lengths}
    count = min(windows, (size - longest - 1) // tail + 1)
    spacing = tail if protocol == "sliding" else (size - longest - 1) // max(count - 1, 1)
    ends = 1 + longest + spacing * np.arange(count)
    return {length: Windows(ends, -(-length // spacing)) for length in lengths}
