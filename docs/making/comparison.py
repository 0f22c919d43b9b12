"""The page on a comparison that `falloff compare` has made: its tables and its report, from docs/comparison/."""

import gzip
import json
from pathlib import Path
from typing import Any

from falloff.lab.findings.tables import (
    GROUPS,
    TaskTable,
    interval_words,
    interval_written,
    marks_words,
    task_tables,
    written,
)
from falloff.lab.report import report_page
from falloff.lab.report.limits import limits

FOLDER = Path(__file__).parents[1] / "comparison"


def _stored() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The config and the results of the run."""
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    lines = gzip.decompress((FOLDER / "results.jsonl.gz").read_bytes()).decode().splitlines()
    return config, [json.loads(line) for line in lines]


def report() -> str:
    """The report, without the biases of the trained models, which are not stored here."""
    return report_page(*_stored(), {})


def section() -> str:
    """The tables of the page, and what the run can and cannot show, in Markdown."""
    config, results = _stored()
    tables = task_tables(config, results)
    parts = [_table(table, table.measures[0]) for table in tables]
    parts.append("## What this run can show, and what not")
    parts.append("\n".join(f"- {line}" for line in limits(tables, config)))
    machine, versions = config["machine"], config["versions"]
    parts.append(
        f"Made by falloff {versions['falloff']} at commit {config['git_commit'][:12]} with torch {versions['torch']} on "
        f"{machine['cpu']}, {machine['cores']} cores, one thread for each trial."
    )
    return "\n\n".join(parts) + "\n"


def _table(table: TaskTable, measure: dict[str, Any]) -> str:
    name = measure["name"]
    lengths = [length for length in table.lengths if (name, length) in table.columns]
    lines = [
        f"### {table.task}: {measure['words']}",
        "",
        f"{interval_words(table)}. {marks_words(table, '★', '≈')}.",
        "",
        "| scheme | " + " | ".join(f"{length:,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for row in table.rows:
        cells = [_cell(row.estimates.get((name, length)), measure) for length in lengths]
        lines.append(f"| {row.scheme} ({GROUPS[row.kind].lower()}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(estimate: Any, measure: dict[str, Any]) -> str:
    if estimate is None:
        return ""
    value = written(estimate.value, measure)
    if estimate.best:
        value = f"**{value}** ★"
    elif estimate.level:
        value += " ≈"
    return f"{value} <small>{interval_written(estimate, measure, ' to ')}</small>"
