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
    d = Drawing(720, 350, "A strip in memory, and the tile of a bias as a view of it")
    side, offsets = 44, list(range(7, -1, -1))
    d.text(20, 28, "The strip in memory, by falling offset", weight="bold")
    for place, offset in enumerate(offsets):
        d.cell(20 + place * side, 40, side, f"v{offset}", _SCALE[7 - offset])
    d.text(20, 128, "A tile: 4 query rows, 5 keys. Query 3 stands first, key 0 leftmost", weight="bold")
    for row in range(4):
        y = 142 + row * side
        d.text(20, y + 27, f"query {3 + row}", 12, fill=_GREY)
        for column in range(5):
            offset = 3 + row - column
            if offset >= 0:
                d.cell(90 + column * side, y, side, f"v{offset}", _SCALE[7 - offset])
            else:
                d.box(90 + column * side, y, side, side, "#f5f5f5", "#ffffff")
                d.text(90 + column * side + side / 2, y + 27, "masked", 9, "middle", _GREY)
        start = 7 - (3 + row)
        d.text(340, y + 27, f"= the strip, read from place {start} on", 13)
    d.text(90, 340, "One row down, the view begins one number earlier: row stride -1, no copy, no gather.", 12, fill=_GREY)
    return d.svg()


def _zones() -> str:
    d = Drawing(720, 380, "The zones of the tiles of a causal grid with a T5 bias")
    side, count, reach = 30, 10, 3
    x0, y0 = 20, 50
    d.text(x0, 28, "Tiles of one head: query tiles down, key tiles across", weight="bold")
    for row in range(count):
        for column in range(count):
            x, y = x0 + column * side, y0 + row * side
            if column > row:
                d.box(x, y, side, side, "#fafafa", _FAINT)
            elif column == row:
                d.box(x, y, side, side, "#f0b96b", "#ffffff")
            elif row - column <= reach:
                d.box(x, y, side, side, _SCALE[3], "#ffffff")
            else:
                d.box(x, y, side, side, "#cfd8dc", "#ffffff")
    legend = [
        ("#cfd8dc", "far: the bias is constant", "beyond the reach, one number serves a whole tile"),
        (_SCALE[3], "middle: the bias varies", "its tile is a view of the strip"),
        ("#f0b96b", "edge: a mask", "only here are offsets compared with 0"),
        ("#fafafa", "not visited", "every key lies in the future"),
    ]
    for place, (fill, name, what) in enumerate(legend):
        y = y0 + 20 + place * 62
        d.box(345, y, 24, 24, fill, _GREY)
        d.text(380, y + 12, name, 14, weight="bold")
        d.text(380, y + 31, what, 11.5, fill=_GREY)
    return d.svg()


def _skipping() -> str:
    d = Drawing(720, 330, "Certified skipping of key blocks")
    d.text(20, 28, "Keys of one query tile, in blocks. Visited from the query outwards, to the left", weight="bold")
    x0, base, width, blocks = 40, 240, 64, 10
    bounds = [18, 26, 36, 48, 62, 78, 96, 116, 138, 160]
    threshold = 70
    for block in range(blocks):
        kept = bounds[block] > threshold
        x, fill, said, ink = x0 + block * width, *((_SCALE[3], "computed", _TEAL) if kept else ("#e0e0e0", "skipped", _GREY))
        d.box(x, base - bounds[block], width - 4, bounds[block], fill, "#ffffff")
        d.text(x + 30, base + 18, said, 11, "middle", ink)
    d.line(x0 - 10, base - threshold, x0 + blocks * width, base - threshold, _RED, 2, "6 4")
    d.text(x0, base - threshold - 10, "log_mass of the row - 17.4 - ln M", 13, fill=_RED, weight="bold")
    d.text(x0 + blocks * width - 6, 60, "bound of a block", 12, "end", _INK)
    d.text(x0 + blocks * width - 6, 76, "= largest bias + |q| |k| |scale|", 12, "end", _INK)
    d.line(x0, base, x0 + blocks * width, base, _INK)
    d.text(x0, base + 44, "far past", 12, fill=_GREY)
    d.text(x0 + blocks * width - 6, base + 44, "the query", 12, "end", _GREY)
    d.text(20, 314, "log_mass: forward, the row's running maximum; backward, its log-sum-exp.", 12, fill=_GREY)
    return d.svg()


