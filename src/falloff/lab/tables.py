"""The table of a comparison: its cells, and how it looks in the terminal. The report shows the same cells."""

from dataclasses import dataclass
from typing import Any

from falloff.lab.evaluation import difference_interval
from falloff.lab.extras import require

GROUPS = {"learned": "Learned", "heuristic": "Heuristic", "baseline": "Baseline"}
"""The kinds in the order of the table, with their headings."""
_MARKS = "* best, ~ level with the lowest"


@dataclass(frozen=True)
class Cell:
    """A perplexity in the table.

    Args:
        value, low, high: the perplexity and its own 95% interval.
        best: whether it is significantly lower than that of every other scheme in this column: the 95% interval of the
            paired difference of their losses on the same windows excludes 0.
        level: whether no scheme is the best of the column, and this one is the lowest or not significantly different from
            the lowest.
    """

    value: float
    low: float
    high: float
    best: bool
    level: bool


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


def table_rows(config: dict[str, Any], results: list[dict[str, Any]]) -> list[Row]:
    """Rows in groups (learned, heuristic, baseline), each sorted by tail perplexity at the longest length."""
    results = old_lines(results)
    names = list(dict.fromkeys(line["scheme"] for line in results))
    by_scheme = {name: [line for line in results if line["scheme"] == name] for name in names}
    lengths = [line["length"] for line in by_scheme[names[0]]]
    columns = {
        (key, length): _lowest(
            {line["scheme"]: line[key] for line in results if line["length"] == length},
            1 if key == "tail_losses" else next(line["together"] for line in results if line["length"] == length),
        )
        for key in ("tail_losses", "losses")
        for length in lengths
    }

    def cells(lines: list[dict[str, Any]], key: str, low: str, high: str, losses: str) -> tuple[Cell, ...]:
        found = []
        for line in lines:
            lowest = columns[losses, line["length"]]
            among = line["scheme"] in lowest and len(names) > 1
            alone = len(lowest) == 1
            found.append(Cell(line[key], line[low], line[high], best=among and alone, level=among and not alone))
        return tuple(found)

    rows = [
        Row(
            scheme=name,
            kind=lines[0]["kind"],
            tail=cells(lines, "perplexity_tail", "tail_low", "tail_high", "tail_losses"),
            everything=cells(lines, "perplexity", "low", "high", "losses"),
            **{key: lines[0][key] for key in ("parameters", "bias_parameters", "seconds_per_step", "peak_memory_mb")},
        )
        for name, lines in by_scheme.items()
    ]
    order = list(GROUPS)
    return sorted(rows, key=lambda row: (order.index(row.kind), row.tail[-1].value))


def old_lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each scheme and length, of the text and the first seed."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    first = results[0]
    for line in results:
        if (line["task"], line["seed"]) != (first["task"], first["seed"]):
            continue
        one = found.setdefault((line["scheme"], line["length"]), {**line})
        keys = ("perplexity_tail", "tail_low", "tail_high", "tail_losses")
        if line["measure"] != "tail":
            keys = ("perplexity", "low", "high", "losses")
            one["together"] = line["together"]
        one |= dict(zip(keys, (line[key] for key in ("value", "low", "high", "items")), strict=True))
    return list(found.values())


def _lowest(losses: dict[str, list[float]], together: int) -> set[str]:
    """The scheme with the lowest mean loss, and those not significantly different. `together`: windows that overlap.

    >>> sorted(_lowest({"t5": [1.0, 2.0, 3.0], "fire": [1.1, 1.9, 3.1], "rope": [2.0, 3.0, 4.0]}, 1))
    ['fire', 't5']
    """
    lowest = min(losses, key=lambda name: sum(losses[name]))
    return {name for name in losses if name == lowest or difference_interval(losses[lowest], losses[name], together)[0] <= 0}


def written(perplexity: float) -> str:
    """A perplexity in three or four characters.

    >>> [written(value) for value in (5.678, 43.21, 321.0, 4.5e7)]
    ['5.68', '43.2', '321', '4.5e+07']
    """
    if perplexity >= 1e5:
        return f"{perplexity:.1e}"
    return f"{perplexity:.{2 if perplexity < 9.995 else 1 if perplexity < 99.95 else 0}f}"


def terminal_tables(config: dict[str, Any], results: list[dict[str, Any]], width: int) -> list[Any]:
    """The table for a terminal of this width: one rich table if it fits, else perplexities and costs separately."""
    rows = table_rows(config, results)
    lengths, tail = config["lengths"], config["tail"]
    layout: tuple[tuple[str, ...], ...] = (("tail",), ("all",), ("costs",))
    if width >= 60 + 16 * len(lengths):
        layout = (("tail", "all", "costs"),)
    elif width >= 16 + 16 * len(lengths):
        layout = (("tail", "all"), ("costs",))
    return [_table(rows, lengths, tail, parts) for parts in layout]


def _marked(cell: Cell) -> str:
    if cell.best:
        return f"[bold green]*{written(cell.value)}[/]"
    return f"[green]~{written(cell.value)}[/]" if cell.level else written(cell.value)


def _table(rows: list[Row], lengths: list[int], tail: int, parts: tuple[str, ...]) -> Any:
    box = require("rich.box")
    table = require("rich.table").Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    measured = {"tail": f"of the last {tail} bytes (last)", "all": "of all bytes (all)"}
    said = " and ".join(measured[part] for part in parts if part in measured)
    table.title = f"Perplexity per byte {said}; {_MARKS}" if said else "What it costs"
    table.add_column("scheme", overflow="fold")  # the name of a file may be long
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
        cells = [f"  {require('rich.markup').escape(row.scheme)}"]
        for part, found in (("tail", row.tail), ("all", row.everything)):
            if part in parts:
                cells += [_marked(cell) for cell in found]
        if "costs" in parts:
            cells += [
                f"{row.parameters:,}",
                f"{row.bias_parameters:,}",
                f"{1000 * row.seconds_per_step:.1f}",
                f"{row.peak_memory_mb:.1f}",
            ]
        table.add_row(*cells)
    return table
