"""Explaining schemes: `falloff explain`."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from falloff.cli.json_keys import explained_keys, no_bias_keys, print_json
from falloff.cli.printing import print_view
from falloff.cli.settings import (
    Head,
    Json,
    SchemeNames,
    Seed,
    build_scheme,
    checked_settings,
    is_random,
    option_name,
    takes_of,
    with_settings,
)
from falloff.named import scheme_class
from falloff.schemes import Scheme
from falloff.views.comparison import compared
from falloff.views.explanations import comparison_view, explanation_view, no_bias_view, pairs_view
from falloff.views.no_bias import NO_BIASES, NoBias
from falloff.views.position_pairs import PositionPair, pair_biases, pairs_in_words
from falloff.views.properties import scheme_properties
from falloff.views.stored import stored_scheme

_PAIR = re.compile(r"\d{1,9},\d{1,9}", re.ASCII)
_MOST_SCHEMES = 32
_MOST_PAIRS = 100


@with_settings
def explain(
    schemes: SchemeNames,
    trained_length: Annotated[
        int,
        typer.Option("--trained-length", min=2, max=16384, help="Show how the bias goes on beyond this length."),
    ] = 512,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Take the values from this safetensors file: of a model, a scheme, or a run of falloff compare.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="The module in the checkpoint, where several fit.", show_default=False),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pairs",
            metavar="I,J...",
            help="Compare pairs of positions: 3,7 23,27. The later one is the query.",
            show_default=False,
        ),
    ] = None,
    head: Head = 0,
    num_heads: Annotated[
        int | None,
        typer.Option("--num-heads", min=1, max=128, help="How many heads the bias has: 8, or as many as in the checkpoint."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Explain a scheme: formula, parameters, and properties computed from its values; or several, side by side.

    It says what holds for every value of the parameters, and what for these: those of a checkpoint, or initial ones, which
    are random for most learned schemes (see --seed). Beside the schemes, rope and none are explained.

    Keys of --json: scheme, kind, formula, paper, reading, settings, num_heads, seed (null with a checkpoint), parameters
    (list of name, shape, count), num_parameters, and properties: null if the bias depends on content, else an object with
    toeplitz, not_toeplitz_from (row or null), rows_compared, monotone, falling_heads, rising_heads, bounded, lowest,
    highest, farthest (offset), sign_symmetric, future_constant, reach (offset or null), keys, mass (list of window, least,
    median, largest over heads), mass_reach (least, median, largest), beyond (trained_length, length, verdict, before, after,
    same_offset, untrained_buckets) and always (names of those that hold for every value of the parameters). With --pairs
    also head, pairs (list of query, key, offset, bias) and pairs_in_words. For several schemes: schemes, a list of these.

    Example: falloff explain fire --init-l 8 --pairs 3,7 23,27
    """
    names, positions = _names_and_pairs(schemes, pairs or [])
    if checkpoint is not None and len(names) > 1:
        raise ValueError(f"--checkpoint: got it with {len(names)} schemes, expected one scheme")
    if prefix is not None and checkpoint is None:
        raise ValueError("--prefix: got no --checkpoint, expected the file that it is in")
    shared = zip(names, _shared_out(names, settings), strict=True)
    explained = [_explained(name, num_heads, seed, own, checkpoint, prefix) for name, own in shared]
    if as_json:
        drawn = None if checkpoint is not None else seed
        objects = [_keys(found, drawn, trained_length, positions, head) for found, _ in explained]
        print_json(objects[0] if len(objects) == 1 else {"schemes": objects})
        return
    if len(explained) > 1:
        views = [comparison_view([compared(found, trained_length) for found, _ in explained], trained_length)]
    else:
        views = [_alone(*explained[0], trained_length)]
    for found, _ in explained:
        if positions and not isinstance(found, NoBias):
            biases, said = _pairs(found, positions, head)
            views.append(pairs_view(found.name, head, biases, said))
    for view in views:
        print_view(view)


