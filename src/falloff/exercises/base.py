"""What every exercise has: a question, an answer, and a check that explains."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from falloff.exercises.draw import Draw
from falloff.offsets import check_count

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Checked:
    """Whether an answer is right, and why: lines that name the offset and the rule.

    The explanation gives the solution, whether the answer is right or wrong.
    """

    right: bool
    explanation: tuple[str, ...]


@dataclass(frozen=True)
class Exercise(ABC):
    """An exercise; its subclasses add what the question shows.

    Attributes:
        kind: its name: grid, match, share or property.
        answer_form: how an answer is written, for `read`.
        seed: what it was drawn with.
        question: the task in words.
        rule: the rule to apply, in one line.
        answer: the right answer, as `check` takes it.
    """

    kind: ClassVar[str]
    answer_form: ClassVar[str]

    seed: int
    question: str
    rule: str
    answer: Any

    @classmethod
    def from_seed(cls, seed: int) -> "Exercise":
        """The exercise of this seed.

        Raises:
            ValueError: for a seed outside 0 .. 2^32 - 1.
        """
        check_count("seed", seed, 0)
        if seed > LARGEST_SEED:
            raise ValueError(f"seed: got {seed}, expected at most {LARGEST_SEED}")
        return cls.drawn(seed, Draw(f"{cls.kind} {seed}"))

    @classmethod
    @abstractmethod
    def drawn(cls, seed: int, draw: Draw) -> "Exercise":
        """The exercise that these random numbers give."""

    @abstractmethod
    def read(self, text: str) -> Any:
        """The answer that a person has written, as `check` takes it.

        Raises:
            ValueError: for a text that is no answer to this question.
        """

    @abstractmethod
    def check(self, answer: Any) -> Checked:
        """Whether an answer is right, with an explanation.

        Raises:
            ValueError: for what is no answer to this question, such as a cell outside the grid.
        """


def whole_numbers(text: str, expected: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas or blanks.

    >>> whole_numbers("4, 1", "QUERY,KEY")
    (4, 1)
    """
    words = text.replace(",", " ").split()
    if not words or any(len(word) > 9 or not word.isascii() or not word.removeprefix("-").isdigit() for word in words):
        raise ValueError(f"answer: got {text!r}, expected {expected}")
    return tuple(map(int, words))
