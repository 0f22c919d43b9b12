import io

import pytest
from rich.console import Console

from falloff.lab.tables import table_rows, terminal_tables

CONFIG = {"lengths": [16, 32], "tail": 16}


def test_rows_are_grouped_and_sorted_and_the_best_marked(results):
    rows = table_rows(results)
    assert [row.scheme for row in rows] == ["fire", "t5", "alibi", "rope"]
    assert [[cell.best for cell in row.tail] for row in rows] == [
        [False, False],
        [True, False],
        [False, True],
        [False, False],
    ]
    assert [[cell.best for cell in row.everything] for row in rows][1] == [True, False]
    assert (rows[0].tail[1].value, rows[0].tail[1].low, rows[0].tail[1].high) == (6.5, 6.0, 7.0)
    assert (rows[0].everything[1].value, rows[0].everything[1].low) == (7.5, 7.0)


@pytest.mark.parametrize(("width", "count"), [(140, 1), (60, 2), (46, 3)])
def test_fits_the_terminal(results, width, count):
    tables = terminal_tables(CONFIG, results, width)
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    said = console.file.getvalue()
    assert len(tables) == count
    assert "…" not in said
    words = ["Learned", "Heuristic", "Baseline", "fire", "*4.00", "*6.00", "50.0", "21.5", "16.6", "1,234"]
    assert [word for word in words if word not in said] == []
