"""What only a process of its own shows: what is loaded, what is missing, pipes. Each takes seconds, so they are few."""

import os
import re
import subprocess
import sys

HEAVY = ("accelerate", "plotly", "matplotlib", "transformers", "datasets", "tokenizers", "safetensors", "jaxtyping")


def run(code, **environment):
    # Nothing of the tests themselves, such as a coloured terminal, is to leak into what is tested.
    env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env | environment, check=False, encoding="utf-8"
    )


def test_help_and_a_grid_load_nothing_heavy_and_a_figure_says_what_it_needs(tmp_path):
    code = f"""
import sys
from falloff.cli import run

def call(*arguments):
    try:
        run(list(arguments))
    except SystemExit as stopped:
        print("status", stopped.code, [name for name in {HEAVY} if name in sys.modules])

call("--help")
call()
call("show", "t5", "--tokens", "é 日 \\x1b[31m")
sys.modules["matplotlib"] = None
call("show", "t5", "--image", {str(tmp_path / "grid.png")!r})
del sys.modules["matplotlib"]
call("show", "t5", "--image", {str(tmp_path / "grid.png")!r})
print("pyplot", "matplotlib.pyplot" in sys.modules)
"""
    result = run(code, PYTHONIOENCODING="ascii", COLUMNS="80")
    assert result.stdout.count("status 0 []") == 3
    assert result.stdout.count("Usage: falloff") == 2
    for command in ("show", "buckets", "check", "explain", "info", "bench"):
        assert f" {command} " in result.stdout
    assert "\\xe9" in result.stdout  # a terminal without Unicode is served
    assert "\x1b" not in result.stdout  # and a pipe gets plain text
    assert "status 2" in result.stdout
    assert "pyplot False" in result.stdout  # a figure needs no window
    assert result.stderr == "falloff: a figure needs matplotlib: pip install 'falloff[plot]'\n"


def test_missing_packages_are_one_line():
    code = """
import runpy, sys
for missing in ("typer", "rich"):
    sys.modules[missing] = None
    try:
        runpy.run_module("falloff", run_name="__main__")
    except SystemExit as stopped:
        print("status", stopped.code)
    del sys.modules[missing]
"""
    result = run(code)
    assert result.stdout == "status 2\n" * 2
    assert re.fullmatch(r"(falloff: the command line needs .*: pip install 'falloff\[cli\]'\n){2}", result.stderr)


def test_the_module_runs_and_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m falloff buckets t5 --json | head -c 10; {sys.executable} -m falloff show rope; echo $?"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout == '{"scheme":2\n'
    assert result.stderr.startswith("falloff: SCHEME: got 'rope', expected one of alibi, ")
    assert result.stderr.count("\n") == 1