def _diagonals() -> str:
    d = Drawing(720, 330, "The gradient of a strip is a sum along diagonals")
    side, count = 44, 5
    d.text(20, 28, "dS, the gradient of the scores", weight="bold")
    for row in range(count):
        for column in range(row + 1):
            d.cell(20 + column * side, 44 + row * side, side, f"{row},{column}", _SCALE[row - column + 1])
    d.text(300, 28, "the gradient of the strip, by offset", weight="bold")
    for offset in range(count):
        y = 44 + offset * side
        d.cell(300, y, side, f"v{offset}", _SCALE[offset + 1])
        parts = " + ".join(f"dS[{row},{row - offset}]" for row in range(offset, count))
        d.text(356, y + 27, f"= {parts}", 12)
    d.text(20, 296, "Each tile is summed along its diagonals first; the sums of tiles are then added in a fixed order.", 12)
    d.text(20, 316, "So no two threads add to one number, and two runs give the same bits.", 12, fill=_GREY)
    return d.svg()


def _factored() -> str:
    d = Drawing(720, 390, "The bias of states and a table: a small product, read with another stride")
    side = 30
    d.text(20, 26, "states of 4 rows", weight="bold")
    for row in range(4):
        for r in range(3):
            d.box(20 + r * side, 40 + row * side, side, side, "#cfe0f5", "#ffffff")
    d.text(130, 105, "times", 13, "middle")
    d.text(165, 26, "the rows of the table that they meet", weight="bold")
    for r in range(3):
        for place in range(8):
            d.box(165 + place * side, 40 + r * side, side, side, _SCALE[place], "#ffffff")
    for place in range(8):
        d.text(165 + place * side + side / 2, 146, str(7 - place), 11, "middle", _GREY)
    d.text(165, 164, "offset, falling", 11, fill=_GREY)
    d.text(425, 105, "=", 16)
    d.text(450, 26, "the product", weight="bold")
    for row in range(4):
        for place in range(8):
            first = 3 - row
            inside = first <= place < first + 5
            fill = _SCALE[place] if inside else "#f0f0f0"
            d.box(450 + place * side, 40 + row * side, side, side, fill, "#ffffff")
            if inside:
                ink = "#ffffff" if place > 3 else _INK
                d.text(450 + place * side + side / 2, 60 + row * side, str(7 - place), 11, "middle", ink)
    d.text(20, 206, "Read one number earlier in each row, the coloured part is the tile:", weight="bold")
    for row in range(4):
        d.text(20, 240 + row * side, f"row {row}", 12, fill=_GREY)
        for column in range(5):
            offset = 4 + row - column
            place = 7 - offset
            d.box(70 + column * side, 220 + row * side, side, side, _SCALE[place], "#ffffff")
            text = "#ffffff" if place > 3 else _INK
            d.text(70 + column * side + side / 2, 240 + row * side, str(offset), 11, "middle", text)
    for column in range(5):
        d.text(70 + column * side + side / 2, 356, f"key {column}", 9, "middle", _GREY)
    d.text(250, 250, "Each number is state . table row at the offset that it shows.", 13)
    d.text(250, 274, "r rows and c keys meet r + c - 1 rows of the table, so the product", 13)
    d.text(250, 296, "is hardly larger than the tile, and no (B, H, N, K) tensor is made.", 13)
    d.text(250, 326, "For states of keys it is the other way round: what comes out are", 12, fill=_GREY)
    d.text(250, 344, "the columns of a tile.", 12, fill=_GREY)
    return d.svg()
