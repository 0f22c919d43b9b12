"""Exercises in the terminal: `falloff exercise`."""

import random
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from falloff.cli.json_keys import print_json
from falloff.cli.printing import console
from falloff.cli.settings import Json
from falloff.exercises import (
    EXERCISES,
    PROPERTIES,
    Checked,
    Exercise,
    MatchExercise,
    PropertyExercise,
    ShareExercise,
    WrongBucketExercise,
    make_exercise,
)
from falloff.exercises.base import LARGEST_SEED
from falloff.schemes.settings import settings_of
from falloff.views.terminal import grid_view

_KINDS = tuple(EXERCISES)


def exercise(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help=f"{', '.join(_KINDS)}; by default the seed decides.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=LARGEST_SEED, help="Which exercise; by default a new one.", show_default=False),
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", help="Check this answer, and explain.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Set an exercise about a bias, or check an answer to it.

    grid: find the wrong bucket of a grid. match: give pairs of a query and a key their buckets. share: find the distance
    that shares a bucket with another. property: say whether a matrix is constant along diagonals, symmetric, monotone. A
    seed is the same exercise on every machine, and on the page of `falloff explore`: a teacher can hand it out.

    Exit status with --answer: 0 if it is right, 1 if it is wrong, 2 if it is no answer to the question.

    Keys of --json: kind, seed, question, rule, answer_form, shown (for grid: scheme, settings, cells, null if masked; for
    match: scheme, settings, pairs, buckets; for share: scheme, settings, distance, choices; for property: cells,
    properties), and with --answer: given, right, answer, explanation (lines); without, these are null.

    Example: falloff exercise grid --seed 1 --answer 4,0
    """
    if answer is not None and seed is None:
        raise ValueError("--answer: got no --seed, expected the seed of the exercise that this answers")
    seed = random.SystemRandom().randrange(100_000) if seed is None else seed
    kind = _KINDS[seed % len(_KINDS)] if kind is None else kind.lower()
    if kind not in EXERCISES:
        raise ValueError(f"KIND: got {kind!r}, expected one of {', '.join(_KINDS)}")
    asked = make_exercise(kind, seed)
    given = None if answer is None else _read(asked, answer)
    checked = None if answer is None else asked.check(given)
    if as_json:
        print_json(_keys(asked, given, checked))
    else:
        terminal = console()
        if checked is None:
            terminal.print(Group(*_question(asked, terminal.width)), soft_wrap=False)
        else:
            terminal.print(_verdict(checked))
    if checked is not None and not checked.right:
        raise typer.Exit(1)


def _read(asked: Exercise, answer: str) -> Any:
    try:
        return asked.read(answer)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def _question(asked: Exercise, width: int) -> Iterator[RenderableType]:
    yield Text(f"Exercise {asked.kind} {asked.seed}", style="bold")
    yield Text(asked.question)
    if isinstance(asked, PropertyExercise):
        yield from (Text(f"  {name}: {meaning}") for name, meaning in PROPERTIES.items())
    else:
        yield Text(f"Rule: {asked.rule}")
    yield Text()
    if isinstance(asked, WrongBucketExercise | PropertyExercise):
        yield grid_view(asked.grid, None, width, bare=True)
    elif isinstance(asked, MatchExercise):
        yield Text("\n".join(f"  query {query:>2}, key {key:>2}" for query, key in asked.pairs))
        yield Text(f"Buckets: {', '.join(map(str, asked.buckets))}")
    elif isinstance(asked, ShareExercise):
        yield Text(f"  {', '.join(map(str, asked.choices))}")
    yield Text()
    yield Text(f"Answer: falloff exercise {asked.kind} --seed {asked.seed} --answer {asked.answer_form}")


def _verdict(checked: Checked) -> RenderableType:
    word = ("Right.", "bold green") if checked.right else ("Wrong.", "bold red")
    return Group(Text(*word), *map(Text, checked.explanation))


def _keys(asked: Exercise, given: Any, checked: Checked | None) -> dict[str, Any]:
    return {
        "kind": asked.kind,
        "seed": asked.seed,
        "question": asked.question,
        "rule": asked.rule,
        "answer_form": asked.answer_form,
        "shown": _shown_keys(asked),
        "given": None if checked is None else _plain(given),
        "right": None if checked is None else checked.right,
        "answer": None if checked is None else _plain(asked.answer),
        "explanation": None if checked is None else list(checked.explanation),
    }


def _shown_keys(asked: Exercise) -> dict[str, Any]:
    if isinstance(asked, PropertyExercise):
        return {"cells": asked.grid.cells, "properties": PROPERTIES}
    assert isinstance(asked, WrongBucketExercise | MatchExercise | ShareExercise)
    about = {"scheme": asked.scheme.name, "settings": settings_of(asked.scheme)}
    if isinstance(asked, WrongBucketExercise):
        return {**about, "cells": asked.grid.cells}
    if isinstance(asked, MatchExercise):
        return {**about, "pairs": asked.pairs, "buckets": asked.buckets}
    return {**about, "distance": asked.distance, "choices": asked.choices}


def _plain(answer: Any) -> Any:
    return sorted(answer) if isinstance(answer, frozenset) else answer
