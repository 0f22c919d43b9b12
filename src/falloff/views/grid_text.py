"""Reading a grid from text as people paste it. No file and no terminal in it: the command line and the page use it."""

from falloff.views.grid_layouts import Rows, layouts_of, without_ornaments
from falloff.views.written import WrittenGrid, is_text, number_or_masked, plain_cell

_MOST_POSITIONS = 1024
MOST_CHARACTERS = 2**23


def parse_grid(text: str) -> WrittenGrid:
    """Read a square grid from text, in whichever layout people write it.

    One row of cells per line, separated by commas, semicolons, tabs, blanks or bars; Markdown and LaTeX tables; lists of
    Python and numpy; semicolons between rows; all in one line. Rulers are ignored. X, x, -, -inf, an infinity sign or
    nothing is a masked cell, and so is all that a lower triangle leaves out. u_2 is 2.

    Labels are ignored if they are recognisable: those in parentheses at the start of a row, or before a bar; a first row or
    column of words (no number and no masked cell among them), along the top also the positions 0, 1, 2, ...; or any
    tokens, if they are the same along both edges. For a grid of one position, labels must be along both edges.

    Raises:
        ValueError: for a text that is no square grid of numbers.

    >>> grids = [parse_grid(text) for text in ("0 X\\n1 0", "(q) 0 | 0 X (u) 1 | 1 0", "[[0, -inf], [1, 0]]", "0\\nu_1 u_0")]
    >>> [[None if cell is None else cell.value for cell in row] for row in grids[0]]
    [[0.0, None], [1.0, 0.0]]
    >>> all(grid == grids[0] for grid in grids)
    True
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"got more than {MOST_CHARACTERS >> 20} Mi characters, expected a grid written as text")
    if "\0" in text:
        raise ValueError("got binary data, expected a grid written as text")
    if not text.strip():
        raise ValueError("got nothing, expected a grid")
    first_error: ValueError | None = None
    for rows in layouts_of(without_ornaments(text)):
        try:
            return _grid(rows)
        except ValueError as error:
            first_error = first_error or error
    raise first_error or ValueError("got no row of cells, expected a grid")


def _grid(rows: Rows) -> WrittenGrid:
    """The numbers of rows of cells.

    Raises:
        ValueError: if they are no square grid of numbers.
    """
    rows = [[plain_cell(cell) for cell in row] for row in rows]
    if not rows:
        raise ValueError("got no row of cells, expected a grid")
    if not all(rows):
        raise ValueError("got a row without a cell, expected a square: a row and a column for each position")
    rows = _filled_triangle(rows)
    _even_out(rows)
    edges = _label_edges(rows)
    if edges is None:
        raise ValueError(
            f"got {len(rows)} rows of {len(rows[0])} cells, expected a square: a row and a column for each position"
        )
    top, left = edges
    if len(rows) - top > _MOST_POSITIONS:
        raise ValueError(f"got a grid of {len(rows) - top} positions, expected at most {_MOST_POSITIONS}")
    for i, row in enumerate(rows[top:], start=top):
        for j, cell in enumerate(row[left:], start=left):
            if is_text(cell):
                shown = cell if len(cell) <= 20 else cell[:20] + "..."
                raise ValueError(
                    f"row {i}, column {j} reads {shown!r}, expected a number, or X, - or nothing for a masked cell"
                )
    grid = tuple(tuple(map(number_or_masked, row[left:])) for row in rows[top:])
    if not any(cell for row in grid for cell in row):
        raise ValueError("got no number, expected a grid of buckets or values")
    return grid


def _filled_triangle(rows: Rows) -> Rows:
    """A lower triangle of numbers filled with masked cells, without its labels; anything else as it is."""
    for top in (0, 1) if _are_words(rows[0]) or _are_positions(rows[0]) else (0,):
        body = rows[top:]
        size = len(body)
        lengths = [len(row) for row in body]
        column = [row[0] for row in body]
        labelled = lengths == list(range(2, size + 2)) and (_are_words(column) or (top and _are_positions(column)))
        cells = [row[1:] for row in body] if labelled else body
        if (
            size > 1
            and (labelled or lengths == list(range(1, size + 1)))
            and not any(any(map(is_text, row)) for row in cells)
        ):
            return [row + [""] * (size - len(row)) for row in cells]
    return rows


def _even_out(rows: Rows) -> None:
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
                f"row {place} has {length} cells and row 0 has {lengths[0]}, expected as many in every row "
                "(write X for a masked cell)"
            )


def _label_edges(rows: Rows) -> tuple[int, int] | None:
    """How many rows at the top and columns on the left are labels; None if the rest is not square."""
    height, width = len(rows), len(rows[0])
    column = [row[0] for row in rows]
    if height == width:
        # Positions as labels are numbers, as cells are: only an empty corner, or text in it, shows that they are labels.
        corner = rows[0][0] == "" or is_text(rows[0][0])
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
        return any(map(is_text, top)) or (len(top) > 0 and _are_positions(top))
    mixed = (_are_words(top) and _are_positions(left)) or (_are_positions(top) and _are_words(left))
    return len(top) > 1 and mixed


def _are_words(line: list[str]) -> bool:
    return all(map(is_text, line))


def _are_positions(line: list[str]) -> bool:
    return line == [str(place) for place in range(len(line))]
