"""Passkey retrieval (Mohtashami and Jaggi 2023): a number hidden in text that says nothing, asked at the end."""

import math

import numpy as np

from falloff.lab.tasks.problems import Problem, ProblemTask

FILLER = b"the grass is green. the sky is blue. the sun is yellow. here we go. there and back again. "
"""The sentences of the paper."""
DIGITS = 4

_SENTENCES = [place for place in range(len(FILLER)) if place == 0 or FILLER[place - 2 : place] == b". "]  # where they begin
_SAID = b"key "


class Passkey(ProblemTask):
    """ "key 4711 " between sentences that come again and again; at the end "key ", after which the number is asked.

    The text before the key begins within a sentence, and that after it ends within one, as room is left. The four digits are
    distinct, so that one who knows them without their order is right once in 24 times. The filler has no digits.
    """

    name = "passkey"
    summary = "passkey retrieval: a number of four digits hidden in filler text, asked at the end; depth: where it stands"
    least_length = 2 * (len(_SAID) + DIGITS)

    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        key = bytes(b"0123456789"[digit] for digit in draw.permutation(10)[:DIGITS])
        hidden, asked = _SAID + key + b" ", _SAID + key
        room = length + 1 - len(hidden + asked)
        before = round(depth * room)
        start = int(draw.choice(_SENTENCES))
        text = FILLER * (room // len(FILLER) + 2)
        ends = len(text) - len(FILLER) + start
        tokens = text[ends - before : ends] + hidden + text[start : start + room - before] + asked
        return Problem(tokens, tuple(range(length + 1 - DIGITS, length + 1)), depth)

    @classmethod
    def chance(cls, length: int) -> float:
        """Of one who knows the digits, but not their order."""
        return 1 / math.factorial(DIGITS)
