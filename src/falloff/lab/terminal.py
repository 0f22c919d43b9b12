"""The tables of a comparison in the terminal."""

from typing import Any

from falloff.lab.extras import require
from falloff.lab.findings.columns import Estimate
from falloff.lab.findings.tables import (
    GROUPS,
    TaskTable,
    interval_words,
    interval_written,
    marks_words,
    task_tables,
    unit_of,
    written,
)
from falloff.lab.findings.task_tables import depth_table, scheme_table, shares_by_depth


def terminal_tables(config: dict[str, Any], results: list[dict[str, Any]], width: int) -> list[Any]:
    """What is printed for a terminal of this width: for each task and measure a table, the costs, and what they mean.

    Each value has its interval beside it where there is room.
    """
    shown: list[Any] = []
    tables = task_tables(config, results)
    for table in tables:
        task = f"Task {table.task}: " if len(tables) > 1 else ""
        for measure in table.measures:
            title = f"{task}{measure['words']}"
            shown.append(_results(table, measure, title[:1].upper() + title[1:], width))
        if shares_by_depth(results, table.task):
            shown.append(depth_table(results, table.task))
        said = ". ".join(words for words in (interval_words(table), marks_words(table, "*", "~")) if words)
        shown.append(require("rich.padding").Padding(f"[dim]{said}.[/dim]", (0, 0, 1, 0)))
        shown.append(_costs(table, f"{task}what it costs" if task else "What it costs", unit_of(config, table.task), width))
    return shown


def _rows(table: TaskTable, shown: Any, cells: Any) -> None:
    """Add a row for each scheme, in groups."""
    kind = None
    for row in table.rows:
        if row.kind != kind:
            kind = row.kind
            shown.add_section()
            shown.add_row(f"[dim]{GROUPS[kind]}[/dim]")
        shown.add_row(f"  {require('rich.markup').escape(row.scheme)}", *cells(row))


def _results(table: TaskTable, measure: dict[str, Any], title: str, width: int) -> Any:
    keys = [key for key in table.columns if key[0] == measure["name"]]
    intervals = width >= 16 + 19 * len(keys)
    shown = scheme_table(title)
    for _, length in keys:
        shown.add_column(f"{length:,}", justify="right", no_wrap=True)
    _rows(table, shown, lambda row: [_cell(row.estimates.get(key), measure, intervals=intervals) for key in keys])
    return shown


def _cell(one: Estimate | None, measure: dict[str, Any], *, intervals: bool) -> str:
    if one is None:
        return "-"
    value = written(one.value, measure)
    if one.best:
        value = f"[bold green]*{value}[/]"
    elif one.level:
        value = f"[green]~{value}[/]"
    if not intervals:
        return value
    return f"{value} [dim]{interval_written(one, measure, '..'):>11}[/]"


def _costs(table: TaskTable, title: str, unit: str, width: int) -> Any:
    shown = scheme_table(title)
    testing = table.lengths if width >= 56 + 9 * len(table.lengths) else table.lengths[:0]
    for heading in ("para-\nmeters", "of the\nbias", "ms per\nstep", "peak\nMB"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for length in testing:
        shown.add_column(f"{unit}s/s\nat {length:,}", justify="right", no_wrap=True)

    def cells(row: Any) -> list[str]:
        cost = row.cost
        return [
            f"{cost.parameters:,}",
            f"{cost.bias_parameters:,}",
            f"{1000 * cost.seconds_per_step:.1f}",
            f"{cost.peak_memory_mb:.1f}",
            *(f"{cost.test[length].tokens_per_second:,.0f}" if length in cost.test else "-" for length in testing),
        ]

    _rows(table, shown, cells)
    return shown
