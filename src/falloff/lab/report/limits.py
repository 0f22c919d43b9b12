"""What a comparison of this size can show and what not, and what its numbers may be compared with."""

import math
from html import escape
from typing import Any

from falloff.lab.findings.tables import TaskTable, short_name, unit_of
from falloff.lab.protocols import PROTOCOLS


def limits_section(tables: list[TaskTable], config: dict[str, Any]) -> str:
    """The section."""
    points = "".join(f"<li>{escape(line)}</li>" for line in limits(tables, config))
    return f"""<section id="limits">
<h2>What this can show, and what not</h2>
<ul>{points}</ul>
</section>"""


def limits(tables: list[TaskTable], config: dict[str, Any]) -> list[str]:
    """What follows from the numbers of seeds, schemes, steps and parameters, a sentence or two each."""
    return [_seeds(tables), *_smallest(tables), _size(tables, config), *_protocol(tables, config)]


def _seeds(tables: list[TaskTable]) -> str:
    seeds = tables[0].seeds
    if len(seeds) == 1:
        return (
            f"One seed ({seeds[0]}): the tests say whether these trained models differ on other windows or problems, not "
            "whether the schemes would differ again in another training run. Several seeds answer that: --seeds 0..4."
        )
    often = (
        "With so few, only large and steady differences are shown: " if len(seeds) < 5 else "A difference that is shown: "
    )
    return (
        f"{len(seeds)} seeds, which change initial weights and batches together, the same for every scheme. {often}"
        "the mean over other seeds would most likely differ the same way, on this text or these problems and at this size. "
        "Holm's correction keeps the chance of any wrong claim in a column at 5% or less; with several columns there are "
        "several such chances."
    )


def _smallest(tables: list[TaskTable]) -> list[str]:
    found = []
    for table in tables:
        measure = table.measures[0]
        name, length = max(key for key in table.columns if key[0] == measure["name"])
        column = table.columns[name, length]
        if column.smallest_shown is None:
            continue
        of = f"{len(table.seeds)} seeds" if column.over == "seeds" else "these items"
        pairs = f"{len(column.differences)} {'pair' if len(column.differences) == 1 else 'pairs'}"
        step = f"the first step of the correction for {pairs}"
        least = _least(column.smallest_shown, measure)
        shown = f"begin to show differences of about {least}" if least else "are too few to show any difference"
        found.append(
            f"Task {table.task}, {short_name(measure).lower()} at {length:,}: between a typical pair of schemes, {of} "
            f"{shown} ({step})."
        )
    return found


def _least(smallest: float, measure: dict[str, Any]) -> str | None:
    """A difference in words; None if no two schemes can be so far apart, or a perplexity would be above another 1000 times.

    >>> [_least(nats, {"exponential": True}) for nats in (0.0123, 2.0, 30.0)]
    ['1.2% of perplexity', '640% of perplexity', None]
    >>> [_least(share, {"exponential": False}) for share in (0.0123, 1.0, 1.5)]
    ['1.2 percentage points', '100 percentage points', None]
    """
    size = math.expm1(min(smallest, 100.0)) if measure["exponential"] else smallest
    if size > (1000 if measure["exponential"] else 1):
        return None
    percent = float(f"{100 * size:.2g}")
    return f"{percent:g}{'% of perplexity' if measure['exponential'] else ' percentage points'}"


def _size(tables: list[TaskTable], config: dict[str, Any]) -> str:
    settings = config["settings"]
    unit = unit_of(config, tables[0].task)
    tokens = settings["steps"] * settings["batch_size"] * settings["train_length"]
    counts = [row.cost.parameters for table in tables for row in table.rows]
    parameters = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    return (
        f"Models of {parameters} parameters, trained for {settings['steps']:,} steps on {tokens:,} {unit}s, "
        f"{tokens / max(counts):.2g} for each parameter. Whether the schemes have the same order in larger models, on "
        "another text or after longer training is not known from here."
    )


def _protocol(tables: list[TaskTable], config: dict[str, Any]) -> list[str]:
    of_text = [table.task for table in tables if config["tasks"][table.task]["needs_text"]]
    if not of_text:
        return []
    unit = unit_of(config, of_text[0])
    settings = config["settings"]
    protocol = PROTOCOLS[settings["protocol"]]
    k = f" (k = {config['tail']})" if "tail" in protocol.measures else ""
    size = "" if unit == "byte" else f" ({config['text']['bytes_per_token']:.2f} bytes on average)"
    return [
        f"Protocol {settings['protocol']}{k}: {protocol.words}. {protocol.source}.",
        f"Perplexity is per {unit}{size} of this text. It can be compared within this report only, and not with numbers of "
        "another protocol, another k, another tokenizer or another text: each of these changes it, whatever the model.",
    ]
