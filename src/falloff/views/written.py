"""A grid as people write it, cell by cell: numbers with their precision, and what counts as masked."""

import re
from dataclasses import dataclass
from decimal import Decimal

# Unicode's infinity sign, LaTeX's cross, numpy's masked cell.
_MASKED = {"", "x", "-", "--", "-inf", "\u221e", "-\u221e", "\u00d7"}
_NUMBER = re.compile(r"(?=.{1,40}$)[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)  # float never overflows
# u_2, u_{2} or q_4.k_1+u_2: the bucket is the last index.
_INDEXED = re.compile(r"(?:.{1,40}\+ *)?\\?[A-Za-z]{1,8}_\{?(\d{1,9})\}?", re.ASCII)
_SUBSCRIPTS = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
_SUBSCRIPTED = re.compile("([A-Za-z])([\u2080-\u2089]+)")


@dataclass(frozen=True)
class WrittenNumber:
    """A number as written, with the value of half a unit of its last digit.

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


def plain_cell(text: str) -> str:
    """A cell without quotes, marks of Markdown and LaTeX, and the letter of an index.

    >>> [plain_cell(text) for text in (" **3** ", "$u_{2}$", "'X'", "q_4.k_1+u_2", "-0.5")]
    ['3', '2', 'X', '2', '-0.5']
    """
    cell = text.strip()
    for mark in ("**", "*", "`", "$", "'", '"'):
        if len(cell) > 2 * len(mark) and cell.startswith(mark) and cell.endswith(mark):
            cell = cell[len(mark) : -len(mark)].strip()
    cell = _SUBSCRIPTED.sub(lambda found: f"{found[1]}_{found[2].translate(_SUBSCRIPTS)}", cell)
    indexed = _INDEXED.fullmatch(cell)
    return indexed[1] if indexed else cell


def is_masked(cell: str) -> bool:
    """Whether a cell counts as masked."""
    return cell.lower() in _MASKED


def is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor masked."""
    return not is_masked(cell) and _NUMBER.fullmatch(cell) is None


def number_or_masked(cell: str) -> WrittenNumber | None:
    """The number of a cell that is no text; None if it is masked."""
    return None if is_masked(cell) else WrittenNumber.read(cell)
