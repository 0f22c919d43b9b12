"""Looking at a bias: `falloff show` and `buckets`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from falloff.cli.json_keys import bucket_keys, print_json, shown_keys
from falloff.cli.printing import console, print_note, print_view
from falloff.cli.settings import (
    BucketList,
    Future,
    Head,
    Json,
    NumHeads,
    SchemeName,
    SchemeOrBuckets,
    Seed,
    Values,
    build_scheme,
    chosen_bias,
    textbook_note,
    with_settings,
)
from falloff.named import scheme_class
from falloff.schemes import SCHEMES, Scheme
from falloff.schemes.settings import settings_of, title_of
from falloff.views.buckets import Bucket, Bucketed, bucket_table
from falloff.views.figures import check_image_path, check_tokens, grid_figure, save_figure
from falloff.views.grids import BiasGrid, bias_grid, labelled
from falloff.views.terminal import bucket_view, grid_view, legend_view

_MOST_SHOWN = 512
_LARGEST_OFFSET = 2**53


@with_settings
def show(
    scheme: SchemeOrBuckets = None,
    length: Annotated[
        int | None, typer.Option("--length", min=1, max=_MOST_SHOWN, help="How many positions; 8, or as many as --tokens.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help='Labels of rows and columns: "u e r y", one for each position.')
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Write the figure to this file: .png, .svg or .pdf.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="The text of each cell: 'u_{bucket}' or 'q_{query}.k_{key}+u_{bucket}'; also {value}, {offset}.",
            show_default=False,
        ),
    ] = None,
    listed: BucketList = None,
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
    (rows of numbers, null if masked), labels (rows of texts, null without --labels), legend (list of bucket and ranges,
    each range with first and last, null if it never ends), image (file or null).

    A textbook's notation: --n-b 3 --dist-max 5 are four buckets, 0 .. 3.

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
    bias = chosen_bias(scheme, listed, num_heads, seed, settings)
    grid = bias_grid(bias, length or 8, head, values=values, future=future or None)
    if labels is not None:
        grid = _labelled(grid, labels)
    warned = [] if image is None else save_figure(grid_figure(grid, names), image)
    if as_json:
        print_json(shown_keys(bias, grid, names, image))
        return
    terminal = console()
    try:
        terminal.print(grid_view(grid, names, terminal.width), crop=False)
    except ValueError:
        if image is None:
            raise
        terminal.print(Text(grid.caption, style="bold"), legend_view(grid))  # the figure has room for the grid
    if image is not None:
        terminal.print(Text(f"\nWritten to {image}"), soft_wrap=True)
    for note in (textbook_note(settings), *warned):
        if note is not None:
            print_note(note)


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
        print_view(Text(f"offset {distance} has bucket {asked.bucket}: {asked.offsets}"))
    else:
        print_view(bucket_view(title_of(bias), table, bidirectional=bool(bias.future_reach)))
        note = textbook_note(settings)
        if note is not None:
            print_note(note)


def _printable(token: str) -> str:
    """The token without control characters, which could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in token)


def _bucket_of(bias: Scheme, table: list[Bucket], offset: int) -> Bucket:
    import torch

    assert isinstance(bias, Bucketed)
    return table[int(bias.bucket(torch.tensor(offset)))]


def _labelled(grid: BiasGrid, labels: str) -> BiasGrid:
    try:
        return labelled(grid, _printable(labels))
    except ValueError as error:
        raise ValueError(f"--{error}") from None
