"""Grids, buckets, checks and explanations for the terminal, as rich renderables.

They are complete without colour, as in a pipe: colour only repeats the text.
"""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from falloff.views.buckets import Bucket
from falloff.views.checks import WrongCell
from falloff.views.grids import BiasGrid, Cell, format_value, value_format
from falloff.views.palette import GridColours, text_colour

_LONGEST_TOKEN = 12
_MOST_SEPARATE = 32  # a longer run of buckets with one offset each is printed as one line
_MOST_WRONG = 40


def grid_view(grid: BiasGrid, tokens: Sequence[str] | None, width: int, *, bare: bool = False) -> RenderableType:
    """A grid within `width` columns; it never wraps. `bare`: the cells alone, without colour, caption and legend.

    Raises:
        ValueError: for a grid that is too wide.
    """
    layout = _Layout(grid, tokens, roomy=True, coloured=not bare)
    if layout.width > width:
        layout = _Layout(grid, tokens, roomy=False, coloured=not bare)
    if layout.width > width:
        most = (width - layout.margin) // layout.cell_width
        raise ValueError(
            f"length: got {grid.length} positions, expected at most {most} in the {width} columns of this terminal: "
            "widen it (or set COLUMNS)" + ("" if bare else ", or write --image FILE")
        )
    if bare:
        return layout.text()
    return Group(Text(grid.caption, style="bold"), Text(), layout.text(), Text(), legend_view(grid))


def legend_view(grid: BiasGrid) -> RenderableType:
    """The legend of a grid's colours."""
    colours = GridColours(grid)
    if grid.kind == "value":
        low, high = colours.low, colours.high
        written = value_format([low, high])
        scale = Text(f"bias {format_value(low, written)} ")
        for step in range(24):
            scale.append(" ", Style(bgcolor=colours(low + (high - low) * step / 23)))
        masked = len(grid.visible) < grid.length**2
        return scale.append(f" {format_value(high, written)}" + ("    masked cells are blank" if masked else ""))
    digits = max(len(str(bucket.bucket)) for bucket in grid.legend)
    entries: list[RenderableType] = []
    for bucket in grid.legend:
        swatch = Text(f" {bucket.bucket:>{digits}} ", _on(colours(bucket.bucket)))
        entries.append(Text.assemble(swatch, f" bucket {bucket.bucket}: {bucket.offsets}"))
    shown = Group(*entries) if len(entries) <= 8 else Columns(entries, column_first=True, padding=(0, 3))
    if grid.unseen:
        return Group(shown, Text(f"{grid.unseen} more buckets hold only offsets beyond this grid", style="dim"))
    return shown


class _Layout:
    """The layout of a grid's cells: with space around each (`roomy`), or as narrow as possible."""

    def __init__(self, grid: BiasGrid, tokens: Sequence[str] | None, *, roomy: bool, coloured: bool) -> None:
        self.grid = grid
        self.coloured = coloured
        self.labels = grid.labels()
        positions = [str(place) for place in range(grid.length)]
        widest = max(cell_len(label) for row in self.labels for label in row)
        longest = 6 if roomy else 2
        self.columns = list(tokens or positions)
        self.content = max(widest, min(longest, max(map(cell_len, self.columns))), len(positions[-1]) if not tokens else 1)
        self.padding = " " if roomy else ""
        self.cell_width = self.content + (2 if roomy else 1)
        digits = len(positions[-1])
        self.rows = positions
        if tokens:
            room = min(max(map(cell_len, tokens)), _LONGEST_TOKEN - digits - 1)
            self.rows = [f"{place:>{digits}} {set_cell_size(token, room)}" for place, token in enumerate(tokens)]
        self.corner = "query \\ key" if roomy else "q \\ k"
        self.margin = max(*map(cell_len, self.rows), len(self.corner)) + 1
        self.width = self.margin + grid.length * self.cell_width

    def text(self) -> Text:
        colours = GridColours(self.grid)
        text = Text(no_wrap=True, overflow="ignore")
        text.append(self._left(self.corner), "dim")
        for name in self.columns:
            text.append(self._padded(name), "bold")
        for row, labels, name in zip(self.grid.cells, self.labels, self.rows, strict=True):
            text.append("\n" + self._left(name), "bold")
            seen = max((key for key, cell in enumerate(row) if cell is not None), default=-1)
            for cell, label in zip(row[: seen + 1], labels, strict=False):  # no blanks at the end of a line
                if not self.padding:
                    text.append(" ")
                content = self.padding + " " * (self.content - cell_len(label)) + label + self.padding
                text.append(content, _on(colours(cell)) if self.coloured and cell is not None else None)
        return text

    def _left(self, name: str) -> str:
        """A row's name, to the right of the margin."""
        return " " * (self.margin - 1 - cell_len(name)) + name + " "

    def _padded(self, name: str) -> str:
        """A column's name, above the last digit of its cells."""
        name = name if cell_len(name) <= self.content else set_cell_size(name, self.content)
        content = self.padding + " " * (self.content - cell_len(name)) + name + self.padding
        return content if self.padding else " " + content


