"""The tables of the suites `calls`, `short` and `long`: measured values, with targets in brackets."""

from typing import TYPE_CHECKING, Any

from falloff.bench.contestants import NO_BIAS, OLDER, OURS

if TYPE_CHECKING:
    from rich.table import Table

_TITLES = {
    "calls": "One query against 128 keys, H 8, D 64, float32",
    "decode": "One query against a cache of 8192 keys, float32",
    "short": "Short sequences in batches, float32",
    "long": "Long sequences, float32",
}


def beside_tables(result: dict[str, Any]) -> list[Any]:
    """A table for each group, and notes that explain the columns."""
    from rich.text import Text

    cases = result["cases"]
    drawn: list[Any] = []
    for group in dict.fromkeys(case["group"] for case in cases):
        together = [case for case in cases if case["group"] == group]
        drawn.append(_table(_TITLES[group], together, with_peak=group in ("short", "long")))
        if group == "calls":
            drawn.append(_calls_table(together))
    notes = [
        "sdpa: without bias. [ ]: the target. x: the other's median time over that of falloff; above 1 falloff is faster.",
        "best: the ratio of the fastest calls. If it differs much, other work on the machine disturbed the medians.",
    ]
    older = result["against"]
    if older is not None:
        notes.append(f"older: falloff {older['falloff']}, commit {older['commit']}, torch {older['torch']}.")
    return [*drawn, *(Text(note, style="dim") for note in notes)]


def _table(title: str, cases: list[dict[str, Any]], *, with_peak: bool) -> "Table":
    with_older = any(OLDER in case["milliseconds"] for case in cases)
    headings = [f"{OURS}\nms", "sdpa\nms", "\nsdpa", "\nbest", *(["\nolder"] if with_older else [])]
    table = _empty(title, headings)
    if with_peak:
        table.add_column("of\npeak", justify="right", no_wrap=True)
    for case in cases:
        cells = [_ms(case["milliseconds"][OURS]), _ms(case["milliseconds"][NO_BIAS])]
        cells.append(f"{case['ratio'][NO_BIAS]:.2f}x{_aim(case, 'ratio', '.2g')}")
        cells.append(f"{case['milliseconds'][NO_BIAS]['best'] / case['milliseconds'][OURS]['best']:.2f}x")
        if with_older:
            cells.append(f"{case['ratio'][OLDER]:.2f}x" if OLDER in case["ratio"] else "-")
        if with_peak:
            cells.append(f"{case['share_of_peak']:.0%}{_aim(case, 'share_of_peak', '.0%')}")
        table.add_row(case["label"], *cells)
    return table


def _calls_table(cases: list[dict[str, Any]]) -> "Table":
    headings = [f"{OURS}\nx quiet", "sdpa\nx quiet", "operators", "with\ngradients", "\nbackward"]
    table = _empty("The same while four processes spin; operators beside falloff's own", headings)
    for case in cases:
        slower, operators = case["busy"]["over_quiet"], case["operators"]
        table.add_row(
            case["label"],
            f"{slower[OURS]:.1f}{_aim(case, 'busy', '.0f')}",
            f"{slower[NO_BIAS]:.1f}",
            f"{operators['forward']}{_aim(case, 'operators', 'd')}",
            str(operators["training"]),
            str(operators["backward"]),
        )
    return table


def _aim(case: dict[str, Any], key: str, how: str) -> str:
    return f" [{case['targets'][key]:{how}}]" if key in case["targets"] else ""


def _ms(milliseconds: dict[str, float]) -> str:
    return f"{milliseconds['median']:.3g}"


def _empty(title: str, headings: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left", title_style="bold"
    )
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
