"""Addition of numbers with more digits than were trained (Lee et al. 2023, Kazemnejad et al. 2023)."""

import numpy as np

from falloff.lab.tasks.base import Measure
from falloff.lab.tasks.problems import Problem, ProblemTask


class Addition(ProblemTask):
    """Two numbers of as many digits as fit, and their sum, all written from the lowest digit: 95 + 17 = 112 is "59+71=211".

    Written so (Lee et al. 2023), each digit of the sum needs two digits and the carry, which its predecessor tells; and a
    model that adds longer numbers than it was trained on has nothing to learn but where those two digits stand. Both numbers
    have n digits, zeros included, the sum n + 1. What n leaves of the length, at most two tokens, are spaces in front.

    A test asks the whole sum; exact match at a depth is of one digit, after the right ones before it. Its last digit, 0
    or 1, is asked too, but no depth is of it.
    """

    name = "addition"
    summary = (
        "addition of two numbers, written from the lowest digit, with more digits in longer problems; exact match of one "
        "digit of the sum after the right ones before it; depth: of that digit, 0 the lowest"
    )
    measures = (
        Measure("exact", "share of digits of the sum that are right", exponential=False, lower_is_better=False),
        Measure("whole", "share of sums right as a whole", exponential=False, lower_is_better=False),
    )
    least_length = 8

    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        size = digits(length)
        first, second = draw.integers(10, size=(2, size)).tolist()
        total, carry = [], 0
        for one, other in zip(first, second, strict=True):
            carry, digit = divmod(one + other + carry, 10)
            total.append(digit)
        written = "".join(map(str, [*first, "+", *second, "=", *total, carry]))
        tokens = written.rjust(length + 1).encode()
        begin = length - size
        return Problem(tokens, tuple(range(begin, length + 1)), depth, (begin + round(depth * (size - 1)),))

    @classmethod
    def chance(cls, length: int) -> float:
        """Of one who guesses a digit: all are equally likely."""
        return 1 / 10


def digits(length: int) -> int:
    """The digits of each number in a problem of this length.

    >>> digits(8), digits(64)
    (2, 20)
    """
    return (length - 2) // 3
