"""The reference of the command line, from the help texts: `make command-reference` writes the page, a test compares it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from falloff.cli import app

PAGE = Path(__file__).parents[1] / "pages" / "reference" / "commands.md"
_HEAD = """\
# The command line

<!-- Written by `make command-reference` from the help texts. Do not edit. -->

Every command prints this text with `--help`. With `--json` a command prints one JSON object instead, for programs; a wrong
argument is answered by one line that names it, and exit status 2.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for path, command in _commands("falloff", typer.main.get_command(app)):
        parts += [f"\n## {path}\n", _prose(command.help), *_tables(command)]
    return "\n".join(parts)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands without subcommands, each with its path, such as `falloff hf check`."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from _commands(f"{path} {name}", inner)


def _prose(help_text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in help_text.split("\n\n")]
    return "\n\n".join(_example(part) for part in paragraphs) + "\n"


def _example(paragraph: str) -> str:
    """An example as a block of code, which the tests do not run: they run those of the other pages."""
    found = re.fullmatch(r"Example: (falloff .*)", paragraph)
    return f"Example:\n\n```text\n{found[1]}\n```" if found else _escaped(paragraph)


def _tables(command: Any) -> Iterator[str]:
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or not parameter.help:
            continue
        is_argument = not parameter.opts[0].startswith("-")
        panel = parameter.rich_help_panel or ("Arguments" if is_argument else "Options")
        name = f"`{parameter.metavar}`" if is_argument else ", ".join(f"`{one}`" for one in _names(parameter))
        if not is_argument and parameter.metavar:
            name += f" {_escaped(parameter.metavar)}"
        panels.setdefault(panel, []).append(f"| {name} | {_escaped(parameter.help)}{_default(parameter)} |")
    for panel, rows in panels.items():
        yield "\n".join([f"| {panel} | what it does |", "|---|---|", *rows, ""])


def _names(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def _default(parameter: Any) -> str:
    default = parameter.default
    shown = parameter.show_default and default is not None and not isinstance(default, bool) and not callable(default)
    return f" By default {default}." if shown else ""


def _escaped(text: str) -> str:
    """Text whose signs mean nothing to Markdown, but for `code`, in which only a table's bar does."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = (part.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[") for part in parts[::2])
    return "`".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
