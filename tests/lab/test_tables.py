import io

import numpy as np
import pytest
from rich.console import Console

from falloff.lab.config import Settings
from falloff.lab.protocols import cut
from falloff.lab.tables import table_rows, terminal_tables

CONFIG = {"lengths": [16, 32], "tail": 16, "text": {"held_out_bytes": 1_000_000}}


def test_rows_are_grouped_and_sorted_and_the_best_marked(results):
    rows = table_rows(CONFIG, results)
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
    printed = console.file.getvalue()
    assert len(tables) == count
    assert "…" not in printed
    words = ["Learned", "Heuristic", "Baseline", "fire", "*4.00", "*6.00", "50.0", "21.5", "16.6", "1,234"]
    assert [word for word in words if word not in printed] == []


def _with_losses(results, **losses):
    """The results with these losses of windows, at every length."""
    return [{**line, "items": losses[line["scheme"]]} for line in results if line["scheme"] in losses]


def test_best_is_only_what_a_paired_difference_supports(results):
    """t5 is the lowest. The paired differences of windows separate it from alibi, but not from fire."""
    t5 = [1.0, 2.0, 3.0, 4.0, 1.5, 2.5, 3.5, 4.5]
    fire = [loss + step for loss, step in zip(t5, (0.3, -0.2, 0.3, -0.2, 0.3, -0.2, 0.3, -0.2), strict=True)]
    alibi = [loss + 0.2 for loss in t5]
    rows = {row.scheme: row.tail[0] for row in table_rows(CONFIG, _with_losses(results, t5=t5, fire=fire, alibi=alibi))}
    assert {name: (cell.best, cell.level) for name, cell in rows.items()} == {
        "t5": (False, True),
        "fire": (False, True),
        "alibi": (False, False),
    }
    rows = {row.scheme: row.tail[0] for row in table_rows(CONFIG, _with_losses(results, t5=t5, alibi=alibi))}
    assert {name: (cell.best, cell.level) for name, cell in rows.items()} == {"t5": (True, False), "alibi": (False, False)}
    (row,) = table_rows(CONFIG, _with_losses(results, t5=t5))
    assert (row.tail[0].best, row.tail[0].level) == (False, False)  # a single scheme is not the best


def test_the_terminal_marks_what_is_level(results):
    even = _with_losses(results, t5=[1.0, 2.0, 3.0], fire=[1.0, 2.1, 2.9])
    console = Console(file=io.StringIO(), width=140)
    for table in terminal_tables(CONFIG, even, 140):
        console.print(table)
    printed = console.file.getvalue()
    assert "* best, ~ level with the lowest" in " ".join(printed.split())
    assert "~4.00" in printed
    assert "*4.00" not in printed


def test_windows_that_overlap_count_as_one(results):
    """Two models of the same loss for each byte: where windows share bytes, a best was named in every second draw."""
    draw, named = np.random.default_rng(0), 0
    settings = Settings.of_preset("quick", train_length=16, windows=64)
    length = settings.lengths[-1]
    windows = cut("last-k", settings.lengths, settings.tail, settings.windows, 1200)[length]
    ends = windows.ends
    config = {"lengths": list(settings.lengths), "tail": 16, "text": {"held_out_bytes": 1200}}
    for _ in range(100):
        losses = {}
        for scheme in ("t5", "fire"):
            by_byte = draw.normal(size=1200)
            losses[scheme] = [by_byte[end - length : end].mean() for end in ends]
        lines = [
            {**line, "length": length, "together": windows.overlap}
            for line in _with_losses(results, **losses)
            if line["length"] == 32
        ]
        rows = table_rows(config, lines)
        named += any(cell.best for row in rows for cell in row.everything)
    assert named < 20
