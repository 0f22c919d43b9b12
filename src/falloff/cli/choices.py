"""What `falloff compare` offers, with a sentence each: `falloff compare --list`."""

import json
from collections.abc import Callable

from falloff.installed import declared
from falloff.lab.config import BASELINES, KNOWN_SCHEMES
from falloff.lab.presets import PRESETS
from falloff.lab.protocols import PROTOCOLS
from falloff.lab.tasks import TASKS
from falloff.schemes import SCHEMES

_BASELINES = {"rope": "No bias: queries and keys are rotated by their positions.", "none": "No positions at all."}


def _schemes() -> dict[str, str]:
    """With those of installed packages, none of whose code runs."""
    ours = {name: _BASELINES[name] if name in BASELINES else SCHEMES[name].reading for name in KNOWN_SCHEMES}
    theirs = [(one.name, f"Of the package {one.package}.") for one in declared() if one.refused is None]
    return {**ours, **dict(theirs)}


CHOICES: dict[str, Callable[[], dict[str, str]]] = {
    "presets": lambda: {name: preset.summary for name, preset in PRESETS.items()},
    "tasks": lambda: {name: task.summary for name, task in TASKS.items()},
    "protocols": lambda: {name: f"{protocol.words}. {protocol.source}." for name, protocol in PROTOCOLS.items()},
    "schemes": _schemes,
}
"""The names and summaries of each kind of choice."""


def print_choices(what: str, *, as_json: bool) -> None:
    """Print the names of one kind of choice, each with its sentence.

    Raises:
        ValueError: for an unknown kind.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if what not in CHOICES:
        raise ValueError(f"list: got {what!r}, expected one of {', '.join(CHOICES)}")
    found = CHOICES[what]()
    if as_json:
        print(json.dumps([{"name": name, "summary": summary} for name, summary in found.items()]))
        return
    table = Table.grid(padding=(0, 2))
    for name, summary in found.items():
        table.add_row(name, Text(summary[:1].upper() + summary[1:]))
    Console(highlight=False).print(table)
