"""The results of a task: facts, the table, and the curves beyond the trained length."""

from html import escape
from typing import Any

from falloff.lab.figures.charts import length_chart
from falloff.lab.figures.style import scheme_styles
from falloff.lab.findings.columns import Estimate
from falloff.lab.findings.tables import (
    GROUPS,
    Row,
    TaskTable,
    interval_words,
    interval_written,
    marks_words,
    short_name,
    written,
)
from falloff.lab.report.elements import fact, listed, named, panels, plot, tabs, task_id

_FLAT = 1.02
"""A scheme holds if by the first measure it is at the longest length at most 2% worse than at the shortest."""


def results_section(table: TaskTable, config: dict[str, Any], heading: str) -> str:
    """The facts and the table of a task."""
    summary = config["tasks"][table.task]["summary"]
    measured = "".join(f"<li>{escape(short_name(measure))}: {escape(measure['words'])}.</li>" for measure in table.measures)
    groups = [(str(place), short_name(measure)) for place, measure in enumerate(table.measures)]
    return f"""<section id="{task_id(table.task)}">
<h2>{escape(heading)}</h2>
<p class="note">{escape(summary[:1].upper() + summary[1:])}. {_same_bytes(table, config)}</p>
<ul class="note">{measured}</ul>
{_facts(table)}
<p class="note">Small print: {escape(interval_words(table))}.{_marks(table)}</p>
{tabs("Columns of the table", groups, "columns", narrow=True)}
<div class="scroll" tabindex="0">{_table(table)}</div>
</section>"""


def lengths_section(table: TaskTable, config: dict[str, Any], heading: str, unit: str) -> str:
    """The curves of a task."""
    train_length = config["settings"]["train_length"]
    charts = [
        (f"{task_id(table.task)}-{measure['name']}", plot(length_chart(table, measure, train_length, unit)))
        for measure in table.measures
    ]
    names = [(identity, short_name(measure)) for (identity, _), measure in zip(charts, table.measures, strict=True)]
    return f"""<section class="whole">
<h2>{escape(heading)}</h2>
<p class="note">A level line means that longer context does no harm. Bars are 95% intervals, those of the table; where they
leave the picture they are cut off. Solid: learned; dashed: heuristic; dotted: baseline. A click on a name hides its curve, a
double click shows it alone.</p>
{tabs("What is measured", names, "chart")}
{panels(charts)}
</section>"""


def _same_bytes(table: TaskTable, config: dict[str, Any]) -> str:
    if config["tasks"][table.task]["needs_text"] and config["settings"]["protocol"] == "last-k":
        return "The end of a window is the same text at every length: only the context before it grows."
    return ""


def _marks(table: TaskTable) -> str:
    words = marks_words(table, "★", "≈")
    shared = "All schemes share what they are tested on, so that differences are more certain than these intervals"
    return f" {shared}. {escape(words)}." if words else ""


def _facts(table: TaskTable) -> str:
    """A summary: the best scheme at the shortest and at the longest length, and the schemes that hold."""
    measure = table.measures[0]
    lengths = sorted(length for name, length in table.columns if name == measure["name"])
    first, last = lengths[0], lengths[-1]

    def at(row: Row, length: int) -> Estimate | None:
        return row.estimates.get((measure["name"], length))

    def holds(row: Row) -> bool:
        near, far = at(row, first), at(row, last)
        if near is None or far is None:
            return False
        if measure["lower_is_better"]:
            return far.value <= _FLAT * near.value
        return far.value > 0 and _FLAT * far.value >= near.value

    order = list(table.columns[measure["name"], last].estimates)
    holding = [
        row.scheme
        for row in sorted(table.rows, key=lambda row: order.index(row.scheme) if row.scheme in order else 0)
        if holds(row)
    ]
    facts = [_front_fact(table, measure, first, f"the shortest length, {first:,}")]
    if last > first:
        facts.append(_front_fact(table, measure, last, f"{last / first:g} times it, {last:,}"))
        facts.append(fact(f"Hold from {first:,} to {last:,}", f"{len(holding)} of {len(table.rows)}", listed(holding, 8)))
    return f'<dl class="facts">{"".join(facts)}</dl>'


def _front_fact(table: TaskTable, measure: dict[str, Any], length: int, where: str) -> str:
    """The best scheme at a length, or those that are not shown to be worse than the one in front."""
    column = table.columns[measure["name"], length]
    front = next(iter(column.estimates))
    value = written(column.estimates[front].value, measure)
    level = [name for name, estimate in column.estimates.items() if estimate.level]
    if not level:
        word = "Best" if column.estimates[front].best else "Tested"
        return fact(f"{word} at {where}", front, f"{value}: {measure['words']}")
    worst = max if measure["lower_is_better"] else min
    end = written(worst(column.estimates[name].value for name in level), measure)
    between = value if end == value else f"{value} to {end}"
    # Two of them may be shown to differ from each other: what they share is the one in front.
    return fact(f"In front at {where}", listed(level), f"{between}: none is shown to be worse than {front}")


def _table(table: TaskTable) -> str:
    styles = scheme_styles(table.kinds)
    groups = [[key for key in table.columns if key[0] == measure["name"]] for measure in table.measures]
    over = "".join(
        f'<th class="edge" colspan="{len(keys)}" data-of="{place}">{escape(short_name(measure))}, at length</th>'
        for place, (keys, measure) in enumerate(zip(groups, table.measures, strict=True))
    )
    heads = "".join(
        f'<th{"" if column else " class=edge"} data-of="{place}">{length:,}</th>'
        for place, keys in enumerate(groups)
        for column, (_, length) in enumerate(keys)
    )
    body = []
    kind = None
    for row in table.rows:
        if row.kind != kind:
            kind = row.kind
            body.append(
                f'<tr class="group"><th colspan="{len(table.columns) + 1}" scope="colgroup">{GROUPS[kind]}</th></tr>'
            )
        cells = "".join(
            _cell(row.estimates.get(key), table.columns[key].measure, place, edge=not column)
            for place, keys in enumerate(groups)
            for column, key in enumerate(keys)
        )
        body.append(f"<tr>{named(row.scheme, styles[row.scheme])}{cells}</tr>")
    return f"""<table data-columns="0">
<thead><tr><th></th>{over}</tr><tr><th>Scheme</th>{heads}</tr></thead>
<tbody>{"".join(body)}</tbody>
</table>"""


def _cell(one: Estimate | None, measure: dict[str, Any], place: int, *, edge: bool) -> str:
    if one is None:
        return f'<td data-of="{place}"{" class=edge" if edge else ""}>&ndash;</td>'
    classes = " ".join(name for name, applies in (("best", one.best), ("level", one.level), ("edge", edge)) if applies)
    small = interval_written(one, measure, "&ndash;")
    return f'<td data-of="{place}" class="{classes}">{written(one.value, measure)}<small>{small}</small></td>'
