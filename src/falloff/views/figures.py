"""The grid of a bias as a figure, and figures as files."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from falloff.files import write_file
from falloff.views.fonts import families_for, spelled_out
from falloff.views.grids import BiasGrid
from falloff.views.palette import GridColours, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE_ENDINGS = (".png", ".svg", ".pdf")

_POINTS_PER_INCH = 72
_LEAST_LEGIBLE = 5.0  # points; no labels in a smaller font
_GLYPH_WIDTH = 0.65  # the width of a digit over the font size
_INCHES_A_SIGN = 0.09  # of a label of 9 points
_SUBSCRIPT = re.compile(r"_\{?(\d+)\}?")


def check_image_path(path: Path) -> None:
    """Check that a file's ending is that of a format in which figures can be written.

    >>> check_image_path(Path("grid.jpg"))
    Traceback (most recent call last):
    ...
    ValueError: image: got 'grid.jpg', expected a file that ends in .png, .svg or .pdf
    """
    if path.suffix.lower() not in IMAGE_ENDINGS:
        raise ValueError(f"image: got {str(path)!r}, expected a file that ends in .png, .svg or .pdf")


def check_tokens(tokens: Sequence[str], length: int) -> None:
    """Check that there is one label for each position."""
    if len(tokens) != length:
        raise ValueError(f"tokens: got {len(tokens)} of them for {length} positions, expected one for each position")


def empty_figure(width: float, height: float) -> "Figure":
    """A figure of this size in inches, made without pyplot, so without a window or global state.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a figure needs matplotlib: pip install 'falloff[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def grid_figure(grid: BiasGrid, tokens: Sequence[str] | None = None) -> "Figure":
    """Draw a grid: queries down, keys across, each visible cell coloured and labelled, masked ones blank, a legend below.

    Args:
        grid: from `bias_grid`.
        tokens: labels of rows and columns instead of positions, one for each position.

    Returns:
        A matplotlib figure, without pyplot: `figure.savefig(...)`, or let a notebook show it.

    Raises:
        ValueError: for a number of tokens other than the grid's length.
        ImportError: without matplotlib (extra `plot`).

    >>> from falloff import T5Bias
    >>> from falloff.views.grids import bias_grid
    >>> figure = grid_figure(bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 4), tokens="u e r y".split())
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0', '1', '0', '2', '1', '0', '2', '2', '1', '0']
    """
    if tokens is not None:
        check_tokens(tokens, grid.length)
    labels = _labels(grid)
    cell = max(0.6, _INCHES_A_SIGN * _longest(labels))
    side = min(10.0, max(2.5, cell * grid.length))
    figure = empty_figure(max(side + 1.0, 5.0), side + 1.6)
    axes = figure.add_subplot()
    colours = GridColours(grid)
    _draw_cells(axes, grid, labels, colours, cell_points=side / grid.length * _POINTS_PER_INCH)
    families, missing = families_for([*(tokens or []), grid.label_format or ""])
    names = [spelled_out(token, missing) for token in tokens or map(str, range(grid.length))]
    _label_axes(axes, names, side)
    if len(families) > 1:
        for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_fontfamily(families)
    figure.suptitle(grid.caption, x=0.01, ha="left", fontsize=10, parse_math=False, wrap=True)
    if grid.kind == "bucket":
        _draw_legend(figure, grid, colours)
    else:
        _draw_scale(figure, axes, colours)
    return figure


def save_figure(figure: "Figure", path: Path) -> list[str]:
    """Write a figure as PNG, SVG or PDF, by the file's ending. The same figure gives the same bytes.

    Returns:
        Warnings, such as characters that the font lacks.

    Raises:
        ValueError: for another ending.
        OSError: for a file that cannot be written.
    """
    from matplotlib import rc_context

    check_image_path(path)
    drawn = io.BytesIO()
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    with rc_context({"svg.hashsalt": "falloff"}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=200, metadata=undated)
    write_file(path, drawn.getvalue())
    return sorted({str(warning.message) for warning in caught if "Glyph" in str(warning.message)})


def _labels(grid: BiasGrid) -> list[list[str]]:
    """The text of each cell. In labels of the caller's own, an index is drawn below the line, as in a textbook: u_2."""
    labels = grid.labels()
    if grid.label_format is None:
        return labels
    return [[_SUBSCRIPT.sub(r"$_{\1}$", label.replace("$", r"\$")) for label in row] for row in labels]


def _longest(labels: list[list[str]]) -> int:
    """How many signs wide the widest label is."""
    return max(len(re.sub(r"[${}\\_]", "", label)) for row in labels for label in row)


def _draw_cells(axes: "Axes", grid: BiasGrid, labels: list[list[str]], colours: GridColours, cell_points: float) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    size = min(13.0, 0.45 * cell_points, 0.9 * cell_points / (_GLYPH_WIDTH * _longest(labels)))
    cells, fills = [], []
    for query, row in enumerate(grid.cells):
        for key, cell in enumerate(row):
            if cell is None:
                continue
            fill = colours(cell)
            cells.append(Rectangle((key, query), 1, 1))
            fills.append(fill)
            if size >= _LEAST_LEGIBLE:
                centre = (key + 0.5, query + 0.5)
                axes.text(*centre, labels[query][key], ha="center", va="center", fontsize=size, color=text_colour(fill))
    edge = min(1.0, 0.05 * cell_points)
    axes.add_collection(
        PatchCollection(cells, facecolors=fills, edgecolors="white", linewidths=edge, rasterized=grid.length > 64)
    )
    axes.set_xlim(0, grid.length)
    axes.set_ylim(grid.length, 0)
    axes.set_aspect("equal")


def _label_axes(axes: "Axes", tokens: Sequence[str], side: float) -> None:
    step = -(-len(tokens) // int(4 * side))  # at most four labels an inch
    places = list(range(0, len(tokens), step))
    names = [tokens[place] for place in places]
    turned = 90 if max(map(len, names)) * len(names) > 10 * side else 0
    centres = [place + 0.5 for place in places]
    axes.set_xticks(centres, names, rotation=turned, parse_math=False)
    axes.set_yticks(centres, names, parse_math=False)
    axes.tick_params(length=0, labelsize=9)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.spines[:].set_color("#bbbbbb")


def _draw_legend(figure: "Figure", grid: BiasGrid, colours: GridColours) -> None:
    from matplotlib.patches import Patch

    entries = [
        Patch(facecolor=colours(bucket.bucket), label=f"bucket {bucket.bucket}: {bucket.offsets}") for bucket in grid.legend
    ]
    columns = min(len(entries), max(1, int(figure.get_figwidth() // 2.4)))
    figure.legend(handles=entries, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)


def _draw_scale(figure: "Figure", axes: "Axes", colours: GridColours) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    if colours.low == colours.high:  # a single value, which the cells show
        return
    ramp = LinearSegmentedColormap.from_list("falloff", list(colours.ramp))
    scale = ScalarMappable(Normalize(colours.low, colours.high), ramp)
    figure.colorbar(scale, ax=axes, location="bottom", shrink=0.8, pad=0.03, label="bias added to the score")
