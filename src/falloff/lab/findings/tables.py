"""The table of each task: its columns and rows, from the lines of results.jsonl. Terminal, report and page show the same."""

from dataclasses import dataclass
from typing import Any

from falloff.lab.findings.columns import Column, Estimate, columns_of
from falloff.lab.findings.costs import Cost, costs_of

GROUPS = {"learned": "Learned", "heuristic": "Heuristic", "baseline": "Baseline"}
"""The kinds in the order of the table, with their headings."""


@dataclass(frozen=True)
class Row:
    """A scheme in the table of a task."""

    scheme: str
    kind: str
    estimates: dict[tuple[str, int], Estimate]
    cost: Cost


@dataclass(frozen=True)
class TaskTable:
    """All schemes on one task.

    Args:
        task: its name.
        measures: as config.json says under `tasks`; the first one is the one that rows are sorted by.
        lengths: the test lengths.
        columns: by measure and length.
        rows: in groups (learned, heuristic, baseline), the best at the longest length first.
        seeds: of all schemes.
        chance: by length, what guessing gives by the first measure; empty where guessing is no measure.
    """

    task: str
    measures: tuple[dict[str, Any], ...]
    lengths: tuple[int, ...]
    columns: dict[tuple[str, int], Column]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    chance: dict[int, float]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each scheme."""
        return {row.scheme: row.kind for row in self.rows}

    @property
    def over(self) -> str:
        """Over what its intervals are: "seeds" or "items"."""
        return next(iter(self.columns.values())).over


def task_tables(config: dict[str, Any], results: list[dict[str, Any]]) -> list[TaskTable]:
    """The table of each task that has results, in the order of config.json."""
    columns: dict[str, dict[tuple[str, int], Column]] = {}
    for column in columns_of(config, results):
        columns.setdefault(column.task, {})[column.measure["name"], column.length] = column
    tables = []
    for task, found in columns.items():
        shares = config["tasks"][task].get("chance", [])
        chance = {length: share for length, share in zip(config["lengths"], shares, strict=False) if share is not None}
        tables.append(_table(task, found, [line for line in results if line["task"] == task], chance))
    return tables


def _table(
    task: str, columns: dict[tuple[str, int], Column], lines: list[dict[str, Any]], chance: dict[int, float]
) -> TaskTable:
    measures = {name: column.measure for (name, _), column in columns.items()}
    first = next(iter(measures))
    longest = max(length for name, length in columns if name == first)
    order = list(columns[first, longest].estimates)
    kinds = {line["scheme"]: line["kind"] for line in lines}
    # A scheme that lacks the longest length comes last.
    places = {scheme: order.index(scheme) if scheme in order else len(order) for scheme in kinds}
    costs = costs_of(lines)
    rows = (
        Row(
            scheme,
            kind,
            {key: column.estimates[scheme] for key, column in columns.items() if scheme in column.estimates},
            costs[scheme],
        )
        for scheme, kind in kinds.items()
    )
    return TaskTable(
        task,
        tuple(measures.values()),
        tuple(sorted({length for _, length in columns})),
        columns,
        tuple(sorted(rows, key=lambda row: (list(GROUPS).index(row.kind), places[row.scheme]))),
        tuple(sorted({line["seed"] for line in lines})),
        chance,
    )


def written(value: float | None, measure: dict[str, Any]) -> str:
    """A value of a measure in few characters.

    >>> [written(value, {"exponential": True}) for value in (5.678, 43.21, 321.0, 4.5e7, None)]
    ['5.68', '43.2', '321', '4.5e+07', '–']
    >>> [written(value, {"exponential": False}) for value in (0.0, 0.125, 1.0)]
    ['0%', '12.5%', '100%']
    """
    if value is None:
        return "\u2013"
    if not measure["exponential"]:
        return f"{100 * value:.1f}".removesuffix(".0") + "%"
    if value == float("inf"):
        return "∞"
    if value >= 1e5:
        return f"{value:.1e}"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def interval_written(one: Estimate, measure: dict[str, Any], dash: str) -> str:
    """The interval of an estimate, or why it has none; in 11 characters if the dash has 2.

    >>> interval_written(Estimate(0.5, 0.25, 0.75, {0: 0.5}, {}), {"exponential": False}, " to ")
    '25 to 75'
    >>> [interval_written(Estimate(1.0, None, None, dict.fromkeys(seeds, 1.0), {}), {}, "..") for seeds in ([0], [0, 1])]
    ['1 seed', 'seeds agree']
    """
    if one.low is None:
        return "1 seed" if len(one.by_seed) == 1 else "seeds agree"
    return dash.join(written(end, measure).removesuffix("%") for end in (one.low, one.high))


def short_name(measure: dict[str, Any]) -> str:
    """A measure in two or three words."""
    known = {"tail": "End of the window", "all": "Whole window", "exact": "Exact answers", "whole": "Whole answers"}
    return known.get(measure["name"], str(measure["name"]))


def interval_words(table: TaskTable) -> str:
    """What the intervals of a table mean."""
    items = "windows of text" if table.measures[0]["exponential"] else "problems"
    if table.over == "seeds":
        return (
            f"95% interval over {len(table.seeds)} seeds (Student's t): where the mean of other training runs may lie, on "
            f"the same {items}"
        )
    method = "bootstrap" if table.measures[0]["exponential"] else "Wilson's"
    return (
        f"95% interval over {items} ({method}), of one training run: what other {items} may give. It says nothing about "
        "another training run, which may differ by more: that takes several seeds"
    )


def marks_words(table: TaskTable, best: str, level: str) -> str:
    """What the two marks mean; empty for a scheme alone, which has none."""
    if len(table.rows) < 2:
        return ""
    test = "Student's paired t test over " + ("seeds" if table.over == "seeds" else "the same windows")
    if table.over == "items" and not table.measures[0]["exponential"]:
        test = "McNemar's exact test over the same problems"
    return (
        f"{best} marks the best: better than every other scheme by {test}, with Holm's correction for all pairs of the "
        f"column; else {level} marks the one in front and those that are not shown to be worse than it"
    )


def unit_of(config: dict[str, Any], task: str) -> str:
    """What the lengths of a task count: "byte" or "token"."""
    return config["text"].get("unit", "byte") if config["tasks"][task]["needs_text"] else "token"
