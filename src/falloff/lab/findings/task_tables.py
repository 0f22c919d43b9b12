"""Exact match by length and depth, and how it looks in the terminal."""

from collections import defaultdict
from typing import Any

from falloff.lab.extras import require
from falloff.views.palette import SEQUENTIAL, shade

_BARS = "▁▂▃▄▅▆▇█"

Shares = dict[int, dict[float, float]]
"""Of one scheme: by length, then by depth, the share of problems answered exactly."""


def shares_by_depth(results: list[dict[str, Any]], task: str) -> dict[str, Shares]:
    """The shares of each scheme, in the order of the results: of all seeds together, lengths and depths rising.

    Args:
        results: lines of results.jsonl; those of other tasks, and without depths, are ignored.
        task: its name.
    """
    items: dict[str, dict[int, dict[float, list[float]]]] = {}
    for line in results:
        if line["task"] != task or line["depths"] is None:
            continue
        of_length = items.setdefault(line["scheme"], {}).setdefault(line["length"], defaultdict(list))
        for depth, item in zip(line["depths"], line["items"], strict=True):
            of_length[depth].append(item)
    return {
        scheme: {
            length: {depth: sum(found) / len(found) for depth, found in sorted(by_depth.items())}
            for length, by_depth in sorted(by_length.items())
        }
        for scheme, by_length in items.items()
    }


def scheme_table(title: str) -> Any:
    """A rich table with a row for each scheme: its title and first column."""
    box = require("rich.box")
    table = require("rich.table").Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = title
    table.add_column("scheme", overflow="fold")  # the name of a file may be long
    return table


def depth_table(results: list[dict[str, Any]], task: str) -> Any:
    """A rich table: for each scheme and length the share of exact answers, and a bar for each depth, the beginning first.

    Args:
        results: as in results.jsonl.
        task: one with depths.
    """
    text = require("rich.text")
    table = scheme_table(f"Task {task}: exact answers in percent, a bar for each depth")
    shares = shares_by_depth(results, task)
    for length in next(iter(shares.values())):
        table.add_column(f"{length:,}", no_wrap=True)
    for scheme, by_length in shares.items():
        means = [sum(by_depth.values()) / len(by_depth) for by_depth in by_length.values()]
        cells = [
            text.Text.assemble(
                f"{100 * mean:3.0f} ", *((bar(share), shade(SEQUENTIAL, share)) for share in by_depth.values())
            )
            for mean, by_depth in zip(means, by_length.values(), strict=True)
        ]
        table.add_row(text.Text(scheme), *cells)
    return table


def bar(share: float) -> str:
    """One of eight heights.

    >>> "".join(bar(share) for share in (0.0, 0.1, 0.5, 0.99, 1.0))
    '▁▂▅▇█'
    """
    # Only a share of 0 is the lowest, and only one of 1 the highest.
    return _BARS[0] if share <= 0 else _BARS[-1] if share >= 1 else _BARS[1 + int(share * (len(_BARS) - 2))]
