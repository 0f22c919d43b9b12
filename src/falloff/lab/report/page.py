"""The whole page."""

from html import escape
from importlib.resources import files
from json import dumps
from typing import Any

from falloff.lab.extras import require
from falloff.lab.figures.style import on_dark
from falloff.lab.findings.tables import TaskTable, task_tables, unit_of
from falloff.lab.report.biases import biases_section
from falloff.lab.report.costs import costs_section
from falloff.lab.report.depths import depths_section
from falloff.lab.report.elements import task_id
from falloff.lab.report.limits import limits_section
from falloff.lab.report.results import lengths_section, results_section
from falloff.lab.report.seeds import seeds_section
from falloff.lab.report.settings import settings_section
from falloff.schemes import Scheme


def report_page(
    config: dict[str, Any],
    results: list[dict[str, Any]],
    schemes: dict[str, Scheme],
    published: str | None = None,
) -> str:
    """The page.

    Args:
        config: as in config.json.
        results: as in results.jsonl, at least one complete trial.
        schemes: the trained bias of each scheme that has one.
        published: a section of figures that were not measured here, if there are any: `falloff.lab.published`.

    Returns:
        HTML with Plotly's source included: about 5 MB.
    """
    tables = task_tables(config, results)
    count = len(tables[0].rows)
    title = f"Train short, test long: {count} {'scheme' if count == 1 else 'schemes'}"
    style, script = (
        files("falloff.lab.report").joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    plotly = require("plotly.offline").get_plotlyjs()
    sections = "".join(_task_sections(table, config, results, several=len(tables) > 1) for table in tables)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)} · falloff compare</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<main>
<header>
<p class="eyebrow">falloff compare</p>
<h1>{escape(title)}</h1>
<p class="soft">{escape(_introduction(tables, config))}</p>
{_contents(tables, schemes, published)}
</header>
{sections}
{published or ""}
{limits_section(tables, config)}
{biases_section([row.scheme for row in tables[0].rows], schemes, config)}
{costs_section(tables, config)}
{settings_section(config)}
<footer>All data of this page is in config.json, results.jsonl and trials/ in the same folder.</footer>
</main>
<script>const onDark = {dumps(on_dark(config["settings"]["heads"]))};
{script}</script>
</body>
</html>
"""


def _introduction(tables: list[TaskTable], config: dict[str, Any]) -> str:
    settings, seeds = config["settings"], tables[0].seeds
    unit = unit_of(config, tables[0].task)
    each = "scheme" if len(seeds) == 1 else f"scheme and each of {len(seeds)} seeds"
    tasks = "" if len(tables) == 1 else f", on each of {len(tables)} tasks"
    text = "" if config["text"] is None else f" The text: {config['text']['source']}."
    return (
        f"The same small model, trained once per {each}{tasks}: on windows of {settings['train_length']:,} {unit}s for "
        f"{settings['steps']:,} steps, then tested at lengths up to {config['lengths'][-1]:,} on what it was not trained "
        f"on.{text}"
    )


def _contents(tables: list[TaskTable], schemes: dict[str, Scheme], published: str | None) -> str:
    """Links to the parts of the page."""
    parts = [(task_id(table.task), "Results" if len(tables) == 1 else f"Task {table.task}") for table in tables]
    if published:
        parts.append(("published", "Published"))
    parts.append(("limits", "What this can show"))
    if schemes:
        parts.append(("biases", "Biases"))
    parts += [("costs", "Costs"), ("settings", "Settings")]
    links = "".join(f'<a href="#{identity}">{escape(words)}</a>' for identity, words in parts)
    return f'<nav aria-label="Parts of the page">{links}</nav>'


def _task_sections(table: TaskTable, config: dict[str, Any], results: list[dict[str, Any]], *, several: bool) -> str:
    of_task = f"Task {table.task}: " if several else ""

    def heading(words: str) -> str:
        return of_task + words if several else words[:1].upper() + words[1:]

    return (
        results_section(table, config, heading("results"))
        + lengths_section(table, config, heading("beyond the trained length"), unit_of(config, table.task))
        + depths_section(table, config, results, heading("by length and depth"))
        + seeds_section(table, heading("seed by seed, pair by pair" if len(table.seeds) > 1 else "pair by pair"))
    )
