"""The README's Python runs, and its commands exist."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from falloff.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"^falloff (\w+)", README, re.MULTILINE)))


def test_there_is_something_to_run():
    assert len(BLOCKS) >= 2
    assert {"show", "buckets", "check", "explain"} <= set(COMMANDS)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make (\w+)", README)):
        assert f"\n{target}:" in makefile
