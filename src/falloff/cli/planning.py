"""Printing the plan of a comparison: `falloff compare --dry-run`."""

import json
import sys
from typing import Any


def print_plan(stored: dict[str, Any], gpu: str | None, utilisation: float | None, *, as_json: bool) -> None:
    """Make the plan of a comparison with these settings, as JSON has them, and print it.

    Raises:
        ValueError: as `falloff.lab.planning.plan` does.
    """
    from rich.console import Console
    from rich.progress import Progress

    from falloff.lab.config import Settings
    from falloff.lab.planning import plan

    settings = Settings.from_json(stored)
    silent = as_json or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=silent) as bars:
        bar = bars.add_task("planning", total=len(settings.schemes) + (gpu is None))
        found = plan(settings, gpu, utilisation, lambda name: bars.update(bar, advance=1, description=name))
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        _print(found, Console(highlight=False))


def _print(found: dict[str, Any], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]The plan of {found['trials']:,} trials, preset {found['preset']}; nothing was trained[/]\n")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("scheme", overflow="fold")
    for heading in ("para-\nmeters", "of the\nbias", "memory of\na step", "time of\na trial"):
        table.add_column(heading, justify="right")
    for line in found["schemes"]:
        memory = f"{line['memory']['peak'] / 1e9:.2f} GB"
        shown = (f"{line['parameters']:,}", f"{line['bias_parameters']:,}", memory, duration(line["hours"]))
        table.add_row(escape(line["scheme"]), *shown)
    console.print(table)
    facts = Table.grid(padding=(0, 2))
    settings = found["settings"]
    per_step = f"{settings['batch_size']:,} x {settings['train_length']:,}"
    if settings["accumulate"] > 1:
        per_step += f", in {settings['accumulate']} parts"
    facts.add_row("steps", f"{found['steps']:,} of {found['tokens_per_step']:,} tokens ({per_step})")
    facts.add_row("tokens of a trial", f"{found['training_tokens']:,} to train on, {found['test_tokens']:,} tested")
    facts.add_row("seeds, tasks", f"{', '.join(map(str, settings['seeds']))}; {', '.join(settings['tasks'])}")
    facts.add_row(
        "operations in all", f"{quantity(found['total_flops'])}FLOP: 6 N for each token and 6 L W (T + 1) for attention"
    )
    facts.add_row("time in all", f"{duration(found['total_hours'])} on one device, one trial after the other: an estimate")
    facts.add_row("speed", f"{quantity(found['flops_per_second'])}FLOP/s, {escape(found['speed'])}")
    if found["paper"] is not None:
        facts.add_row("protocol", escape(found["paper"]["reference"]))
        facts.add_row("its text", escape(found["paper"]["text"]))
        facts.add_row("its tokens", escape(found["paper"]["tokens"]))
    console.print(facts)
    if found["paper"] is not None:
        _listed(console, "What falloff does otherwise:", found["paper"]["differs"])
        chosen = found["paper"]["chosen"]
        _listed(console, "Not stated by a source, and chosen:", [f"{name}: {why}" for name, why in chosen.items()])


def _listed(console: Any, title: str, lines: list[str]) -> None:
    if not lines:
        return
    from rich.markup import escape
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", escape(line))
    console.print(f"\n[bold]{title}[/]")
    console.print(grid)


def quantity(number: float) -> str:
    """A large number with the prefix of its unit.

    >>> [quantity(number) for number in (7.55e9, 3.96e14, 1.6e19)]
    ['7.55 G', '396 T', '16 E']
    """
    power = min(max((len(str(int(number))) - 1) // 3, 0), 6)
    return f"{number / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"


def duration(hours: float) -> str:
    """A time in the unit that fits it.

    >>> [duration(hours) for hours in (0.004, 0.2, 5.25, 100.0)]
    ['14 s', '12 min', '5.2 h', '4.2 days']
    """
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"
