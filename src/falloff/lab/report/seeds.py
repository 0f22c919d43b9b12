"""Whether the order of schemes holds: ranks by seed, and the differences of all pairs, for one column at a time."""

import math
from html import escape
from typing import Any

from falloff.lab.figures.rank_chart import rank_chart
from falloff.lab.figures.style import label
from falloff.lab.findings.columns import Column
from falloff.lab.findings.statistics import Difference
from falloff.lab.findings.tables import TaskTable, short_name, written
from falloff.lab.report.elements import plot, task_id

_MINUS = "\u2212"


def seeds_section(table: TaskTable, heading: str) -> str:
    """The section of a task; empty for a single scheme, which has nothing to be compared with."""
    if len(table.rows) < 2:
        return ""
    first = table.measures[0]["name"]
    chosen = max(key for key in table.columns if key[0] == first)
    options, panels = [], []
    for key, column in table.columns.items():
        identity = f"{task_id(table.task)}-pairs-{key[0]}-{key[1]}"
        selected, hidden = (" selected", "") if key == chosen else ("", " hidden")
        name = f"{short_name(column.measure)}, at {key[1]:,}"
        options.append(f'<option value="{identity}"{selected}>{escape(name)}</option>')
        panels.append(f'<div class="panel" id="{identity}"{hidden}>{_ranks(table, column)}{_pairs(column)}</div>')
    seeds = "over seeds" if table.over == "seeds" else "over one seed"
    return f"""<section>
<h2>{escape(heading)}</h2>
<p class="note">Every scheme against every other, {seeds}, in one column of the table.</p>
<label class="choose">Column <select data-panels>{"".join(options)}</select></label>
{"".join(panels)}
</section>"""


def _ranks(table: TaskTable, column: Column) -> str:
    if column.over == "items":
        return ""
    return f"""<div class="chart"><h3>Rank by seed</h3>
<p class="note">A dot for each seed. Dots far apart: another seed gives another order, and the mean alone misleads.</p>
{plot(rank_chart(table, column.measure["name"], column.length))}</div>"""


def _pairs(column: Column) -> str:
    names = list(column.estimates)
    if len(names) < 2:
        return ""
    heads = "".join(f'<th scope="col"><span title="{escape(name)}">{escape(label(name))}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(one)}</th>{"".join(_pair(column, one, other) for other in names)}</tr>'
        for one in names
    )
    return f"""<h3>Differences of all pairs</h3>
<p class="note">Row against column, in {_unit(column.measure)}; below it the p of {_test(column)}, adjusted by Holm for all
{len(column.differences)} pairs. Green: the row is better; orange: it is worse, both with p &lt; .05. Without a colour no
difference is shown, which does not mean that there is none.</p>
<div class="scroll" tabindex="0">
<table class="pairs"><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>
</div>
{_against_front(column)}"""


def _pair(column: Column, one: str, other: str) -> str:
    if one == other:
        return "<td class=self></td>"
    found = column.difference(one, other)
    kind = ""
    if found.shows_less is not None:
        kind = " class=better" if found.shows_less == column.measure["lower_is_better"] else " class=worse"
    return f"<td{kind}>{signed(found.mean, column.measure)}<small>{_p(found, found.adjusted)}</small></td>"


def _against_front(column: Column) -> str:
    """Each scheme against the one in front, in full."""
    front, *others = column.estimates
    unit = _unit(column.measure)
    rows = "".join(_full_row(other, column.difference(other, front), column) for other in others)
    observation = "Seeds" if column.over == "seeds" else "Items"
    return f"""<details><summary>Each scheme against {escape(front)}, which is in front
({written(column.estimates[front].value, column.measure)})</summary>
<div class="scroll" tabindex="0"><table><thead><tr><th>Scheme</th><th>Difference, {unit}</th><th>95% interval</th><th>p</th>
<th>p, adjusted</th><th>{observation}</th></tr></thead><tbody>{rows}</tbody></table></div></details>"""


def _full_row(name: str, found: Difference, column: Column) -> str:
    low, high = (signed(value, column.measure) for value in (found.low, found.high))
    cells = (
        signed(found.mean, column.measure),
        "&ndash;" if found.low is None else f"{low} to {high}",
        _p(found, found.p),
        _p(found, found.adjusted),
        str(found.observations),
    )
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _unit(measure: dict[str, Any]) -> str:
    return "% of perplexity" if measure["exponential"] else "percentage points"


def _test(column: Column) -> str:
    if column.over == "seeds":
        return "Student's paired t test over seeds"
    if column.measure["exponential"]:
        return "Student's paired t test over windows"
    return "McNemar's exact test over problems"


def signed(difference: float | None, measure: dict[str, Any]) -> str:
    """A difference with its sign: of nats, by how many percent one perplexity is above the other; of shares, in points.

    >>> [signed(value, {"exponential": True}) for value in (0.0953, -0.5, 20.0, None)]
    ['+10', '−39', '+>999', '–']
    >>> [signed(value, {"exponential": False}) for value in (0.0, -0.125, 1.0)]
    ['0', '−12', '+100']
    """
    if difference is None:
        return "\u2013"
    value = 100 * (math.expm1(min(difference, 100.0)) if measure["exponential"] else difference)
    size = abs(value)
    if size < 0.05:
        return "0"
    sign = "+" if value > 0 else _MINUS
    if size >= 999.5:
        return f"{sign}>999"
    return f"{sign}{size:.1f}".removesuffix(".0") if size < 9.95 else f"{sign}{size:.0f}"


def _p(found: Difference, p: float) -> str:
    """A p, if there was anything to test: two schemes may have one seed in common, or none."""
    return p_written(p) if found.observations > 1 else "&ndash;"


def p_written(p: float) -> str:
    """A p in few characters.

    >>> [p_written(p) for p in (0.00001, 0.0312, 0.31, 1.0)]
    ['&lt;.001', '.031', '.31', '1']
    """
    if p < 0.001:
        return "&lt;.001"
    if p >= 0.995:
        return "1"
    return (f"{p:.3f}" if p < 0.1 else f"{p:.2f}").removeprefix("0")