def bucket_view(title: str, table: Sequence[Bucket], *, bidirectional: bool) -> RenderableType:
    """Every bucket with its offsets."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("bucket", justify="right")
    view.add_column("offsets")
    view.add_column("how many", justify="right")
    for first, last, offsets, count in _merged(table):
        unused = offsets == "never used"
        name = str(first) if first == last else f"{first}-{last}"
        view.add_row(name, offsets, count, style="dim" if unused else None)
    if bidirectional:
        note = "Negative offsets: the key lies in the future."
    else:
        note = "Keys in the future, where they are not masked, share the bucket of offset 0."
    return Group(Text(title, style="bold"), view, Text(note, style="dim"))


def _merged(table: Sequence[Bucket]) -> list[tuple[int, int, str, str]]:
    """Rows of the table: first and last bucket, offsets, count. A long run of buckets with one offset each is one row."""

    def run_of(entry: Bucket) -> tuple[str, int]:
        single = len(entry.ranges) == 1 and entry.ranges[0].first == entry.ranges[0].last
        first = entry.ranges[0].first if single else None
        return ("run", entry.bucket - first) if first is not None else ("own", entry.bucket)

    rows = []
    for (kind, _), entries in groupby(table, run_of):
        run = list(entries)
        if kind == "run" and len(run) > _MOST_SEPARATE:
            first, last = run[0].ranges[0].first, run[-1].ranges[0].last
            rows.append((run[0].bucket, run[-1].bucket, f"offsets {first} to {last}, one each", "1"))
            continue
        rows.extend((entry.bucket, entry.bucket, entry.offsets, _how_many(entry)) for entry in run)
    return rows


def _how_many(entry: Bucket) -> str:
    total = 0
    for part in entry.ranges:
        if part.first is None or part.last is None:
            return "unlimited"
        total += part.last - part.first + 1
    return str(total)


def check_view(
    title: str, wrong: Sequence[WrongCell], checked: int, masked: int, shifts: Sequence[float] | None = None
) -> RenderableType:
    """The wrong cells of a grid, or a line that there are none, or one that rows differ by constants (`shifts`)."""
    counted = f"{checked} cells checked ({checked - masked} visible, {masked} masked)"
    if not wrong:
        return Text.assemble(("Right: ", "bold green"), f"{counted}, all as in {title}")
    if shifts is not None:
        listed = ", ".join(f"{shift:+.4g}" for shift in shifts[:8]) + (", ..." if len(shifts) > 8 else "")
        return Text.assemble(
            ("The same up to a constant in each row: ", "bold yellow"),
            f"{counted} against {title}; {len(wrong)} differ, but each row by one number ({listed}), which softmax cancels",
        )
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("query", "key", "offset", "found", "expected"):
        view.add_column(name, justify="right")
    for cell in wrong[:_MOST_WRONG]:
        view.add_row(str(cell.query), str(cell.key), str(cell.offset), _cell(cell.found), _cell(cell.expected))
    parts: list[RenderableType] = [
        Text.assemble((f"{len(wrong)} wrong: ", "bold red"), f"{counted} against {title}"),
        view,
    ]
    if len(wrong) > _MOST_WRONG:
        parts.append(Text(f"{len(wrong) - _MOST_WRONG} more; --json lists them all", style="dim"))
    return Group(*parts)


def _cell(cell: Cell) -> str:
    return "masked" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _on(background: str) -> Style:
    return Style(color=text_colour(background), bgcolor=background)


def match_view(title: str, rule: str, matched: Sequence[tuple[int, int, int, str]]) -> RenderableType:
    """Pairs of a query and a key with their buckets, each with its reason: (query, key, bucket, reason)."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("query", "key", "offset", "bucket"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("why")
    for query, key, bucket, reason in matched:
        view.add_row(str(query), str(key), str(query - key), str(bucket), Text(reason))
    return Group(Text(title, style="bold"), Text(rule), view)
