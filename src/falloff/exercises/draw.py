"""Random choices that are the same on every machine and with every version of Python."""

import random
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Draw:
    """Random choices from a word.

    Of the module `random`, only the numbers of `random()` are promised to stay the same between versions: everything is
    made of them.

    >>> Draw("grid 0").between(1, 6) == Draw("grid 0").between(1, 6)
    True
    """

    def __init__(self, word: str) -> None:
        self._random = random.Random(word)

    def between(self, first: int, last: int) -> int:
        """A whole number from `first` to `last`, both included."""
        return first + int(self._random.random() * (last - first + 1))

    def one_of(self, choices: Sequence[_T]) -> _T:
        """One of several."""
        return choices[self.between(0, len(choices) - 1)]

    def some_of(self, choices: Sequence[_T], count: int) -> list[_T]:
        """That many different ones, in random order."""
        left = list(choices)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(count)]
