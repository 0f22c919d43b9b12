"""Reading a grid from a file, or from standard input."""

import sys
from pathlib import Path

from falloff.views.grid_text import parse_grid
from falloff.views.written import WrittenGrid

_MOST_BYTES = 2**23


def read_grid(path: Path | str) -> WrittenGrid:
    """Read a square grid from a file, in any layout of `parse_grid`; `-` is standard input.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: for a file that is no square grid of numbers.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        return parse_grid(_text(_bytes(path)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _bytes(path: Path | str) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(_MOST_BYTES + 1)
    with Path(path).open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def _text(data: bytes) -> str:
    if len(data) > _MOST_BYTES:
        raise ValueError(f"got more than {_MOST_BYTES >> 20} MiB, expected a grid written as text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("got binary data, expected a grid written as UTF-8 text") from None
