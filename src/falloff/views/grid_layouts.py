"""The layouts in which people write a grid: each turns a text into rows of cells, or says that it is not its own."""

import csv
import re
from collections.abc import Iterator

Rows = list[list[str]]

_LARGEST_CELL = 2**24
_RULER = re.compile(r"[\s|+:=\-\u2500-\u257f]*")  # with box drawings
_RULE = re.compile(r"--|==|:-|-:|\+-|-\+|[\u2500\u2501\u2550]")
_BAR = re.compile("[|\u2502\u2503\u2551\u00a6]")
_LABEL = re.compile(r"\([^()\s]{0,40}\)")
_FENCE = re.compile(r"\s*(```|~~~).*")
_CORNER = re.compile(r"\s*q(uery)? *\\ *k(ey)?(?=\s|$)")  # as `falloff show` prints it
_LATEX_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")
_LATEX_NOISE = re.compile(
    r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\}|\[[^\]]*\])*|\\(?:[hc]line(?:\{[^{}]*\})?|(?:top|mid|bottom)rule)"
    r"|\\(?:left|right|big)[\[\]().|]|\\[\[\]();,:! ]"
)
_LATEX_COMMENT = re.compile(r"(?<!\\)%.*")
_LATEX_BLANK = re.compile(r"[\s$~]+")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathbf|mathrm|texttt|textrm|mathit|boldsymbol)\{([^{}]*)\}")
_PYTHON_INFINITY = re.compile(
    r"float\(\s*['\"]-inf(?:inity)?['\"]\s*\)"
    r"|-\s*(?:float\(\s*['\"]inf(?:inity)?['\"]\s*\)|(?:np|numpy|math|torch)\.inf|Infinity\b)"
)
_PYTHON_WORD = re.compile(r"\b(?:None|null|masked)\b")
_INNERMOST = re.compile(r"\[([^\[\]]*)\]")


def layouts_of(text: str) -> Iterator[Rows]:
    """The rows of a text in every layout that it may have, the likeliest first.

    Raises:
        ValueError: for a text that cannot be read as CSV.

    >>> next(layouts_of("0 & X \\\\\\\\ 1 & 0"))
    [['0', 'X'], ['1', '0']]
    """
    for layout in (_latex, _brackets):
        rows = layout(text)
        if rows is not None:
            yield rows
            return
    yield from _lines(text)


def without_ornaments(text: str) -> str:
    """A text without code fences, rulers, and the corner that `falloff show` prints; in plain minus signs."""
    for dash in "\u2212\u2013\u2014\u2010\u2011":
        text = text.replace(dash, "-")
    lines = [_CORNER.sub("", line) for line in text.replace("\u00a0", " ").splitlines() if not _FENCE.fullmatch(line)]
    return "\n".join(line for line in lines if not (_RULER.fullmatch(line) and _RULE.search(line)))


def _latex(text: str) -> Rows | None:
    if "&" not in text and not (r"\begin{" in text and r"\\" in text):
        return None
    lines = _LATEX_ROW.split(_LATEX_COMMENT.sub("", text)) if r"\\" in text else text.splitlines()
    rows = []
    for line in lines:
        row = _LATEX_TEXT.sub(r"\1", _LATEX_NOISE.sub(" ", line))
        row = row.replace(r"\infty", "\u221e").replace(r"\times", "x").replace(r"\cdot", ".")
        rows.append([_LATEX_BLANK.sub("", cell) for cell in row.split("&")])
    return [row for row in rows if len(row) > 1 or row[0]]


def _brackets(text: str) -> Rows | None:
    """Lists of lists, with or without commas, as Python, numpy, torch and JSON write them, or `[0 X; 1 0]`."""
    if not re.match(r"\s*(?:\w+\s*=\s*)?(?:[\w.]+\()?\s*\[", text) or "]" not in text:
        return None
    text = _PYTHON_WORD.sub("X", _PYTHON_INFINITY.sub("-inf", text))
    inner = _INNERMOST.findall(text)
    if len(inner) == 1 and not text.lstrip().startswith("[["):
        return next(_lines(inner[0]), None)
    return [[cell.strip() for cell in row.rstrip(", ").split(",")] if "," in row else row.split() for row in inner]


