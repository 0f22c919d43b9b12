"""Copying: a string of random letters, then the same string again."""

import numpy as np

from falloff.lab.tasks.base import Measure
from falloff.lab.tasks.problems import Problem, ProblemTask

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
SEPARATOR = b"="

_SHORTEST = 3  # letters of a string


class Copying(ProblemTask):
    """A string, "=", and the string again. Longer problems have longer strings: half of the length.

    Letters are drawn without replacement until none is left, then anew. So a letter comes again after 26 on average: in
    strings much longer than that, the letter before does not say which comes next, and a model needs more context or the
    place.

    In training, strings have 3 letters up to half the trained length and come again and again, so that more letters are
    asked. A test asks the whole second string; exact match at a depth is of the one letter there, after all the right ones
    before it.
    """

    name = "copy"
    summary = (
        "copying: a random string of half the length, then the same again; exact match of one letter after the right ones "
        "before it; depth: of that letter in the string"
    )
    measures = (
        Measure("exact", "share of letters copied right", exponential=False, lower_is_better=False),
        Measure("whole", "share of strings copied right as a whole", exponential=False, lower_is_better=False),
    )
    least_length = 2 * _SHORTEST + 2

    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        size = length // 2
        string = _string(draw, size)
        tokens = (SEPARATOR + string + SEPARATOR + string)[-length - 1 :]  # an odd length has room for one more separator
        first = length + 1 - size
        # The first letter follows the separator alone, so that nothing but its place tells it.
        asked = first + 1 + round(depth * (size - 2))
        return Problem(tokens, tuple(range(first, length + 1)), depth, (asked,))

    def exercise(self, draw: np.random.Generator, longest: int) -> Problem:
        size = int(draw.integers(_SHORTEST, longest // 2 + 1))
        tokens = (_string(draw, size) + SEPARATOR) * (longest // (size + 1) + 1)
        return Problem(tokens[: longest + 1], tuple(range(size + 1, longest + 1)), 0.0)

    @classmethod
    def chance(cls, length: int) -> float:
        """Of one who knows the letters of a string, but not their order."""
        return 1 / min(len(LETTERS), length // 2)


def _string(draw: np.random.Generator, size: int) -> bytes:
    drawn = [draw.permutation(len(LETTERS)) for _ in range(size // len(LETTERS) + 1)]
    return bytes(LETTERS[letter] for letter in np.concatenate(drawn)[:size])
