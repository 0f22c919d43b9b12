"""Checking what is written by hand: `falloff check` and `match`."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from falloff.cli.json_keys import print_json
from falloff.cli.printing import print_note, print_view
from falloff.cli.settings import (
    BucketList,
    Future,
    Head,
    Json,
    NumHeads,
    SchemeOption,
    Seed,
    Values,
    chosen_bias,
    textbook_note,
    with_settings,
)
from falloff.schemes.settings import settings_of, title_of
from falloff.views.buckets import Bucketed
from falloff.views.checks import check_grid, row_shifts
from falloff.views.grid_files import read_grid
from falloff.views.grids import bias_grid
from falloff.views.reasons import bucket_reason, bucket_rule
from falloff.views.terminal import check_view, match_view

_PAIR = re.compile(r"(\d{1,9}) *[,:] *(\d{1,9})", re.ASCII)
_MOST_PAIRS = 1000


def _file(name: str) -> Path:
    if not name.strip():
        raise typer.BadParameter(f"got {name!r}, expected a file (is a shell variable unset?)")
    return Path(name)


@with_settings
def check(
    grid: Annotated[
        Path,
        typer.Argument(metavar="GRID", parser=_file, help="The file to check; - is standard input.", show_default=False),
    ],
    scheme: SchemeOption = None,
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
    """Check a handwritten grid of buckets or values, and list each wrong cell.

    GRID is text as exercises and programs print it: one row of cells per line, separated by commas, semicolons, tabs, blanks
    or bars; with row labels such as (u) 1 |; a table of Markdown or LaTeX; a list of Python or numpy; a lower triangle; rows
    with semicolons between them; or all in one line. X, -, -inf, an infinity sign or nothing is a masked cell; u_2 is 2. A
    value is right if it is within half a unit of its last written digit: -0.3 means anything from -0.35 to -0.25.

    Exit status: 0 if all cells are right, 1 if a cell is wrong, 2 if the file cannot be read as a grid. Values that are all
    off by one number in each row are wrong cells too, but said to be so: softmax cancels it.

    Keys of --json: wrong (list of query, key, offset, found, expected; null for masked), checked (how many cells, masked
    ones too) and row_shifts (by how much each row is off, if it is by one number; else null).

    Example: falloff check GRID.csv --scheme t5 --num-buckets 4 --max-distance 5
    """
    bias = chosen_bias(scheme, listed, num_heads, seed, settings, argument="--scheme")
    written = read_grid(grid)
    expected = bias_grid(bias, len(written), head, values=values, future=future or None)
    wrong = check_grid(written, expected)
    shifts = row_shifts(written, expected) if wrong else None
    checked = expected.length**2
    if as_json:
        cells = [dataclasses.asdict(cell) for cell in wrong]
        print_json({"wrong": cells, "checked": checked, "row_shifts": shifts})
    else:
        print_view(check_view(title_of(bias), wrong, checked, checked - len(expected.visible), shifts))
        _note(settings)
    if wrong:
        raise typer.Exit(1)


@with_settings
def match(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS...", help="Pairs QUERY,KEY of positions, counted from 0: 9,4 12,0", show_default=False
        ),
    ],
    scheme: SchemeOption = None,
    listed: BucketList = None,
    as_json: Json = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Match pairs of a query and a key to their buckets, and say why.

    Keys of --json: scheme, settings, rule (in words), pairs (list of query, key, offset, bucket, reason).

    Example: falloff match 9,4 12,0 3,3 --scheme t5 --num-buckets 4 --max-distance 5
    """
    bias = chosen_bias(scheme, listed, 1, 0, settings, argument="--scheme")
    if not isinstance(bias, Bucketed):
        raise ValueError(f"--scheme: got {bias.name!r}, expected one with buckets, as t5")
    matched = [
        (query, key, int(bias.bucket(torch.tensor(query - key))), bucket_reason(bias, query - key))
        for query, key in _pairs(pairs)
    ]
    if as_json:
        keys = ("query", "key", "offset", "bucket", "reason")
        rows = [
            dict(zip(keys, (query, key, query - key, bucket, reason), strict=True)) for query, key, bucket, reason in matched
        ]
        print_json({"scheme": bias.name, "settings": settings_of(bias), "rule": bucket_rule(bias), "pairs": rows})
        return
    print_view(match_view(title_of(bias), bucket_rule(bias), matched))
    _note(settings)


def _note(settings: dict[str, Any]) -> None:
    note = textbook_note(settings)
    if note is not None:
        print_note(note)


def _pairs(words: list[str]) -> list[tuple[int, int]]:
    """Pairs as people write them: `9,4`, `(9, 4)`, `9:4`."""
    text = " ".join(words)
    found = _PAIR.findall(text)
    if not found or _PAIR.sub("", text).strip("() ,;").replace(")", "").replace("(", "").strip(" ,;"):
        raise ValueError(f"PAIRS: got {text[:40]!r}, expected pairs QUERY,KEY of positions, as 9,4 12,0")
    if len(found) > _MOST_PAIRS:
        raise ValueError(f"PAIRS: got {len(found)}, expected at most {_MOST_PAIRS}")
    return [(int(query), int(key)) for query, key in found]
