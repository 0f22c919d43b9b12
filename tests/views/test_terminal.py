import io
import re

import pytest
from rich.console import Console

from falloff import SCHEMES, TISA, ALiBi, T5Bias
from falloff.views.buckets import bucket_table
from falloff.views.checks import WrongCell
from falloff.views.explanations import explanation_view
from falloff.views.grids import bias_grid
from falloff.views.properties import scheme_properties
from falloff.views.terminal import bucket_view, check_view, grid_view


def text_of(view, width=80, **console):
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, **console).print(view)
    return out.getvalue()


TEXTBOOK = T5Bias(1, num_buckets=4, max_distance=5)


def test_the_textbook_grid_without_colour():
    lines = [line.rstrip() for line in text_of(grid_view(bias_grid(TEXTBOOK, 6), None, 80)).splitlines()]
    assert lines == [
        "t5 (num_buckets=4, max_distance=5): buckets, 6 positions",
        "",
        "query \\ key  0  1  2  3  4  5",
        "          0  0",
        "          1  1  0",
        "          2  2  1  0",
        "          3  2  2  1  0",
        "          4  3  2  2  1  0",
        "          5  3  3  2  2  1  0",
        "",
        " 0  bucket 0: offset 0",
        " 1  bucket 1: offset 1",
        " 2  bucket 2: offsets 2-3",
        " 3  bucket 3: offsets 4 and beyond",
    ]


def test_colour_is_there_on_a_terminal():
    coloured = text_of(grid_view(bias_grid(TEXTBOOK, 6), None, 80), force_terminal=True, color_system="truecolor")
    assert "48;2;68;1;84m 0 " in coloured  # the background of bucket 0
    assert "48;2;253;231;37m 3 " in coloured


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("scheme", [T5Bias(1), T5Bias(1, bidirectional=True), ALiBi(8), TISA(1)], ids=lambda one: one.name)
def test_a_grid_never_wraps(scheme, width):
    with pytest.raises(ValueError, match=f"length: got 60 positions, expected at most .* in the {width} columns") as caught:
        grid_view(bias_grid(scheme, 60, future=True), None, width)
    most = int(re.search(r"at most (\d+)", str(caught.value)).group(1))
    for length in (1, 2, most // 2, most - 1, most):
        view = grid_view(bias_grid(scheme, length, future=True), None, width)
        lines = text_of(view, width).splitlines()
        start = next(index for index, line in enumerate(lines) if "\\ k" in line)
        rows = lines[start + 1 : start + 1 + length]
        assert [row.split()[0] for row in rows] == [str(position) for position in range(length)]
        assert all(len(row.split()) == length + 1 for row in rows)
        assert all(len(line) <= width for line in lines)
    with pytest.raises(ValueError, match="expected at most"):
        grid_view(bias_grid(scheme, most + 1, future=True), None, width)


def test_tokens_at_both_edges():
    lines = text_of(grid_view(bias_grid(TEXTBOOK, 4), ["[b]u[/b]", "日本", "r", "-"], 80)).splitlines()
    assert lines[2].split() == ["query", "\\", "key", "[b]u[/", "日本", "r", "-"]
    assert [line.split()[0] for line in lines[3:7]] == ["0", "1", "2", "3"]
    assert lines[3].split()[1] == "[b]u[/b]"


def test_runs_of_single_offsets_take_one_line():
    view = text_of(bucket_view("per-offset", bucket_table(SCHEMES["per-offset"](1, 128)), bidirectional=False))
    assert "0-127" in view
    assert "offsets 0 to 127, one each" in view
    assert "offsets 128 and beyond" in view
    assert len(view.splitlines()) < 10


def test_wrong_cells_are_listed_up_to_a_limit():
    wrong = [WrongCell(query, 0, query, None, 0.25) for query in range(100)]
    view = text_of(check_view("t5", wrong, 10000, 4950))
    assert "100 wrong: 10000 cells checked (5050 visible, 4950 masked)" in view
    assert view.count("masked") == 41
    assert "60 more" in view


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_explained_within_its_width(name):
    scheme = SCHEMES[name](8)
    properties = None if scheme.needs_content else scheme_properties(scheme)
    for width in (60, 80, 120):
        view = text_of(explanation_view(scheme, properties, "random, seed 0"), width)
        assert all(len(line) <= width for line in view.splitlines())
        text = " ".join(view.split())
        assert scheme.reading.split()[0] in text
        assert scheme.paper.split(",")[0] in text
        assert ("depends on what the tokens say" if properties is None else "Toeplitz") in text


@pytest.mark.parametrize("bare", [True, False])
def test_only_a_command_with_an_image_offers_one(bare):
    with pytest.raises(ValueError, match="widen it") as caught:
        grid_view(bias_grid(T5Bias(1), 30), None, 20, bare=bare)
    assert ("--image" in str(caught.value)) == (not bare)
