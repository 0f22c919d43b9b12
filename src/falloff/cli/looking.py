"""Looking at a bias: `falloff show`, `buckets`, `check` and `explain`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from falloff.cli.json_keys import bucket_keys, explained_keys, print_json, shown_keys
from falloff.cli.settings import (
    Head,
    Json,
    NumHeads,
    SchemeName,
    Seed,
    build_scheme,
    is_random,
    with_settings,
)
from falloff.named import scheme_class
from falloff.schemes import SCHEMES, Scheme
from falloff.schemes.settings import settings_of, title_of
from falloff.views.buckets import Bucket, Bucketed, bucket_table
from falloff.views.checks import check_grid
from falloff.views.content import refuse_without_content
from falloff.views.explanations import explanation_view
from falloff.views.figures import check_image_path, check_tokens, grid_figure, save_figure
from falloff.views.grid_files import read_grid
from falloff.views.grids import bias_grid
from falloff.views.properties import scheme_properties
from falloff.views.terminal import bucket_view, check_view, grid_view, legend_view

_MOST_SHOWN = 512
_LARGEST_OFFSET = 2**53

Values = Annotated[bool, typer.Option("--values", help="Show the bias itself, also for a scheme with buckets.")]
Future = Annotated[bool, typer.Option("--future", help="Show keys in the future too, as --bidirectional always does.")]


def _file(name: str) -> Path:
    if not name.strip():
        raise typer.BadParameter(f"got {name!r}, expected a file (is a shell variable unset?)")
    return Path(name)


@with_settings
def show(
    scheme: SchemeName,
    length: Annotated[
        int | None, typer.Option("--length", min=1, max=_MOST_SHOWN, help="How many positions; 8, or as many as --tokens.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help='Labels of rows and columns: "u e r y", one for each position.')
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Write the figure to this file: .png, .svg or .pdf.", show_default=False)
    ] = None,
    num_heads: NumHeads = 8,
    head: Head = 0,
    seed: Seed = 0,
    values: Values = False,
    future: Future = False,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Show the grid of a bias: rows are queries, columns keys, masked cells blank.

    A cell shows its bucket; for a scheme without buckets, or with --values, the bias itself. A legend below explains the
    colours.

    Keys of --json: scheme, settings, num_heads, head, length, tokens (list or null), kind ("bucket" or "value"), cells
    (rows of numbers, null if masked), legend (list of bucket and ranges, each range with first and last, null if it
    never ends), image (file or null).

    Example: falloff show t5 --num-buckets 4 --max-distance 5 --length 6
    """
    if image is not None:
        check_image_path(image)
    names = None if tokens is None else [_printable(token) for token in tokens.split()]
    if names is not None:
        if not names:
            raise ValueError(f"--tokens: got {tokens!r}, expected at least one token")
        if len(names) > _MOST_SHOWN:
            raise ValueError(f"--tokens: got {len(names)} tokens, expected at most {_MOST_SHOWN}")
        length = len(names) if length is None else length
        check_tokens(names, length)
    bias = _bias(scheme, num_heads, seed, settings)
    grid = bias_grid(bias, length or 8, head, values=values, future=future or None)
    warned = [] if image is None else save_figure(grid_figure(grid, names), image)
    if as_json:
        print_json(shown_keys(bias, grid, names, image))
        return
    console = _console()
    try:
        console.print(grid_view(grid, names, console.width), crop=False)
    except ValueError:
        if image is None:
            raise
        console.print(Text(grid.caption, style="bold"), legend_view(grid))  # the figure has room for the grid
    if image is not None:
        console.print(Text(f"\nWritten to {image}"), soft_wrap=True)
    for warning in warned:
        console.print(Text(f"Note: {warning}", style="dim"), soft_wrap=True)


