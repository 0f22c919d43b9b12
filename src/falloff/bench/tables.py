"""The result of a suite as rich tables, from the dictionary that `--json` prints."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from falloff.bench.beside_tables import beside_tables
from falloff.bench.cases import BIASES
from falloff.bench.content import content_tables
from falloff.bench.contestants import DENSE, EAGER, FLEX, LEARNED, NAMES, NO_BIAS, OURS

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = {NO_BIAS: "sdpa\nno bias", DENSE: "sdpa\ndense", LEARNED: "sdpa\nlearned", FLEX: "\nflex", EAGER: "\neager"}
_MOST_LABELS = 4  # a note names up to so many cases; more are counted
_GROUPS = {
    "forward": "Forward, T5 bias, float32",
    "forms": "Forward, biases that do not depend on the offset alone, float32",
    "far": "Forward at great lengths, ALiBi, float32",
    "training": "Forward + backward with the gradient of the bias, float32",
    "bfloat16": "Forward, T5 bias, bfloat16",
    "bfloat16 training": "Forward + backward with the gradient of the bias, bfloat16",
    "decode": "One query against a cache, float32",
    "short": "Short sequences in batches, float32",
}


def machine_line(result: dict[str, Any]) -> str:
    """Machine, versions and peak in one line, above every table: ratios hold for the machine they were measured on."""
    found, versions = result["machine"], result["versions"]
    parts = [found["cpu"], f"{result['threads']} threads", f"impl {result['impl']}"]
    if result["isa"] is not None:
        parts.append(result["isa"])
    if result["peak_gflops"] is not None:
        by = {"fma": "FMA", "matmul": "matmul"}[result["peak_measured_by"]]
        parts.append(f"measured {by} peak {result['peak_gflops']:.0f} GF/s (float32)")
    return ", ".join(
        [*parts, f"falloff {versions['falloff']}", f"torch {versions['torch']}", f"Python {versions['python']}"]
    )


def tables(result: dict[str, Any]) -> list[Any]:
    """The tables of a suite, with lines of text."""
    draw: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
        "cpu": _cpu_tables,
        "memory": _memory_table,
        "scaling": _scaling_tables,
        "calls": beside_tables,
        "short": beside_tables,
        "long": beside_tables,
        "content": content_tables,
    }
    count = len(result["cases"])
    verified = f"{count} {'case' if count == 1 else 'cases'} verified against the definition in float64, with gradients."
    return [_dim(machine_line(result)), _dim(verified), *draw[result["suite"]](result)]


def skipped_notes(cases: Iterable[dict[str, Any]]) -> list[str]:
    """Which contestants were left out and why, one line for each reason.

    >>> skipped_notes([{"label": "T5", "skipped": {"flex": "slow"}}, {"label": "FIRE", "skipped": {"flex": "slow"}}])
    ['flex: slow (T5; FIRE)']
    """
    labels: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for name, reason in case["skipped"].items():
            labels.setdefault((name, reason), []).append(case["label"])
    return [
        f"{name}: {reason} ({'; '.join(where) if len(where) <= _MOST_LABELS else f'{len(where)} cases'})"
        for (name, reason), where in labels.items()
    ]


def _cpu_tables(result: dict[str, Any]) -> list[Any]:
    drawn: list[Any] = []
    cases = result["cases"]
    for group in dict.fromkeys(case["group"] for case in cases):
        together = [case for case in cases if case["group"] == group]
        present = {name for case in together for name in case["ratio"]}
        rivals = [name for name in NAMES if name in present]
        table = _table(_GROUPS[group])
        for heading in (f"{OURS}\nms", "\nGF/s", "of\npeak", *(_HEADINGS[name] for name in rivals)):
            table.add_column(heading, justify="right", no_wrap=True)
        for case in together:
            ratios = [f"{case['ratio'][name]:.2f}x" if name in case["ratio"] else "-" for name in rivals]
            table.add_row(case["label"], _ms(case, OURS), f"{case['gflops']:.0f}", f"{case['share_of_peak']:.0%}", *ratios)
        drawn.append(table)
    drawn.append(
        _dim("x: the time of the other over that of falloff, medians of turns side by side; above 1 falloff is faster.")
    )
    drawn.append(_dim("GF/s counts every visible pair, also those that falloff skips; the peak is that of float32."))
    return [*drawn, *map(_dim, skipped_notes(cases))]


def _memory_table(result: dict[str, Any]) -> list[Any]:
    table = _table("Forward + backward: memory beyond inputs, output and gradients, in MB (times query + key + value)")
    cases = result["cases"]
    names = [name for name in NAMES if any(name in case["memory"] for case in cases)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        found = [case["memory"].get(name) for name in names]
        cells = ["-" if own is None else f"{own['extra'] / 1e6:.1f} ({own['extra_over_inputs']:.2f}x)" for own in found]
        table.add_row(case["label"], *cells)
    return [table, *map(_dim, skipped_notes(cases))]


def _scaling_tables(result: dict[str, Any]) -> list[Any]:
    drawn: list[Any] = []
    cases = result["cases"]
    for group, title in (("forward", "Forward"), ("training", "Forward + backward")):
        together = [case for case in cases if case["group"] == group]
        labels = list(dict.fromkeys(case["bias"] for case in together))
        table = _table(f"{title}, causal, float32: ms (SDPA over falloff)")
        for label in labels:
            table.add_column(f"{OURS}\n{BIASES[label]}", justify="right", no_wrap=True)
        table.add_column(NO_BIAS, justify="right", no_wrap=True)
        for length in dict.fromkeys(case["shape"]["queries"] for case in together):
            found = {case["bias"]: case for case in together if case["shape"]["queries"] == length}
            cells = [
                f"{_ms(found[label], OURS)} ({found[label]['ratio'][NO_BIAS]:.2f}x)" if label in found else "-"
                for label in labels
            ]
            table.add_row(f"N={length}", *cells, _ms(next(iter(found.values())), NO_BIAS))
        if together:
            drawn.append(table)
    return drawn


def _ms(case: dict[str, Any], name: str) -> str:
    median = case["milliseconds"][name]["median"]
    return f"{median:.{2 if median < 9.995 else 1 if median < 99.95 else 0}f}"


def _table(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left", title_style="bold"
    )
    table.add_column("", no_wrap=True)
    return table


def _dim(line: str) -> Any:
    from rich.text import Text

    return Text(line, style="dim")
