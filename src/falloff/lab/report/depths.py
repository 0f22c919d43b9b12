"""Exact answers of a task by length and depth."""

from html import escape
from typing import Any

from falloff.lab.figures.task_charts import depth_chart
from falloff.lab.findings.tables import TaskTable, written
from falloff.lab.findings.task_tables import shares_by_depth
from falloff.lab.report.elements import plot


def depths_section(table: TaskTable, config: dict[str, Any], results: list[dict[str, Any]], heading: str) -> str:
    """The section, a map for each scheme; empty for a task whose items have no depth."""
    shares = shares_by_depth(results, table.task)
    if not shares:
        return ""
    train_length = config["settings"]["train_length"]
    maps = "".join(
        f'<div class="chart"><h3>{escape(row.scheme)}</h3>{plot(depth_chart(shares[row.scheme], train_length))}</div>'
        for row in table.rows
        if row.scheme in shares
    )
    return f"""<section>
<h2>{escape(heading)}</h2>
<p class="note">Exact answers in percent, of all seeds together, by length (the trained one in bold) and depth:
{escape(_depth(table, config))}. A scheme that sees only what is near fails at one end of the depths.
{_chance(table)}</p>
<div class="panels">{maps}</div>
</section>"""


def _chance(table: TaskTable) -> str:
    percent = {"exponential": False}
    if not table.chance:
        return ""
    if len(set(table.chance.values())) == 1:
        return f"Guessing well gives {written(next(iter(table.chance.values())), percent)}."
    listed = ", ".join(f"{written(share, percent)} at {length:,}" for length, share in table.chance.items())
    return f"Guessing well gives {listed}."


def _depth(table: TaskTable, config: dict[str, Any]) -> str:
    """What the depth is of, which the summary of a task says at its end."""
    summary: str = config["tasks"][table.task]["summary"]
    return summary.partition("depth: ")[2] or "where what is asked for stands, 0 at the beginning"
