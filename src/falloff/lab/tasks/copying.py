"""Copying: a string of random letters, then the same string again."""

import numpy as np

from falloff.lab.tasks.base import Measure
from falloff.lab.tasks.problems import Problem, ProblemTask

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
SEPARATOR = b"="


class Copying(ProblemTask):
    """A string, "=", and the string again. Longer problems have longer strings: half of the length.

    Letters are drawn without replacement until none is left, then anew. So a letter comes again after 26 on average: in
    strings much longer than that, the letter before does not say which comes next, and a model needs more context or the
    place.

    The whole second string is asked; exact match at a depth is of the one letter there, after the right ones before it.
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
    least_length = 8

    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        size = length // 2
        string = _string(draw, size)
        tokens = (SEPARATOR + string + SEPARATOR + string)[-length - 1 :]  # an odd length has room for one more separator
        first = length + 1 - size
        # The first letter follows the separator alone, so that nothing but its place tells it.
        asked = first + 1 + round(depth * (size - 2))
        return Problem(tokens, tuple(range(first, length + 1)), depth, (asked,))

    @classmethod
    def chance(cls, length: int) -> float:
        """Of one who knows the letters of a string, but not their order."""
        return 1 / min(len(LETTERS), length // 2)


def _string(draw: np.random.Generator, size: int) -> bytes:
    drawn = [draw.permutation(len(LETTERS)) for _ in range(size // len(LETTERS) + 1)]
    return bytes(LETTERS[letter] for letter in np.concatenate(drawn)[:size])
