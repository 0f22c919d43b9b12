"""Code in the pages: which blocks the tests run, and blocks of commands whose output is shown.

A fence `run` holds commands of falloff. Their output is made before the site is built, and stands below them on the page, so
that no output in a page can go stale. A fence `sh` holds commands alone. A comment before a block says what the tests do:

    <!-- not run: REASON -->            the tests leave it out
    <!-- run with: --steps 2 -->        the tests add options to each command, so that it ends soon
"""

import html
import json
import os
import re
import shlex
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUTS = Path(__file__).parents[2] / "build" / "docs" / "outputs.json"
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>not run|run with): (?P<what>.*?) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        kind: of the fence, such as python, sh, run.
        line: of the page.
        reason: why the tests do not run it; empty if they do.
        more: what the tests add to its commands.
    """

    kind: str
    code: str
    line: int
    reason: str = ""
    more: str = ""

    def commands(self) -> list[str]:
        """The commands of a block, one a line; a backslash at the end of a line goes on."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of code of a page in Markdown, in order."""
    for found in _BLOCK.finditer(text):
        what = {"not run": "reason", "run with": "more"}
        more = {what[found["mark"]]: found["what"]} if found["mark"] else {}
        yield Block(found["kind"], textwrap.dedent(found["code"]), text.count("\n", 0, found.start("kind")) + 1, **more)


def output_of(command: str) -> str:
    """What a command of falloff prints.

    Raises:
        ValueError: if it fails.
    """
    from typer.testing import CliRunner

    from falloff.cli import app

    words = shlex.split(command, comments=True)
    if words[0] != "falloff":
        raise ValueError(f"command: got {command!r}, expected one of falloff")
    result = CliRunner().invoke(app, words[1:], prog_name="falloff", env={"COLUMNS": "88", "NO_COLOR": "1"})
    if result.exit_code not in (0, 1):  # 1: the check that the command makes failed, which may be what the page shows
        raise ValueError(f"command: {command!r} failed with {result.exit_code}: {result.output}{result.exception or ''}")
    return result.output


@contextmanager
def folder_for(files: dict[str, str]) -> Iterator[None]:
    """A new current folder with these files, for the commands of a page."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def files_of(text: str) -> dict[str, str]:
    """The files that a page shows: blocks with a title, such as ```python title="logarithmic.py"."""
    shown = re.finditer(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<code>.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return {found["name"]: found["code"] for found in shown}


def write_outputs(pages: list[Path]) -> None:
    """Run the commands of all `run` blocks, and store what they print."""
    outputs: dict[str, str] = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        commands = [command for block in blocks(text) if block.kind == "run" for command in block.commands()]
        if commands:
            with folder_for(files_of(text)):
                outputs |= {command: output_of(command) for command in commands}
    OUTPUTS.parent.mkdir(parents=True, exist_ok=True)
    OUTPUTS.write_text(json.dumps(outputs), encoding="utf-8")


def format_run(source: str, language: str, css_class: str, options: Any, md: Any, **more: Any) -> str:
    """A `run` block as HTML: its commands, each above its output. Called by pymdownx.superfences."""
    outputs = json.loads(OUTPUTS.read_text(encoding="utf-8"))
    shown = []
    for command in Block(language, source, 0).commands():
        output = "\n".join(line.rstrip() for line in outputs[command].strip("\n").splitlines())
        shown.append(
            f'<div class="{css_class}"><pre class="command"><code>{html.escape(command)}</code></pre>'
            f'<pre class="output" tabindex="0"><code>{html.escape(output)}</code></pre></div>'
        )
    return "\n".join(shown)
