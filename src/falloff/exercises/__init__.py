"""Exercises about a bias: four kinds, random by seed, each with its question, its answer, and a check that explains.

Nothing here prints or draws: the terminal (`falloff exercise`) and the page (`falloff explore`) show the same exercises. The
same kind and seed give the same exercise on every machine.
"""

from falloff.exercises.base import Checked, Exercise
from falloff.exercises.grid import WrongBucketExercise
from falloff.exercises.match import MatchExercise
from falloff.exercises.property import PROPERTIES, PropertyExercise
from falloff.exercises.share import ShareExercise

EXERCISES: dict[str, type[Exercise]] = {
    kind.kind: kind for kind in (WrongBucketExercise, MatchExercise, ShareExercise, PropertyExercise)
}
"""Every kind of exercise by its name."""


def make_exercise(kind: str, seed: int) -> Exercise:
    """The exercise of a kind and a seed.

    Args:
        kind: one of `EXERCISES`: grid, match, share or property.
        seed: 0 .. 2^32 - 1.

    Raises:
        ValueError: for an unknown kind, or a seed out of range.

    >>> exercise = make_exercise("share", 1)
    >>> exercise.check(exercise.answer).right
    True
    """
    if kind not in EXERCISES:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(EXERCISES)}")
    return EXERCISES[kind].from_seed(seed)


__all__ = [
    "EXERCISES",
    "PROPERTIES",
    "Checked",
    "Exercise",
    "MatchExercise",
    "PropertyExercise",
    "ShareExercise",
    "WrongBucketExercise",
    "make_exercise",
]
