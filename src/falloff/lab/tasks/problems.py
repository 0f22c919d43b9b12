"""What the tasks beside language modelling share: problems whose answers are right or wrong."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from falloff.lab.tasks.base import IGNORED, Measure, Outcome, Predict, Task
from falloff.shapes import Int

if TYPE_CHECKING:
    from falloff.lab.config import Settings
    from falloff.lab.progress import Progress
    from falloff.lab.text.corpus import Text

PAD = 0
"""The byte that follows a training problem shorter than the trained length."""
LEVELS = 8
"""The depths that are tested, evenly from 0 to 1."""

_TEST = 1  # the last of the integers that determine a test problem


@dataclass(frozen=True)
class Problem:
    """A problem with its answer.

    Args:
        tokens: one byte more than its length; the answer is among them.
        answer: the places in `tokens`, rising and none of them 0, that are to be predicted from what stands before them.
        depth: 0 .. 1, by which tests are grouped: the `summary` of a task says of what.
        tested: those of the places that the depth is of; None for all of them.
    """

    tokens: bytes
    answer: tuple[int, ...]
    depth: float
    tested: tuple[int, ...] | None = None


class ProblemTask(Task):
    """A task of problems with one right answer each, scored by exact match.

    Tokens are bytes. A problem of length N has N + 1 tokens: N inputs, and N targets, one place further. So all test
    problems of one length have one shape.

    An answer is right if each of its tokens is the most probable one after the right tokens before it. That is so if and
    only if greedy decoding gives the answer: up to the first wrong token, both see the same tokens. So a test takes one call
    of the model, and no loop.

    Training problems have sizes up to the trained length, since a model that sees one size alone may learn absolute places.
    `PAD` follows a short one. It is never asked, and a causal model does not see it before the answer.
    """

    needs_text = False
    vocabulary = 256
    measures: tuple[Measure, ...] = (
        Measure("exact", "share of problems answered exactly", exponential=False, lower_is_better=False),
    )
    least_length: ClassVar[int]
    """Of a problem."""

    def __init__(self, settings: Settings, text: Text | None) -> None:
        super().__init__(settings, text)
        if settings.train_length < self.least_length:
            raise ValueError(
                f"train_length: got {settings.train_length}, expected at least {self.least_length} for the task {self.name}"
            )

    @abstractmethod
    def problem(self, draw: np.random.Generator, length: int, depth: float) -> Problem:
        """A problem of this length and depth, as it is tested."""

    def exercise(self, draw: np.random.Generator, longest: int) -> Problem:
        """A problem to train on, of any depth, and any length up to the longest; it may ask more than a test."""
        return self.problem(draw, int(draw.integers(self.least_length, longest + 1)), draw.random())

    @classmethod
    @abstractmethod
    def chance(cls, length: int) -> float:
        """The share of problems of this length that are answered exactly by guessing: each task says what is known."""

    def training_item(self, seed: int, index: int) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
        longest = self.settings.train_length
        return as_tensors(self.exercise(np.random.default_rng((seed, index)), longest), longest)

    def test_problem(self, length: int, index: int) -> Problem:
        """Test problem `index` of this length: the same for every scheme and seed."""
        # numpy fills up with zeros what has fewer than four integers: so no training item has these random numbers.
        draw = np.random.default_rng((zlib.crc32(self.name.encode()), length, index, _TEST))
        return self.problem(draw, length, index % LEVELS / (LEVELS - 1))

    def test(self, predict: Predict, progress: Progress) -> list[Outcome]:
        settings = self.settings
        outcomes = []
        for length in settings.lengths:
            problems = [self.test_problem(length, index) for index in range(settings.windows)]
            rights = []
            for part in self.batches(length, progress):
                pairs = (as_tensors(problem, length) for problem in problems[part])
                inputs, targets = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
                rights.append(predict.right(inputs, targets))
            right = torch.cat(rights)
            depths = tuple(problem.depth for problem in problems)
            tested = [problem.answer if problem.tested is None else problem.tested for problem in problems]
            outcomes.append(Outcome("exact", length, _solved(right, tested), depths))
            if len(self.measures) > 1:
                outcomes.append(Outcome("whole", length, _solved(right, [problem.answer for problem in problems])))
        return outcomes

    def counts(self) -> dict[int, int]:
        return dict.fromkeys(self.settings.lengths, self.settings.windows)


def as_tensors(problem: Problem, length: int) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """The inputs and targets of a problem, filled up to `length` by `PAD`.

    >>> as_tensors(Problem(b"a=a", (2,), 0.0), 4)
    (tensor([97, 61, 97,  0]), tensor([-100,   97, -100, -100]))
    """
    tokens = torch.tensor([*problem.tokens.ljust(length + 1, bytes([PAD]))])
    targets = torch.full_like(tokens, IGNORED)
    answer = torch.tensor(problem.answer)
    targets[answer] = tokens[answer]
    return tokens[:-1], targets[1:]


def _solved(right: Tensor, places: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    """1.0 for each problem that is right at all of its places, else 0.0. A token is predicted one place before its own."""
    return tuple(float(all(row[place - 1] for place in asked)) for row, asked in zip(right.tolist(), places, strict=True))
