"""Which implementations run on this machine: `falloff info`."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import falloff
from falloff.cli.json_keys import print_json
from falloff.cli.settings import Json
from falloff.installed import declared
from falloff.ops import cpu, implementations

_DESCRIPTIONS = {
    "cpu": "C++ kernels for the CPU, O(N) memory",
    "triton": "Triton kernels for GPUs, O(N) memory",
    "blockwise": "plain torch on any device, O(N) memory",
    "reference": "the definition in plain torch, O(N M) memory",
}


def info(as_json: Json = False) -> None:
    """Show which implementations of attention run here, and why the others do not.

    The environment variable FALLOFF_CPU_ISA forces an instruction set of the CPU kernels.

    Keys of --json: implementations (list of name, runs, why: null if it runs; in the order in which impl="auto" tries
    them, then reference, which only runs by name), instruction_set (in_use, available, forced), threads, versions
    (python, falloff, torch, triton, and compiler, which built the CPU kernels; null if there is none), devices (list
    of device and name) and schemes (list of name, package, class and refused: why the name is not taken, or null), which
    installed packages declare.

    Example: falloff info
    """
    found = facts()
    if as_json:
        print_json(found)
    else:
        _print(found)


def facts() -> dict[str, Any]:
    """The content of `falloff info --json`."""
    from falloff.environment import machine

    devices = [{"device": "cpu", "name": machine("cpu")["cpu"]}]
    for index in range(torch.cuda.device_count()):
        devices += [{"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)}]
    reasons = {name: _why_not(name) for name in implementations.IMPLEMENTATIONS} | {"reference": None}
    return {
        "implementations": [{"name": name, "runs": why is None, "why": why} for name, why in reasons.items()],
        "instruction_set": _instruction_set(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "falloff": falloff.__version__,
            "torch": torch.__version__,
            "triton": _version("triton"),
            "compiler": _compiler(),
        },
        "devices": devices,
        "schemes": [
            {"name": one.name, "package": one.package, "class": one.point.value, "refused": one.refused}
            for one in declared()
        ],
    }


def _why_not(name: str) -> str | None:
    """Why that implementation cannot run on this machine, or None."""
    reason = implementations.IMPLEMENTATIONS[name].unavailable()
    if reason is None and name == "cpu":
        try:
            cpu.instruction_set()
        except ValueError as error:  # FALLOFF_CPU_ISA names one that this machine lacks
            return str(error)
    return reason


def _instruction_set() -> dict[str, Any]:
    try:
        available = list(import_module("falloff.ops.cpu._kernels").instruction_sets())
    except ImportError:
        available = []
    in_use = None
    if available and _why_not("cpu") is None:
        in_use = cpu.instruction_set()
    return {"in_use": in_use, "available": available, "forced": os.environ.get("FALLOFF_CPU_ISA")}


def _compiler() -> str | None:
    try:
        return str(import_module("falloff.ops.cpu._kernels").compiler)
    except ImportError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _print(found: dict[str, Any]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("implementation", "runs", ""):
        table.add_column(heading)
    for entry in found["implementations"]:
        runs = Text("yes", style="green") if entry["runs"] else Text("no", style="red")
        table.add_row(entry["name"], runs, Text(entry["why"] or _DESCRIPTIONS.get(entry["name"], "")))
    isa = found["instruction_set"]
    sets = ", ".join(name + (" (in use)" if name == isa["in_use"] else "") for name in isa["available"]) or "none"
    forced = "" if isa["forced"] is None else f"; FALLOFF_CPU_ISA={isa['forced']}"
    facts_table = Table.grid(padding=(0, 2))
    facts_table.add_row("instruction sets", Text(sets + forced))
    facts_table.add_row("threads", str(found["threads"]))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number is not None)
    facts_table.add_row("versions", versions)
    for entry in found["devices"]:
        facts_table.add_row(entry["device"], Text(entry["name"]))
    for entry in found["schemes"]:
        fate = "" if entry["refused"] is None else f", not taken: {entry['refused']}"
        facts_table.add_row("scheme", Text(f"{entry['name']} of {entry['package']} ({entry['class']}){fate}"))
    console = Console(highlight=False)
    console.print(table)
    console.print(facts_table)
