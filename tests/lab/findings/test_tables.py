import io

import pytest
from rich.console import Console

from falloff.lab.findings.tables import interval_words, marks_words, task_tables
from falloff.lab.terminal import terminal_tables
from lab.lines import answers_of, config_of, line, results_of


def printed(config, results, width):
    console = Console(file=io.StringIO(), width=width)
    for table in terminal_tables(config, results, width):
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2, 3)])
def test_rows_are_grouped_and_sorted_and_the_best_marked(seeds):
    (table,) = task_tables(config_of(seeds=seeds), results_of(seeds=seeds))
    assert [row.scheme for row in table.rows] == ["fire", "t5", "alibi", "rope"]
    best = {key: [row.scheme for row in table.rows if row.estimates[key].best] for key in table.columns}
    assert best == {("tail", 16): ["t5"], ("tail", 32): ["alibi"], ("all", 16): ["t5"], ("all", 32): ["alibi"]}
    fire = table.rows[0].estimates["tail", 32]
    assert fire.value == pytest.approx(6.5, rel=1e-3)
    assert fire.ranks == dict.fromkeys(seeds, 2.0)
    if len(seeds) == 1:
        assert (fire.low, fire.high) == (6.0, 7.0)  # of windows, as stored
    else:
        assert 6.49 < fire.low < fire.value < fire.high < 6.51


def test_a_table_for_each_task_in_its_own_order():
    config = config_of(tasks=("text", "passkey"))
    text, passkey = task_tables(config, [*answers_of(), *results_of()])
    assert (text.task, passkey.task) == ("text", "passkey")
    assert passkey.rows[-1].scheme == "rope"
    assert passkey.rows[-1].estimates["exact", 32].value == 0.5
    assert [row.estimates["exact", 32].level for row in passkey.rows] == [True, True, True, False]
    assert "problems" in interval_words(passkey)
    assert "McNemar" in marks_words(passkey, "*", "~")
    assert "Student's paired t test over the same windows" in marks_words(text, "*", "~")
    (alone,) = task_tables(config_of(schemes=("t5",)), results_of(schemes=("t5",)))
    assert marks_words(alone, "*", "~") == ""


def test_a_grid_that_is_not_complete_has_a_table():
    results = [one for one in results_of(seeds=(0, 1)) if (one["scheme"], one["seed"]) != ("fire", 1)]
    results = [one for one in results if (one["scheme"], one["length"]) != ("t5", 32)]
    (table,) = task_tables(config_of(seeds=(0, 1)), results)
    assert [row.scheme for row in table.rows] == ["fire", "t5", "alibi", "rope"]
    assert ("tail", 32) not in table.rows[1].estimates
    assert table.rows[0].estimates["tail", 16].low is None
    shown = printed(config_of(seeds=(0, 1)), results, 120)
    assert "1 seed" in shown


@pytest.mark.parametrize("width", [140, 92, 60, 46])
def test_fits_the_terminal(width):
    shown = printed(config_of(), results_of(), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    words = ["Learned", "Heuristic", "Baseline", "fire", "*4.00", "*6.00", "50.0", "21.5", "16.6", "1,234"]
    assert [word for word in words if word not in shown] == []
    assert ("3.50..4.50" in shown) == (width >= 16 + 19 * 2)
    assert ("1,000" in shown) == (width >= 56 + 9 * 2)  # tokens per second of a test at 16


def test_the_terminal_says_what_intervals_and_marks_mean():
    said = " ".join(printed(config_of(), results_of(), 140).split())
    assert "interval over windows of text (bootstrap), of one training run" in said
    seeds = (0, 1, 2)
    said = " ".join(printed(config_of(seeds=seeds), results_of(seeds=seeds), 140).split())
    assert "95% interval over 3 seeds (Student's t)" in said
    assert "* marks the best: better than every other scheme by Student's paired t test over seeds, with Holm's" in said


def test_the_terminal_marks_what_is_level():
    items = {"t5": [1.0, 2.0, 3.0], "fire": [1.0, 2.1, 2.95]}
    config = config_of(schemes=tuple(items))
    shown = printed(config, [line(name, 16, "tail", found) for name, found in items.items()], 140)
    assert shown.count("~7.39") == 1
    assert shown.count("~") == 3  # both, and the line that explains it
    assert "*7" not in shown


def test_costs_are_medians_over_seeds():
    results = [
        {**one, "seconds_per_step": seconds, "test_seconds": 10 * seconds, "test_tokens_per_second": 1 / seconds}
        for seed, seconds in enumerate((0.1, 0.9, 0.2))
        for one in results_of(schemes=("t5",), seeds=(seed,))
    ]
    (table,) = task_tables(config_of(schemes=("t5",), seeds=(0, 1, 2)), results)
    (row,) = table.rows
    assert row.cost.seconds_per_step == 0.2
    assert (row.cost.test[32].seconds, row.cost.test[32].tokens_per_second) == (2.0, 5.0)
