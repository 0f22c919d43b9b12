"""The table of a comparison: its cells, and how it looks in the terminal. The report shows the same cells."""

from dataclasses import dataclass
from typing import Any

from falloff.lab.extras import require

GROUPS = {"learned": "Learned", "heuristic": "Heuristic", "baseline": "Baseline"}
"""The kinds in the order of the table, with their headings."""


@dataclass(frozen=True)
class Cell:
    """A perplexity in the table; `best` where no scheme of any kind has a lower one in this column."""

    value: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True)
class Row:
    """A scheme in the table: a cell for each test length, for the tail and for all bytes."""

    scheme: str
    kind: str
    tail: tuple[Cell, ...]
    everything: tuple[Cell, ...]
    parameters: int
    bias_parameters: int
    seconds_per_step: float
    peak_memory_mb: float


def table_rows(results: list[dict[str, Any]]) -> list[Row]:
    """Rows grouped into learned, heuristic and baseline schemes, each group by tail perplexity at the longest length."""
    names = list(dict.fromkeys(line["scheme"] for line in results))
    by_scheme = {name: [line for line in results if line["scheme"] == name] for name in names}
    lengths = [line["length"] for line in by_scheme[names[0]]]
    best = {
        (key, length): min(line[key] for line in results if line["length"] == length)
        for key in ("perplexity_tail", "perplexity")
        for length in lengths
    }

    def cells(lines: list[dict[str, Any]], key: str, low: str, high: str) -> tuple[Cell, ...]:
        return tuple(Cell(line[key], line[low], line[high], line[key] == best[key, line["length"]]) for line in lines)

    rows = [
        Row(
            scheme=name,
            kind=lines[0]["kind"],
            tail=cells(lines, "perplexity_tail", "tail_low", "tail_high"),
            everything=cells(lines, "perplexity", "low", "high"),
            **{key: lines[0][key] for key in ("parameters", "bias_parameters", "seconds_per_step", "peak_memory_mb")},
        )
        for name, lines in by_scheme.items()
    ]
    order = list(GROUPS)
    return sorted(rows, key=lambda row: (order.index(row.kind), row.tail[-1].value))


def written(perplexity: float) -> str:
    """A perplexity in three or four characters.

    >>> [written(value) for value in (5.678, 43.21, 321.0, 4.5e7)]
    ['5.68', '43.2', '321', '4.5e+07']
    """
    if perplexity >= 1e5:
        return f"{perplexity:.1e}"
    return f"{perplexity:.{2 if perplexity < 9.995 else 1 if perplexity < 99.95 else 0}f}"


def terminal_tables(config: dict[str, Any], results: list[dict[str, Any]], width: int) -> list[Any]:
    """The table for a terminal of that width, as rich tables: one where it fits, else perplexities and costs apart."""
    rows = table_rows(results)
    lengths, tail = config["lengths"], config["tail"]
    layout: tuple[tuple[str, ...], ...] = (("tail",), ("all",), ("costs",))
    if width >= 60 + 16 * len(lengths):
        layout = (("tail", "all", "costs"),)
    elif width >= 16 + 16 * len(lengths):
        layout = (("tail", "all"), ("costs",))
    return [_table(rows, lengths, tail, parts) for parts in layout]


def _table(rows: list[Row], lengths: list[int], tail: int, parts: tuple[str, ...]) -> Any:
    box = require("rich.box")
    table = require("rich.table").Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    measured = {"tail": f"of the last {tail} bytes (last)", "all": "of all bytes (all)"}
    said = " and ".join(measured[part] for part in parts if part in measured)
    table.title = f"Perplexity per byte {said}; * best" if said else "What it costs"
    table.add_column("scheme", no_wrap=True)
    for part, word in (("tail", "last"), ("all", "all")):
        if part in parts:
            for length in lengths:
                table.add_column(f"{word}\n{length}", justify="right", no_wrap=True)
    if "costs" in parts:
        for heading in ("para-\nmeters", "of the\nbias", "ms per\nstep", "peak\nMB"):
            table.add_column(heading, justify="right", no_wrap=True)
    kind = None
    for row in rows:
        if row.kind != kind:
            kind = row.kind
            table.add_section()
            table.add_row(f"[dim]{GROUPS[kind]}[/dim]")
        cells = [f"  {row.scheme}"]
        for part, found in (("tail", row.tail), ("all", row.everything)):
            if part in parts:
                cells += [f"[bold green]*{written(cell.value)}[/]" if cell.best else written(cell.value) for cell in found]
        if "costs" in parts:
            cells += [
                f"{row.parameters:,}",
                f"{row.bias_parameters:,}",
                f"{1000 * row.seconds_per_step:.1f}",
                f"{row.peak_memory_mb:.1f}",
            ]
        table.add_row(*cells)
    return table