@with_settings
def buckets(
    scheme: SchemeName,
    distance: Annotated[
        int | None,
        typer.Option(
            "--distance",
            min=-_LARGEST_OFFSET,
            max=_LARGEST_OFFSET,
            help="Only the bucket of this offset, and all offsets that share it; negative for a key in the future.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """List each bucket of a scheme with its range of offsets.

    Keys of --json: scheme, settings, buckets (list of bucket and ranges, each range with first and last, null if it
    never ends; no ranges if the bucket is never used), distance (null, or an object with offset, bucket and ranges).

    Example: falloff buckets t5 --num-buckets 32 --max-distance 128 --distance 40
    """
    cls = scheme_class(scheme, "SCHEME")
    if not issubclass(cls, Bucketed):
        bucketed = " or ".join(name for name, known in SCHEMES.items() if issubclass(known, Bucketed))
        raise ValueError(f"SCHEME: got {cls.name!r}, expected one with buckets, as {bucketed}")
    bias = build_scheme(cls, 1, 0, settings)
    table = bucket_table(bias)
    asked = None if distance is None else _bucket_of(bias, table, distance)
    if as_json:
        found = None if asked is None else {"offset": distance, **bucket_keys(asked)}
        print_json(
            {
                "scheme": bias.name,
                "settings": settings_of(bias),
                "buckets": [bucket_keys(bucket) for bucket in table],
                "distance": found,
            }
        )
    elif asked is not None:
        _print(Text(f"offset {distance} has bucket {asked.bucket}: {asked.offsets}"))
    else:
        _print(bucket_view(title_of(bias), table, bidirectional=bool(bias.future_reach)))


@with_settings
def check(
    grid: Annotated[Path, typer.Argument(metavar="GRID", parser=_file, help="The file to check.", show_default=False)],
    scheme: Annotated[str, typer.Option("--scheme", help="What the grid should be.", show_default=False)],
    num_heads: NumHeads = 8,
    head: Head = 0,
    seed: Seed = 0,
    values: Values = False,
    future: Future = False,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Check a handwritten grid of buckets or values, and list each wrong cell.

    GRID has one row of cells per line, separated by commas, semicolons, tabs or blanks. X, x, - or nothing is a masked cell.
    A first row or column of labels is ignored if it is recognisable: words, along the top also the positions 0, 1, 2, or
    the same labels along both edges. A value is right if it is within half a unit of its last written digit: -0.3 means
    anything from -0.35 to -0.25.

    Exit status: 0 if all cells are right, 1 if a cell is wrong, 2 if the file cannot be read as a grid.

    Keys of --json: wrong (list of query, key, offset, found, expected; null for masked) and checked (how many cells,
    masked ones too).

    Example: falloff check GRID.csv --scheme t5 --num-buckets 4 --max-distance 5
    """
    bias = _bias(scheme, num_heads, seed, settings, argument="--scheme")
    written = read_grid(grid)
    expected = bias_grid(bias, len(written), head, values=values, future=future or None)
    wrong = check_grid(written, expected)
    checked = expected.length**2
    if as_json:
        print_json({"wrong": [dataclasses.asdict(cell) for cell in wrong], "checked": checked})
    else:
        _print(check_view(title_of(bias), wrong, checked, checked - len(expected.visible)))
    if wrong:
        raise typer.Exit(1)


@with_settings
def explain(
    scheme: SchemeName,
    trained_length: Annotated[
        int,
        typer.Option("--trained-length", min=2, max=16384, help="Show how the bias goes on beyond this length."),
    ] = 512,
    num_heads: NumHeads = 8,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Explain a scheme: formula, parameters, and properties computed from its values.

    A learned scheme has its initial values, which are random for most: see --seed.

    Keys of --json: scheme, kind, formula, paper, reading, settings, num_heads, seed, parameters (list of name, shape,
    count), num_parameters, and properties: null if the bias depends on content, else an object with toeplitz,
    not_toeplitz_from (row or null), rows_compared, monotone, falling_heads, rising_heads, bounded, lowest, highest,
    farthest (offset), sign_symmetric, future_constant, reach (offset or null), keys, mass (list of window, least, median,
    largest over heads), mass_reach (least, median, largest) and beyond (trained_length, length, verdict, before, after,
    same_offset, untrained_buckets).

    Example: falloff explain fire --trained-length 1024
    """
    cls = scheme_class(scheme, "SCHEME")
    bias = build_scheme(cls, num_heads, seed, settings)
    properties = None if bias.needs_content else scheme_properties(bias, trained_length)
    if as_json:
        print_json(explained_keys(bias, seed, properties))
        return
    start = ""
    if any(True for _ in bias.parameters()):
        start = f"random, seed {seed}" if is_random(cls, num_heads, settings) else "fixed"
    _print(explanation_view(bias, properties, start))


def _printable(token: str) -> str:
    """The token without control characters, which could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in token)


def _bias(scheme: str, num_heads: int, seed: int, settings: dict[str, Any], argument: str = "SCHEME") -> Scheme:
    cls = scheme_class(scheme, argument)
    refuse_without_content(cls, argument)
    return build_scheme(cls, num_heads, seed, settings)


def _bucket_of(bias: Scheme, table: list[Bucket], offset: int) -> Bucket:
    import torch

    assert isinstance(bias, Bucketed)
    return table[int(bias.bucket(torch.tensor(offset)))]


def _console() -> Console:
    return Console(highlight=False)


def _print(view: RenderableType) -> None:
    _console().print(view)