def _lines(text: str) -> Iterator[Rows]:
    lines = [line for line in text.splitlines() if line.strip() or "\t" in line]
    by_semicolon = _rows_by_semicolon(lines)
    if by_semicolon is not None:
        yield [_cells(line) for line in by_semicolon]
        return
    if any(_BAR.search(line) for line in lines):
        yield from _one_line(lines)
        yield from _barred(lines)
        return
    yield _separated(lines)
    if all(_LABEL.match(line.strip()) for line in lines):
        yield from _after_positions([_cells(line) for line in lines])
    yield from _one_line(lines)


def _after_positions(rows: Rows) -> Iterator[Rows]:
    """Rows whose labels have been cut off, without the positions that they still start with: `(u) 1 1 0 X`."""
    if all(row and row[0] == str(place) for place, row in enumerate(rows)):
        yield [row[1:] for row in rows]


def _rows_by_semicolon(lines: list[str]) -> list[str] | None:
    """The rows of a text in which semicolons end rows; None if they do not: else they separate cells."""
    if not any(";" in line for line in lines):
        return None
    if len(lines) == 1:
        rows = [row for row in lines[0].split(";") if row.strip()]
        return rows if any(len(_cells(row)) > 1 for row in rows) else None
    *firsts, last = (line.strip() for line in lines)
    ended = all(line.endswith(";") and ";" not in line[:-1] for line in firsts)
    return [line.strip().rstrip(";") for line in lines] if ended and ";" not in last[:-1] else None


def _cells(line: str) -> list[str]:
    return _without_label([cell.strip() for cell in line.split(",")] if "," in line else line.split())


def _barred(lines: list[str]) -> Iterator[Rows]:
    """Rows with bars: between cells, as in Markdown, or between the label of a row and its cells, as in `(u) 1 | 1 0 X`."""
    pieces = [[piece.strip() for piece in _BAR.split(line)] for line in lines]
    rows = [_without_outer(row) for row in pieces]
    last = [row[-1].split() for row in rows]
    if (
        len(rows) > 1
        and all(len(row) == 2 for row in rows[1:])
        and len(rows[0]) <= 2
        and any(len(cells) > 1 for cells in last)
    ):
        yield last
    yield [_without_label(row) for row in rows]
    # The label is in the first piece, with the first cell: `(u) 1 | 0 | X`.
    yield [_without_label([*row[0].split(), *row[1:]]) for row in rows]


def _without_outer(row: list[str]) -> list[str]:
    """A row without the empty pieces outside bars at its ends."""
    if len(row) > 1 and not row[-1]:
        row = row[:-1]
    return row[1:] if len(row) > 2 and not row[0] else row


def _without_label(row: list[str]) -> list[str]:
    """A row without the label in parentheses that it starts with; a row of nothing else is one of labels."""
    if row and _LABEL.fullmatch(row[0]) and not all(map(_LABEL.fullmatch, row)):
        return row[1:]
    return row


def _separated(lines: list[str]) -> Rows:
    separator = next((mark for mark in (";", "\t", ",") if any(mark in line for line in lines)), None)
    if separator is None:
        return [_without_label(line.split()) for line in lines]
    csv.field_size_limit(_LARGEST_CELL)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, strict=True)]
    except csv.Error as error:
        raise ValueError(f"got text that cannot be read as CSV ({error}), expected a grid") from None
    return [_without_label(row) for row in rows]


def _one_line(lines: list[str]) -> Iterator[Rows]:
    """All rows in one line: they start at labels in parentheses, or else follow from how many cells there are."""
    if len(lines) != 1:
        return
    tokens = re.findall(r"\([^()\s]*\)|[^\s,;|]+|\|", _BAR.sub("|", lines[0]))
    starts = [place for place, token in enumerate(tokens) if _LABEL.fullmatch(token)]
    if starts:
        rows = [tokens[start + 1 : end] for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True)]
        yield from _rows_with_bars(rows)
        return
    cells = [token for token in tokens if token != "|"]
    side = int(len(cells) ** 0.5)
    if side**2 == len(cells) and side > 1:
        yield [cells[start : start + side] for start in range(0, len(cells), side)]


def _rows_with_bars(rows: Rows) -> Iterator[Rows]:
    """Rows whose labels have been cut off: `1 | 1 0 X` (position, bar, cells), or cells between bars."""
    if all(row[1:2] == ["|"] and "|" not in row[2:] for row in rows):
        yield [row[2:] for row in rows]
    cells = [[token for token in row if token != "|"] for row in rows]
    yield cells
    yield from _after_positions(cells)