def _alone(found: Scheme | NoBias, origin: str, trained_length: int) -> RenderableType:
    if isinstance(found, NoBias):
        return no_bias_view(found)
    properties = None if found.needs_content else scheme_properties(found, trained_length)
    return explanation_view(found, properties, origin)


def _names_and_pairs(words: list[str], pairs: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Names of schemes and pairs of positions; pairs that follow `--pairs I,J` come as arguments."""
    names = [word for word in words if not _PAIR.fullmatch(word)]
    if not names:
        raise ValueError("SCHEME: got nothing, expected a scheme, as t5")
    if len(names) > _MOST_SCHEMES:
        raise ValueError(f"SCHEME: got {len(names)}, expected at most {_MOST_SCHEMES}")
    given = [*pairs, *(word for word in words if _PAIR.fullmatch(word))]
    for pair in given:
        if not _PAIR.fullmatch(pair):
            raise ValueError(f"--pairs: got {pair[:40]!r}, expected pairs of positions, as 3,7 23,27")
    if len(given) > _MOST_PAIRS:
        raise ValueError(f"--pairs: got {len(given)}, expected at most {_MOST_PAIRS}")
    return names, [(int(first), int(second)) for first, second in (pair.split(",") for pair in given)]


def _explained(
    name: str, num_heads: int | None, seed: int, settings: dict[str, Any], checkpoint: Path | None, prefix: str | None
) -> tuple[Scheme | NoBias, str]:
    """What a name stands for, and where its values are from; empty if it has none."""
    no_bias = NO_BIASES.get(name.lower())
    if no_bias is not None:
        if checkpoint is not None:
            raise ValueError(f"--checkpoint: got it with {name}, expected a scheme with parameters")
        return no_bias, ""
    cls = scheme_class(name, "SCHEME")
    if checkpoint is not None:
        scheme, place = stored_scheme(checkpoint, cls, checked_settings(cls, settings), num_heads, prefix)
        return scheme, f"of {checkpoint.name}" + (f", {place}" if place else "")
    heads = num_heads or 8
    scheme = build_scheme(cls, heads, seed, settings)
    if not any(True for _ in scheme.parameters()):
        return scheme, ""
    return scheme, f"random, seed {seed}" if is_random(cls, heads, settings) else "fixed"


def _shared_out(names: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings for each of several schemes: those that it takes.

    Raises:
        ValueError: for a setting that none of them takes.
    """
    if len(names) == 1 and names[0].lower() not in NO_BIASES:
        return [settings]  # whatever it does not take is refused where it is made
    taken = [{} if name.lower() in NO_BIASES else takes_of(scheme_class(name, "SCHEME"), settings) for name in names]
    for setting in settings:
        if not any(setting in own for own in taken):
            raise ValueError(
                f"{option_name(setting)}: {' and '.join(names)} {'does' if len(names) == 1 else 'do'} not take it"
            )
    return taken


def _pairs(scheme: Scheme, positions: list[tuple[int, int]], head: int) -> tuple[list[PositionPair], str]:
    try:
        biases = pair_biases(scheme, positions, head)
    except ValueError as error:
        argument = str(error).partition(":")[0]
        raise ValueError(f"--{error}" if argument in ("head", "pairs") else str(error)) from None
    return biases, pairs_in_words(biases, scheme_properties(scheme))


def _keys(
    found: Scheme | NoBias, seed: int | None, trained_length: int, positions: list[tuple[int, int]], head: int
) -> dict[str, Any]:
    if isinstance(found, NoBias):
        return no_bias_keys(found)
    properties = None if found.needs_content else scheme_properties(found, trained_length)
    keys = explained_keys(found, seed, properties)
    if positions:
        biases, said = _pairs(found, positions, head)
        listed = [{"query": pair.query, "key": pair.key, "offset": pair.offset, "bias": pair.bias} for pair in biases]
        keys |= {"head": head, "pairs": listed, "pairs_in_words": said}
    return keys
