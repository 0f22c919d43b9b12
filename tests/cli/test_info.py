import json
import re
import sys

import pytest
from typer.testing import CliRunner

from falloff.cli import app
from falloff.ops import cpu, implementations


def _info(*arguments):
    result = CliRunner().invoke(app, ["info", *arguments], env={"COLUMNS": "100"}, prog_name="falloff")
    assert (result.exit_code, result.stderr) == (0, ""), result.exception
    return result.stdout


def test_json():
    found = json.loads(_info("--json"))
    assert list(found) == ["implementations", "instruction_set", "threads", "versions", "devices", "schemes"]
    assert [entry["name"] for entry in found["implementations"]] == [*implementations.IMPLEMENTATIONS, "reference"]
    assert all(entry["runs"] == (entry["why"] is None) for entry in found["implementations"])
    assert list(found["instruction_set"]) == ["in_use", "available", "forced"]
    assert found["instruction_set"]["in_use"] == cpu.instruction_set()
    assert list(found["versions"]) == ["python", "falloff", "torch", "triton", "compiler"]
    assert found["versions"]["compiler"].startswith(("GCC ", "clang "))
    assert found["devices"][0]["device"] == "cpu"


def test_for_people():
    printed = _info()
    assert re.search(r"cpu +yes", printed)
    assert f"{cpu.instruction_set()} (in use)" in printed
    assert "torch" in printed


def test_a_forced_instruction_set_that_is_not_there_is_reported(monkeypatch):
    monkeypatch.setenv("FALLOFF_CPU_ISA", "sse9")
    found = json.loads(_info("--json"))
    assert found["implementations"][0]["runs"] is False
    assert found["implementations"][0]["why"].startswith("FALLOFF_CPU_ISA: got 'sse9', expected one of ")
    assert (found["instruction_set"]["in_use"], found["instruction_set"]["forced"]) == (None, "sse9")
    assert re.search(r"cpu +no +FALLOFF_CPU_ISA: got 'sse9'", _info())


def test_without_kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "falloff.ops.cpu._kernels", None)
    monkeypatch.setattr(cpu, "_why_not", cpu._load()[1])
    found = json.loads(_info("--json"))
    assert found["instruction_set"] == {"in_use": None, "available": [], "forced": None}
    assert found["versions"]["compiler"] is None
    assert "without its CPU kernels" in found["implementations"][0]["why"]
    assert found["implementations"][1]["runs"] is True


@pytest.mark.parametrize("arguments", [["cpu"], ["--yaml"]])
def test_bad_input(arguments):
    result = CliRunner().invoke(app, ["info", *arguments], prog_name="falloff")
    assert result.exit_code == 2
    assert result.stderr.startswith("falloff: ")
    assert result.stderr.count("\n") == 1


def test_every_key_is_documented():
    help_text = CliRunner().invoke(app, ["info", "--help"], env={"COLUMNS": "200"}, prog_name="falloff").stdout
    found = json.loads(_info("--json"))
    keys = {*found, *found["implementations"][0], *found["instruction_set"], *found["versions"], *found["devices"][0]}
    assert {key for key in keys if not re.search(rf"\b{key}\b", help_text)} == set()
