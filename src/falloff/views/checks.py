"""Comparing a handwritten grid with that of a scheme."""

from dataclasses import dataclass

from falloff.views.grids import BiasGrid, Cell
from falloff.views.written import WrittenGrid, WrittenNumber

_FLOAT32_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class WrongCell:
    """A cell that differs from the expected one; None for a masked cell."""

    query: int
    key: int
    offset: int
    found: Cell
    expected: Cell


def check_grid(written: WrittenGrid, expected: BiasGrid) -> list[WrongCell]:
    """Every cell of `written` that is wrong, in order of query and key.

    Buckets must be equal. A value may differ by half a unit of its last written digit, so that -0.3 means anything from
    -0.35 to -0.25, and by float32's rounding. A masked cell must be masked.

    Raises:
        ValueError: for grids of different lengths.

    >>> from falloff import T5Bias
    >>> from falloff.views.grids import bias_grid
    >>> one, two = WrittenNumber.read("1"), WrittenNumber.read("2")
    >>> check_grid(((two, None), (one, one)), bias_grid(T5Bias(1), 2))  # doctest: +NORMALIZE_WHITESPACE
    [WrongCell(query=0, key=0, offset=0, found=2, expected=0), WrongCell(query=1, key=1, offset=0, found=1, expected=0)]
    """
    if len(written) != expected.length:
        raise ValueError(f"written: got a grid of {len(written)} positions, expected {expected.length}")
    wrong = []
    for query, (row, expected_row) in enumerate(zip(written, expected.cells, strict=True)):
        for key, (cell, right) in enumerate(zip(row, expected_row, strict=True)):
            if not _agree(cell, right, exact=expected.kind == "bucket"):
                wrong.append(WrongCell(query, key, query - key, _found(cell), right))
    return wrong


def row_shifts(written: WrittenGrid, expected: BiasGrid) -> list[float] | None:
    """By how much each row of a grid of values is off, if every row is off by one constant; None if not, or if none is off.

    Softmax cancels a constant in each row: such a grid is the same bias. BLOOM writes ALiBi as slope * key position, so its
    row i is higher than -slope * offset by slope * i.

    >>> from falloff import ALiBi
    >>> from falloff.views.grid_text import parse_grid
    >>> from falloff.views.grids import bias_grid
    >>> row_shifts(parse_grid("0 X X; 0 0.5 X; 0 0.5 1"), bias_grid(ALiBi(8), 3))
    [0.0, 0.5, 1.0]
    """
    if expected.kind != "value" or len(written) != expected.length:
        return None
    shifts = []
    telling = 0  # rows with several cells, which show that their differences are one constant
    for row, expected_row in zip(written, expected.cells, strict=True):
        if any((cell is None) != (right is None) for cell, right in zip(row, expected_row, strict=True)):
            return None
        pairs = [(cell, right) for cell, right in zip(row, expected_row, strict=True) if cell and right is not None]
        room = [cell.half_unit * (1 + 1e-9) + _FLOAT32_ROUNDING * abs(right) for cell, right in pairs]
        least = max((cell.value - right - part for (cell, right), part in zip(pairs, room, strict=True)), default=0.0)
        most = min((cell.value - right + part for (cell, right), part in zip(pairs, room, strict=True)), default=0.0)
        if least > most:
            return None
        shifts.append(0.0 if least <= 0 <= most else (least + most) / 2)
        telling += len(pairs) > 1 and shifts[-1] != 0
    # One row alone that is off is rather a mistake: most are, or it is no other way to write the same bias.
    return [round(shift, 9) for shift in shifts] if 2 * telling >= len(shifts) - 1 and telling else None


def _agree(cell: WrittenNumber | None, right: Cell, *, exact: bool) -> bool:
    if cell is None or right is None:
        return cell is None and right is None
    if exact:
        return cell.value == right
    # 1 + 1e-9, so that the ends of the range are included in binary too: -0.35 differs from -0.3 by slightly more than 0.05.
    return abs(cell.value - right) <= cell.half_unit * (1 + 1e-9) + _FLOAT32_ROUNDING * abs(right)


def _found(cell: WrittenNumber | None) -> Cell:
    if cell is None:
        return None
    return int(cell.value) if cell.value.is_integer() and abs(cell.value) < 2**53 else cell.value
