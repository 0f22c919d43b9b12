"""What each scheme cost, in the same runs: training, and testing at each length."""

from collections.abc import Callable
from html import escape
from typing import Any

from falloff.lab.figures.cost_charts import cost_chart, length_cost_chart
from falloff.lab.figures.style import scheme_styles
from falloff.lab.findings.costs import Cost, LengthCost
from falloff.lab.findings.tables import TaskTable, unit_of
from falloff.lab.report.elements import named, panels, plot, tabs, task_id

_TRAINING: tuple[tuple[str, Callable[[Cost], str]], ...] = (
    ("Parameters", lambda cost: f"{cost.parameters:,}"),
    ("of the bias", lambda cost: f"{cost.bias_parameters:,}"),
    ("ms a step", lambda cost: f"{1000 * cost.seconds_per_step:.1f}"),
    ("tokens/s", lambda cost: f"{cost.tokens_per_second:,.0f}"),
    ("peak MB", lambda cost: f"{cost.peak_memory_mb:.1f}"),
)
_TESTING: tuple[tuple[str, Callable[[LengthCost], str]], ...] = (
    ("tokens/s", lambda cost: f"{cost.tokens_per_second:,.0f}"),
    ("seconds", lambda cost: f"{cost.seconds:.3g}"),
    ("peak MB", lambda cost: f"{cost.peak_memory_mb:.1f}"),
)


def costs_section(tables: list[TaskTable], config: dict[str, Any]) -> str:
    """The section, with a panel for each task."""
    tasks = [(f"{task_id(table.task)}-costs", table) for table in tables]
    buttons = [(identity, table.task) for identity, table in tasks]
    contents = [(identity, _of_task(table, unit_of(config, table.task))) for identity, table in tasks]
    return f"""<section id="costs">
<h2>What it costs</h2>
<p class="note">Measured in the runs that gave the results, medians over seeds. Training: the median optimizer step, and the
most memory that tensors hold during one, weights and optimizer included. Testing: one batch, forward only, at each length.
Times hold for {escape(machine_words(config))}; other work on it made them longer.</p>
{tabs("Task", buttons, "chart")}
{panels(contents)}
</section>"""


def _of_task(table: TaskTable, unit: str) -> str:
    styles = scheme_styles(table.kinds)
    costs = {row.scheme: row.cost for row in table.rows}
    times = cost_chart([(name, 1000 * cost.seconds_per_step) for name, cost in costs.items()], "ms", styles)
    memory = cost_chart([(name, cost.peak_memory_mb) for name, cost in costs.items()], "MB", styles)
    speed = length_cost_chart(costs, "tokens_per_second", f"{unit}s per second", styles, unit)
    held = length_cost_chart(costs, "peak_memory_mb", "peak MB", styles, unit)
    groups = [("0", "Training"), *((str(place), f"Test: {name}") for place, (name, _) in enumerate(_TESTING, start=1))]
    return f"""<div class="two">
<div class="chart"><h3>Time of a training step</h3>{plot(times)}</div>
<div class="chart"><h3>Peak memory of a training step</h3>{plot(memory)}</div>
<div class="chart"><h3>Speed of testing by length</h3>{plot(speed)}</div>
<div class="chart"><h3>Peak memory of testing by length</h3>{plot(held)}</div>
</div>
{tabs("Columns of the table of costs", groups, "columns")}
<div class="scroll" tabindex="0">{_table(table)}</div>"""


def _table(table: TaskTable) -> str:
    styles = scheme_styles(table.kinds)
    over = f'<th class="edge" colspan="{len(_TRAINING)}" data-of="0">Training</th>' + "".join(
        f'<th class="edge" colspan="{len(table.lengths)}" data-of="{place}">Test: {name} at length</th>'
        for place, (name, _) in enumerate(_TESTING, start=1)
    )
    heads = "".join(f'<th{_edge(place)} data-of="0">{name}</th>' for place, (name, _) in enumerate(_TRAINING)) + "".join(
        f'<th{_edge(column)} data-of="{place}">{length:,}</th>'
        for place in range(1, len(_TESTING) + 1)
        for column, length in enumerate(table.lengths)
    )
    rows = "".join(
        f"<tr>{named(row.scheme, styles[row.scheme])}{_cells(row.cost, table.lengths)}</tr>" for row in table.rows
    )
    return f"""<table class="costs" data-columns="0">
<thead><tr><th></th>{over}</tr><tr><th>Scheme</th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table>"""


def _cells(cost: Cost, lengths: tuple[int, ...]) -> str:
    cells = [f'<td{_edge(place)} data-of="0">{write(cost)}</td>' for place, (_, write) in enumerate(_TRAINING)]
    for place, (_, write_test) in enumerate(_TESTING, start=1):
        for column, length in enumerate(lengths):
            shown = write_test(cost.test[length]) if length in cost.test else "&ndash;"
            cells.append(f'<td{_edge(column)} data-of="{place}">{shown}</td>')
    return "".join(cells)


def _edge(place: int) -> str:
    return "" if place else " class=edge"


def machine_words(config: dict[str, Any]) -> str:
    """The machine of a run, in words."""
    machine = config["machine"]
    return machine["gpu"] or f"{machine['cpu']}, {machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}"
