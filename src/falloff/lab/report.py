"""The report of a comparison: one HTML page that needs no other file and no network."""

from html import escape
from importlib.resources import files
from typing import Any

from falloff.lab.charts import Style, bias_chart, cost_chart, extrapolation_chart, scheme_styles
from falloff.lab.extras import require
from falloff.lab.tables import GROUPS, Cell, Row, old_lines, table_rows, written
from falloff.schemes import Scheme
from falloff.views.palette import head_colours

_FLAT = 1.02
"""A scheme holds if its tail perplexity at 8T is at most this factor times that at T."""

_COSTS = (("in all", " class=edge"), ("bias", ""), ("ms", ""), ("peak MB", ""))
"""The last columns of the table."""


def report_page(config: dict[str, Any], results: list[dict[str, Any]], schemes: dict[str, Scheme]) -> str:
    """The page.

    Args:
        config: as in config.json.
        results: as in results.jsonl, all schemes complete.
        schemes: the trained bias of each scheme that has one.

    Returns:
        HTML with Plotly's source included: about 5 MB.
    """
    settings = config["settings"]
    rows = table_rows(config, results)
    order = [row.scheme for row in rows]
    results = sorted(old_lines(results), key=lambda line: order.index(line["scheme"]))
    count = len(rows)
    title = f"Train short, test long: {count} {'scheme' if count == 1 else 'schemes'}"
    longest = config["lengths"][-1]
    style, script = (files("falloff.lab").joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    plotly = require("plotly.offline").get_plotlyjs()
    train_length = settings["train_length"]
    styles = scheme_styles({row.scheme: row.kind for row in rows})
    times = cost_chart([(row.scheme, 1000 * row.seconds_per_step) for row in rows], "ms", styles)
    memory = cost_chart([(row.scheme, row.peak_memory_mb) for row in rows], "MB", styles)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · falloff compare</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<main>
<header>
<p class="eyebrow">falloff compare</p>
<h1>{escape(title)}</h1>
<p class="soft">The same small language model, once per scheme: trained on windows of {train_length:,} bytes for
{settings["steps"]:,} steps on the {escape(config["text"]["source"])}, then tested on held-out text at lengths up to
{longest:,}. Lower perplexity is better.</p>
{_facts(rows, config)}
</header>
<section>
<h2>Perplexity per byte</h2>
<p class="note">“Last {config["tail"]} bytes” looks at the same bytes at every length: only the context before them grows.
“All bytes” is every predicted byte of the window, so longer windows have more context on average. Small print: 95%
bootstrap interval over windows. All schemes share the windows, so that differences are more certain than these intervals:
★ marks the best of a column, if the 95% interval of its paired difference from every other scheme excludes 0; else ≈ marks
the lowest and those that these windows cannot distinguish from it.</p>
<div class="tabs narrow" role="group" aria-label="Columns of the table">
<button type="button" aria-pressed="true" data-columns="last">Last {config["tail"]} bytes</button>
<button type="button" aria-pressed="false" data-columns="all">All bytes</button>
<button type="button" aria-pressed="false" data-columns="cost">Cost</button>
</div>
<div class="scroll">{_table(rows, config, styles)}</div>
</section>
<section class="whole">
<h2>Beyond the trained length</h2>
<p class="note">A level line means that longer context does no harm; a falling one, that it helps. Bars are 95% intervals.
Solid: learned; dashed: heuristic; dotted: baseline. A click on a name hides its curve, a double click shows it alone.</p>
<div class="tabs" role="group" aria-label="What is measured">
<button type="button" aria-pressed="true" data-chart="extrapolation-tail">Last {config["tail"]} bytes</button>
<button type="button" aria-pressed="false" data-chart="extrapolation-all">All bytes</button>
</div>
<div class="chart" id="extrapolation-tail">{_plot(extrapolation_chart(results, train_length, tail=True))}</div>
<div class="chart" id="extrapolation-all" hidden>{_plot(extrapolation_chart(results, train_length, tail=False))}</div>
</section>
{_biases(order, schemes, settings)}
<section class="whole">
<h2>What it costs</h2>
<p class="note">Median time of an optimizer step, and the most memory that tensors hold during one, weights and optimizer
included. Times hold for {escape(_machine(config))}; other work on it made them longer.</p>
<div class="two">
<div class="chart"><h3>Time per step</h3>{_plot(times)}</div>
<div class="chart"><h3>Peak memory</h3>{_plot(memory)}</div>
</div>
</section>
{_settings(config)}
<footer>All data of this page is in config.json, results.jsonl and checkpoints/ in the same folder.</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def _facts(rows: list[Row], config: dict[str, Any]) -> str:
    """A summary: the best scheme at the shortest and at the longest length, and the schemes that hold."""
    lengths, tail = config["lengths"], config["tail"]
    holding = sorted(
        (row for row in rows if row.tail[-1].value <= _FLAT * row.tail[0].value), key=lambda row: row.tail[-1].value
    )
    names = ", ".join(row.scheme for row in holding) or "none"
    at_last = f"{lengths[-1] // lengths[0]} times it, {lengths[-1]:,}"
    return (
        '<dl class="facts">'
        + _lowest_fact(rows, 0, f"the trained length, {lengths[0]:,}", f"of the last {tail} bytes")
        + _lowest_fact(rows, -1, at_last, "of the same bytes")
        + _fact(f"Hold from {lengths[0]:,} to {lengths[-1]:,}", f"{len(holding)} of {len(rows)}", names)
        + "</dl>"
    )


def _lowest_fact(rows: list[Row], place: int, where: str, of_what: str) -> str:
    """The best scheme at a length, or those that cannot be distinguished from the lowest."""
    found = sorted(rows, key=lambda row: row.tail[place].value)
    low = written(found[0].tail[place].value)
    level = [row for row in found if row.tail[place].level]
    if not level:
        word = "Best" if found[0].tail[place].best else "Tested"
        return _fact(f"{word} at {where}", found[0].scheme, f"perplexity {low} {of_what}")
    names = ", ".join(row.scheme for row in level)
    high = written(level[-1].tail[place].value)
    return _fact(f"Lowest at {where}", names, f"perplexity {low} to {high} {of_what}: no difference can be shown")


def _fact(term: str, what: str, small: str) -> str:
    return f"<div><dt>{escape(term)}</dt><dd>{escape(what)}<small>{escape(small)}</small></dd></div>"


def _table(rows: list[Row], config: dict[str, Any], styles: dict[str, Style]) -> str:
    lengths = config["lengths"]
    count = len(lengths)
    heads = "".join(
        f'<th{" class=edge" if place == 0 else ""} data-of="{part}">{length:,}</th>'
        for part in ("last", "all")
        for place, length in enumerate(lengths)
    )
    body = []
    kind = None
    for row in rows:
        if row.kind != kind:
            kind = row.kind
            body.append(f'<tr class="group"><th colspan="{2 * count + 5}" scope="colgroup">{GROUPS[kind]}</th></tr>')
        cells = "".join(
            _cell(cell, part, edge=length == lengths[0])
            for part, found in (("last", row.tail), ("all", row.everything))
            for length, cell in zip(lengths, found, strict=True)
        )
        body.append(
            f'<tr><th scope="row"><i style="background:{styles[row.scheme].colour}"></i>{escape(row.scheme)}</th>{cells}'
            f'<td data-of="cost" class="edge">{row.parameters:,}</td><td data-of="cost">{row.bias_parameters:,}</td>'
            f'<td data-of="cost">{1000 * row.seconds_per_step:.1f}</td>'
            f'<td data-of="cost">{row.peak_memory_mb:.1f}</td></tr>'
        )
    costs = "".join(f'<th{edge} data-of="cost">{name}</th>' for name, edge in _COSTS)
    return f"""<table data-columns="last">
<thead>
<tr><th></th><th class="edge" colspan="{count}" data-of="last">Last {config["tail"]} bytes at length</th>
<th class="edge" colspan="{count}" data-of="all">All bytes at length</th>
<th class="edge" colspan="2" data-of="cost">Parameters</th><th colspan="2" data-of="cost">Step</th></tr>
<tr><th>Scheme</th>{heads}{costs}</tr>
</thead>
<tbody>{"".join(body)}</tbody>
</table>"""


def _cell(cell: Cell, part: str, *, edge: bool) -> str:
    classes = " ".join(name for name, applies in (("best", cell.best), ("level", cell.level), ("edge", edge)) if applies)
    interval = f"{written(cell.low)}&ndash;{written(cell.high)}"
    return f'<td data-of="{part}" class="{classes}">{written(cell.value)}<small>{interval}</small></td>'


def _biases(order: list[str], schemes: dict[str, Scheme], settings: dict[str, Any]) -> str:
    if not schemes:
        return ""
    train_length, heads = settings["train_length"], settings["heads"]
    legend = "".join(
        f'<span style="--colour:{colour}">head {head}</span>' for head, colour in enumerate(head_colours(heads))
    )
    panels = "".join(
        f'<div class="chart"><h3>{escape(name)}</h3><p class="formula">{escape(schemes[name].formula)}</p>'
        f"{_plot(bias_chart(name, schemes[name], train_length))}</div>"
        for name in order
        if name in schemes
    )
    rows_note = ""
    by_row = [name for name, scheme in schemes.items() if not scheme.toeplitz]
    if by_row:
        rows_note = (
            f" Where the query's position matters too ({escape(', '.join(by_row))}): solid for the query at "
            f"{train_length - 1:,}, dotted for the one at {2 * train_length - 1:,}."
        )
    return f"""<section>
<h2>The bias of each scheme after training</h2>
<p class="note">What is added to the scaled scores, by offset (how many bytes back the key lies); all layers share it. Right
of the dotted line no offset was ever trained.{rows_note} Only differences along a curve matter: softmax ignores a
constant. Curves are cut off 20 below their highest value, where a key gets next to no weight.</p>
<p class="heads">{legend}</p>
<div class="panels">{panels}</div>
</section>"""


def _settings(config: dict[str, Any]) -> str:
    def listed(title: str, entries: dict[str, Any]) -> str:
        pairs = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_shown(value))}</dd>" for key, value in entries.items())
        return f"<dl><h3>{title}</h3>{pairs}</dl>"

    versions = {key: value for key, value in config["versions"].items() if value is not None}
    notes = "".join(f"<li>{escape(note)}</li>" for note in config["model"])
    meanings = "".join(f"<li><b>{escape(key)}</b>: {escape(meaning)}.</li>" for key, meaning in config["measures"].items())
    return f"""<section>
<h2>Settings</h2>
<ul>{notes}</ul>
<div class="settings">
{listed("Run", config["settings"])}
<div>{listed("Text", config["text"])}{listed("Versions", versions | {"git commit": config["git_commit"] or "none"})}
{listed("Machine", {key: value for key, value in config["machine"].items() if value is not None})}</div>
</div>
<h3>What is measured</h3>
<ul>{meanings}</ul>
</section>"""


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list():
            return ", ".join(map(str, value)) or "none"
    return str(value)


def _machine(config: dict[str, Any]) -> str:
    machine = config["machine"]
    return machine["gpu"] or f"{machine['cpu']}, {machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}"


def _plot(figure: Any) -> str:
    settings = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(require("plotly.io").to_html(figure, include_plotlyjs=False, full_html=False, config=settings))
