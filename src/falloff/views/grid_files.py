"""Reading a grid from a file: CSV or separated by blanks, with masked cells and labels."""

import csv
import re
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

_MASKED = {"", "x", "-"}
_NUMBER = re.compile(r"(?=.{1,40}$)[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)  # float never overflows
_MOST_BYTES = 2**23
_MOST_POSITIONS = 1024


@dataclass(frozen=True)
class WrittenNumber:
    """A number from a file, with the value of half a unit of its last written digit.

    >>> WrittenNumber.read("-0.25")
    WrittenNumber(value=-0.25, half_unit=0.005)
    """

    value: float
    half_unit: float

    @classmethod
    def read(cls, text: str) -> "WrittenNumber":
        number = Decimal(text)
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)  # the pattern lets no infinities through
        return cls(float(number), float(Decimal(5).scaleb(exponent - 1)))


WrittenGrid = tuple[tuple[WrittenNumber | None, ...], ...]


def read_grid(path: Path | str) -> WrittenGrid:
    """Read a square grid: one row of cells per line, separated by commas, semicolons, tabs or blanks.

    X, x, - or nothing is a masked cell. A first row or column of labels is ignored if it is recognisable: words (no number
    and no masked cell among them), along the top also the positions 0, 1, 2, ...; or any tokens, if they are the same along
    both edges. For a grid of one position, labels must be along both edges.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: for a file that is no square grid of numbers.
    """
    rows = _split(_read_text(Path(path)), str(path))
    _even_out(rows, str(path))
    edges = _label_edges(rows)
    if edges is None:
        raise ValueError(
            f"{path}: got {len(rows)} rows of {len(rows[0])} cells, expected a square: a row and a column for each position"
        )
    top, left = edges
    if len(rows) - top > _MOST_POSITIONS:
        raise ValueError(f"{path}: got a grid of {len(rows) - top} positions, expected at most {_MOST_POSITIONS}")
    for i, row in enumerate(rows[top:], start=top):
        for j, cell in enumerate(row[left:], start=left):
            if _is_text(cell):
                shown = cell if len(cell) <= 20 else cell[:20] + "..."
                raise ValueError(
                    f"{path}: row {i}, column {j} reads {shown!r}, expected a number, or X, - or nothing for a masked cell"
                )
    return tuple(tuple(None if _is_masked(cell) else WrittenNumber.read(cell) for cell in row[left:]) for row in rows[top:])


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{path}: got more than {_MOST_BYTES >> 20} MiB, expected a grid written as text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{path}: got binary data, expected a grid written as UTF-8 text")
    return text.replace("\u2212", "-")  # a typographer's minus


def _split(text: str, path: str) -> list[list[str]]:
    """The cells of every line that is not empty."""
    lines = [line for line in text.splitlines() if line.strip() or "\t" in line]
    if not text.strip():
        raise ValueError(f"{path}: got an empty file, expected a grid")
    separator = next((mark for mark in (";", "\t", ",") if mark in text), None)
    if separator is None:
        return [line.split() for line in lines]
    csv.field_size_limit(min(sys.maxsize, 2 * _MOST_BYTES))
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, strict=True)]
    except csv.Error as error:
        raise ValueError(f"{path}: got text that cannot be read as CSV ({error}), expected a grid") from None


def _even_out(rows: list[list[str]], path: str) -> None:
    """Check that all rows have the same length. If a header row lacks the corner cell, add it."""
    lengths = [len(row) for row in rows]
    if (
        set(lengths[1:]) == {len(rows)}
        and lengths[0] == len(rows) - 1
        and _label_both_edges(rows[0], [row[0] for row in rows[1:]])
    ):
        rows[0].insert(0, "")
        return
    for place, length in enumerate(lengths):
        if length != lengths[0]:
            raise ValueError(
                f"{path}: row {place} has {length} cells and row 0 has {lengths[0]}, expected as many in every row "
                "(write X for a masked cell)"
            )


def _label_edges(rows: list[list[str]]) -> tuple[int, int] | None:
    """How many rows at the top and columns on the left are labels; None if the rest is not square."""
    height, width = len(rows), len(rows[0])
    column = [row[0] for row in rows]
    if height == width:
        # Positions as labels are numbers, as cells are: only an empty corner, or text in it, shows that they are labels.
        corner = rows[0][0] == "" or _is_text(rows[0][0])
        return (1, 1) if corner and _label_both_edges(rows[0][1:], column[1:]) else (0, 0)
    if height == width + 1 and width > 1 and (_are_words(rows[0]) or _are_positions(rows[0])):
        return 1, 0
    # Numbers along the left edge alone are no labels: a grid of buckets without its last row also begins with 0, 1, 2.
    if width == height + 1 and height > 1 and _are_words(column):
        return 0, 1
    return None


def _label_both_edges(top: list[str], left: list[str]) -> bool:
    """Whether both edges label the same positions: by the same tokens, or by words on one edge and positions on the other.

    For a single position, only the same token counts: "hello" above "world 1" is no grid.
    """
    if top == left:
        return any(map(_is_text, top)) or (len(top) > 0 and _are_positions(top))
    mixed = (_are_words(top) and _are_positions(left)) or (_are_positions(top) and _are_words(left))
    return len(top) > 1 and mixed


def _are_words(line: list[str]) -> bool:
    return all(map(_is_text, line))


def _are_positions(line: list[str]) -> bool:
    return line == [str(place) for place in range(len(line))]


def _is_masked(cell: str) -> bool:
    return cell.lower() in _MASKED


def _is_text(cell: str) -> bool:
    return not _is_masked(cell) and _NUMBER.fullmatch(cell) is None
