"""Every block of code and every command of README and the documentation runs; README's figures are recorded ones."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from falloff.cli import app
from making import commands, fences, results, schemes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in (ROOT / "docs" / "pages").rglob("*.md") if "generated" not in path.parts)]
CODE = {"python", "sh", "run"}
SHOWN = {"text", "arrows"}  # files and outputs, which nothing runs


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    monkeypatch.setenv("COLUMNS", "88")
    yield
    torch.manual_seed(0)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_everything_on_the_page_runs(page):
    """Blocks of Python share their names from top to bottom of a page; commands find the files that the page shows."""
    text = page.read_text(encoding="utf-8")
    names: dict = {"__name__": "page"}
    with fences.folder_for(fences.files_of(text)):
        for block in fences.blocks(text):
            if block.reason:
                continue
            if block.kind == "python":
                exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
            elif block.kind in ("sh", "run"):
                for command in block.commands():
                    run(command, block.more)


def run(command, more):
    words = shlex.split(command, comments=True)
    assert words[0] == "falloff", f"{command}: not a command of falloff: mark the block <!-- not run: REASON -->"
    result = CliRunner().invoke(app, [*words[1:], *shlex.split(more)], prog_name="falloff")
    assert result.exit_code in (0, 1), f"{command}: {result.output}{result.exception}"
    assert not isinstance(result.exception, Exception), f"{command}: {result.exception!r}"


def test_every_block_is_found_and_known():
    kinds = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(fences.blocks(text))
        assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
        kinds |= {block.kind for block in found}
        for block in found:
            assert block.kind in CODE | SHOWN, f"{page}:{block.line}: a block of {block.kind!r}"
    assert kinds >= {"python", "sh", "run"}


def test_the_reference_of_the_command_line_is_that_of_the_program():
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page(), "run: make command-reference"


def test_commands_in_running_text_exist():
    """`falloff NAME ...` and `make NAME` in the text of a page."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in set(re.findall(r"`falloff ([a-z]\w*)", text)):
            assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, f"{page}: falloff {name}"
        for target in set(re.findall(r"`?make ([a-z-]+)`", text)):
            assert f"\n{target}:" in makefile, f"{page}: make {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"- {page.relative_to(ROOT / 'docs' / 'pages')}\n" in navigation, page


def test_a_scheme_without_a_page_gets_its_entry_from_its_class(monkeypatch):
    from falloff import SCHEMES, Scheme

    folder = ROOT / "docs" / "pages" / "schemes"
    assert schemes.without_page(folder) == []
    assert schemes.section([]) == ""

    class Inverse(Scheme):
        name = "inverse"
        formula = "1 / (1 + |n|)"

        def __init__(self, num_heads):
            super().__init__()
            self.num_heads = num_heads

        def at(self, offsets):
            return (1 / (1 + offsets.abs())).expand(self.num_heads, -1)

    monkeypatch.setitem(SCHEMES, "inverse", Inverse)
    others = schemes.without_page(folder)
    assert others == [Inverse]
    (name, figure), *_ = schemes.figures(others)
    assert figure.axes
    assert f"generated/{name}.svg" in schemes.section(others)
    assert "`1 / (1 + |n|)`" in schemes.section(others)
    assert "::: falloff.Inverse\n" in schemes.section(others)


def test_the_figures_of_readme_are_those_of_the_stored_run():
    text = README.read_text(encoding="utf-8")
    cases = results.results()["cpu-2-core-epyc.json"]["cases"]
    rivals = [name for name in results.RIVALS if any(name in case["ratio"] for case in cases)]
    stored = {results.row(results.speed_cells(case, rivals, with_share=False)) for case in cases}
    shown = re.findall(r"^\| (?!work|---).*\|$", text, re.MULTILINE)
    assert len(shown) >= 5
    for line in shown:
        assert line in stored, line
