import json

import pytest
from typer.testing import CliRunner

from falloff.cli import app


@pytest.fixture
def falloff(monkeypatch, tmp_path):
    """The command, run in an empty folder, 80 columns wide."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, columns=80, stdin=None):
        return CliRunner().invoke(app, [*map(str, arguments)], stdin, env={"COLUMNS": str(columns)}, prog_name="falloff")

    return run


@pytest.fixture
def read(falloff):
    """The one JSON object that a command prints."""

    def run(*arguments, status=0):
        result = falloff(*arguments, "--json")
        assert (result.exit_code, result.stderr) == (status, ""), result.exception
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    return run


@pytest.fixture
def check(falloff, tmp_path):
    def run(content, *arguments, scheme="t5"):
        (tmp_path / "grid.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        named = [] if scheme is None else ["--scheme", scheme]
        return falloff("check", "grid.csv", *named, *arguments)

    return run
