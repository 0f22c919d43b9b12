"""The drawings of the page of the kernels, as SVG."""

import html
from collections.abc import Iterator

_INK, _GREY, _FAINT = "#222222", "#777777", "#dddddd"
_TEAL, _RED = "#00796b", "#b2182b"
_SCALE = ("#e0f2f1", "#b2dfdb", "#80cbc4", "#4db6ac", "#26a69a", "#00897b", "#00695c", "#004d40")


class Drawing:
    """Shapes in a box of white."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="system-ui, sans-serif"><title>{html.escape(title)}</title>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str) -> None:
        """A rectangle."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="{line}"/>')

    def text(
        self,
        x: float,
        y: float,
        said: str,
        size: float = 13,
        anchor: str = "start",
        fill: str = _INK,
        weight: str = "normal",
    ) -> None:
        """A line of text."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{fill}" '
            f'font-weight="{weight}">{html.escape(said)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> None:
        """A line."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
        )

    def cell(self, x: float, y: float, side: float, said: str, fill: str) -> None:
        """A square with a number."""
        self.box(x, y, side, side, fill, "#ffffff")
        dark = fill in _SCALE[4:]
        self.text(x + side / 2, y + side / 2 + 4, said, 12, "middle", "#ffffff" if dark else _INK)

    def svg(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def drawings() -> Iterator[tuple[str, str]]:
    """Every drawing with the name of its file."""
    yield "strip", _strip()
    yield "zones", _zones()
    yield "skipping", _skipping()
    yield "diagonals", _diagonals()
    yield "factored", _factored()


def _strip() -> str:
    d = Drawing(480, 352, "A strip in memory, and the tile of a bias as a view of it")
    side = 42
    d.text(16, 24, "The strip in memory, by falling offset", weight="bold")
    for place in range(8):
        d.cell(16 + place * side, 36, side, f"v{7 - place}", _SCALE[place])
        d.text(16 + (place + 0.5) * side, 94, str(place), 11, "middle", _GREY)
    d.text(362, 94, "place", 11, fill=_GREY)
    d.text(16, 128, "A tile: queries 3 to 6, keys 0 to 4", weight="bold")
    for row in range(4):
        y = 140 + row * side
        d.text(16, y + 26, f"query {3 + row}", 12, fill=_GREY)
        for column in range(5):
            offset = 3 + row - column
            if offset >= 0:
                d.cell(76 + column * side, y, side, f"v{offset}", _SCALE[7 - offset])
            else:
                d.box(76 + column * side, y, side, side, "#f5f5f5", "#ffffff")
                d.text(76 + (column + 0.5) * side, y + 25, "masked", 9, "middle", _GREY)
        d.text(300, y + 26, f"= from place {4 - row} on", 13)
    d.text(16, 340, "One row down, the view begins one number earlier.", 13, fill=_GREY)
    return d.svg()


def _zones() -> str:
    d = Drawing(480, 470, "The zones of the tiles of a causal grid with a T5 bias")
    far, middle, edge, hidden = "#cfd8dc", _SCALE[3], "#f0b96b", "#fafafa"
    side, count, reach = 27, 10, 3
    x0, y0 = 16, 40
    d.text(x0, 24, "Tiles of a head: queries down, keys across", weight="bold")
    for row in range(count):
        for column in range(count):
            fill = hidden if column > row else edge if column == row else middle if row - column <= reach else far
            d.box(x0 + column * side, y0 + row * side, side, side, fill, _FAINT if fill == hidden else "#ffffff")
    legend = [
        (far, "far", "every offset is beyond the reach: one number"),
        (middle, "middle", "the bias varies: a view of the strip"),
        (edge, "edge", "only here are offsets compared with 0"),
        (hidden, "not visited", "every key lies in the future"),
    ]
    for place, (fill, name, what) in enumerate(legend):
        y = y0 + count * side + 18 + place * 35
        d.box(x0, y, 22, 22, fill, _GREY)
        d.text(x0 + 32, y + 16, name, 14, weight="bold")
        d.text(x0 + 126, y + 16, what, 13)
    return d.svg()


def _skipping() -> str:
    d = Drawing(480, 330, "Certified skipping of key blocks")
    d.text(16, 24, "Key blocks of a query tile, nearest first", weight="bold")
    x0, base, width, bounds = 24, 236, 54, [18, 28, 42, 58, 80, 106, 130, 152]
    threshold = 68
    for block, bound in enumerate(bounds):
        x, kept = x0 + block * width, bound > threshold
        d.box(x, base - bound, width - 4, bound, _SCALE[3] if kept else "#e0e0e0", "#ffffff")
        said, ink = ("computed", _TEAL) if kept else ("skipped", _GREY)
        d.text(x + width / 2 - 2, base + 16, said, 10, "middle", ink)
    end = x0 + len(bounds) * width
    d.line(x0 - 8, base - threshold, end, base - threshold, _RED, 2, "6 4")
    d.text(x0, base - threshold - 10, "log_mass - 17.4 - ln M", 14, fill=_RED, weight="bold")
    d.text(x0, 60, "A bar is the bound of a block:", 13)
    d.text(x0, 78, "largest bias + |q| |k| |scale|", 13)
    d.line(x0, base, end, base, _INK)
    d.text(x0, base + 40, "far past", 13, fill=_GREY)
    d.text(end - 6, base + 40, "the query", 13, "end", _GREY)
    d.text(16, 298, "log_mass: forward, the row's running maximum;", 13, fill=_GREY)
    d.text(16, 316, "backward, its log-sum-exp.", 13, fill=_GREY)
    return d.svg()


def _diagonals() -> str:
    d = Drawing(480, 420, "The gradient of a strip is a sum along diagonals")
    side, count = 40, 4
    d.text(16, 24, "dS, the gradient of the scores (row, key)", weight="bold")
    for row in range(count):
        for column in range(row + 1):
            d.cell(16 + column * side, 36 + row * side, side, f"{row},{column}", _SCALE[row - column + 1])
    d.text(16, 226, "The gradient of the strip, by offset", weight="bold")
    for offset in range(count):
        y = 238 + offset * side
        d.cell(16, y, side, f"v{offset}", _SCALE[offset + 1])
        parts = " + ".join(f"dS({row},{row - offset})" for row in range(offset, count))
        d.text(66, y + 25, f"= {parts}", 13)
    return d.svg()


def _factored() -> str:
    d = Drawing(480, 560, "The bias of states and a table: a small product, read with another stride")
    side = 30
    d.text(16, 24, "States of 4 rows", weight="bold")
    for row in range(4):
        for r in range(3):
            d.box(16 + r * side, 36 + row * side, side, side, "#cfe0f5", "#ffffff")
    d.text(128, 100, "times", 13, "middle")
    d.text(160, 24, "the rows of the table that they meet", weight="bold")
    for place in range(8):
        for r in range(3):
            d.box(160 + place * side, 36 + r * side, side, side, _SCALE[place], "#ffffff")
        d.text(160 + (place + 0.5) * side, 142, str(7 - place), 12, "middle", _GREY)
    d.text(408, 142, "offset", 12, fill=_GREY)
    d.text(16, 194, "The product; each number at its offset", weight="bold")
    for row in range(4):
        d.text(16, 227 + row * side, f"row {row}", 12, fill=_GREY)
        for place in range(8):
            inside = 3 - row <= place < 8 - row
            _offset_cell(d, 70 + place * side, 206 + row * side, side, 7 - place if inside else None)
    d.text(16, 358, "Read one number earlier in each row: the tile", weight="bold")
    for row in range(4):
        d.text(16, 391 + row * side, f"row {row}", 12, fill=_GREY)
        for column in range(5):
            _offset_cell(d, 70 + column * side, 370 + row * side, side, 4 + row - column)
    for column in range(5):
        d.text(70 + (column + 0.5) * side, 508, str(column), 12, "middle", _GREY)
    d.text(230, 508, "key", 12, fill=_GREY)
    d.text(16, 544, "r rows and c keys meet r + c - 1 rows of the table.", 13, fill=_GREY)
    return d.svg()


def _offset_cell(d: Drawing, x: float, y: float, side: float, offset: int | None) -> None:
    """A cell of the product at this offset, 0 .. 7; grey where the tile does not use it."""
    if offset is None:
        d.box(x, y, side, side, "#f0f0f0", "#ffffff")
    else:
        d.cell(x, y, side, str(offset), _SCALE[7 - offset])
