"""Associative recall (Ba et al. 2016; with many queries, Arora et al. 2023): pairs of key and value, then a key."""

import numpy as np

from falloff.lab.tasks.problems import Problem, ProblemTask

KEYS = b"abcdefgh"
VALUES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FILLER = b"."

_MOST_FILLER = 0.5  # of a training problem: with more, few values are asked, and training is slow


class Recall(ProblemTask):
    """Eight pairs, scattered in filler, then one of the keys: its value is asked.

    Key and value of a pair stand side by side. Values are distinct, so that one who knows them all without knowing whose
    they are is right once in eight times. However long a problem is, it has eight pairs: only distances grow.

    In training, the pairs of two to eight keys come again and again in random order, and the value is asked from the second
    time on.
    """

    name = "recall"
    summary = (
        "associative recall: one of eight pairs of key and value, scattered in filler; depth: where the asked pair stands"
    )
    least_length = 8

    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        room = length - 1
        count = _pairs(length)
        asked, *others = _drawn(draw, count)
        units = [*others, *[FILLER] * (room - 2 * count)]
        draw.shuffle(units)
        before, tokens = round(depth * (room - 2)), b""
        while len(tokens) < before:
            tokens += units.pop()
        return Problem(tokens + asked + b"".join(units) + asked, (length,), depth)

    def exercise(self, draw: np.random.Generator, longest: int) -> Problem:
        filler = int(draw.integers(round(_MOST_FILLER * (longest - 5)) + 1))
        pairs = (longest + 1 - filler) // 2
        # Fewer keys than pairs, so that a key comes twice.
        known = _drawn(draw, int(draw.integers(2, min(len(KEYS), pairs - 1) + 1)))
        units = [known[index] for index in draw.integers(len(known), size=pairs)] + [FILLER] * (longest + 1 - 2 * pairs)
        draw.shuffle(units)
        tokens = b"".join(units)
        asked = tuple(place for place, token in enumerate(tokens) if token in VALUES and token in tokens[:place])
        return Problem(tokens, asked, 0.0)

    @classmethod
    def chance(cls, length: int) -> float:
        """Of one who knows the values of a problem, but not whose they are."""
        return 1 / _pairs(length)


def _pairs(length: int) -> int:
    return min(len(KEYS), (length - 1) // 2)


def _drawn(draw: np.random.Generator, count: int) -> list[bytes]:
    """Pairs of distinct keys and distinct values."""
    keys, values = draw.permutation(len(KEYS))[:count], draw.permutation(len(VALUES))[:count]
    return [bytes((KEYS[key], VALUES[value])) for key, value in zip(keys, values, strict=True)]
