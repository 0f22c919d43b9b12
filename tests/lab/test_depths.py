import re

import pytest
from rich.console import Console

from falloff.lab.figures.task_charts import depth_chart
from falloff.lab.findings.task_tables import depth_table, shares_by_depth
from falloff.lab.report.page import report_page
from falloff.lab.terminal import terminal_tables
from lab.lines import answers_of, config_of, line, results_of


def problems(scheme, length, solved, *, seed=0):
    """Two problems at each of three depths, by a string of 0 and 1."""
    return line(scheme, length, "exact", [float(one) for one in solved], seed=seed, task="passkey") | {
        "depths": [0.0, 0.5, 1.0] * 2
    }


RESULTS = [
    problems("t5", 32, "101011"),
    problems("t5", 16, "111111"),
    problems("rope", 16, "011001", seed=0),
    problems("rope", 16, "001001", seed=1),
    problems("rope", 32, "000000"),
    *results_of(("t5",)),
]


def printed(table, width=100):
    console = Console(width=width, record=True, force_terminal=False)
    console.print(table)
    return console.export_text()


def test_shares_are_of_all_problems_and_seeds():
    assert shares_by_depth(RESULTS, "passkey") == {
        "t5": {16: {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}, 32: {0.0: 0.5, 0.5: 0.5, 1.0: 1.0}},
        "rope": {16: {0.0: 0.0, 0.5: 0.25, 1.0: 1.0}, 32: {0.0: 0.0, 0.5: 0.0, 1.0: 0.0}},
    }
    assert list(shares_by_depth(RESULTS, "passkey")["t5"]) == [16, 32]
    assert shares_by_depth(RESULTS, "text") == {}


def test_table_in_the_terminal():
    text = printed(depth_table(RESULTS, "passkey"))
    assert "Task passkey: exact answers in percent, a bar for each depth" in " ".join(text.split())
    assert re.search(r"t5 +100 ███ +67 ▅▅█", text)
    assert re.search(r"rope +42 ▁▃█ +0 ▁▁▁", text)


def test_table_shows_the_name_of_a_file_as_it_is():
    text = printed(depth_table([problems("[red]my.py:Mine", 16, "111111")], "passkey"))
    assert "[red]my.py:Mine" in text


@pytest.mark.parametrize(("results", "expected"), [(RESULTS, True), (answers_of(), False)])
def test_terminal_shows_depths_where_there_are_any(results, expected):
    config = config_of(tasks=("text", "passkey"))
    text = "".join(printed(table) for table in terminal_tables(config, results, 100))
    assert ("a bar for each depth" in " ".join(text.split())) == expected


def test_chart_has_a_cell_for_each_length_and_depth():
    figure = depth_chart(shares_by_depth(RESULTS, "passkey")["t5"], 16)
    heat, text = figure.data
    assert list(heat.x) == ["<b>16</b>", "32"]
    assert list(heat.y) == ["0%", "50%", "100%"]
    assert [list(row) for row in heat.z] == [[1.0, 0.5], [1.0, 0.5], [1.0, 1.0]]
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert list(text.text) == ["100%", "100%", "100%", "50%", "50%", "100%"]
    assert [*zip(text.x, text.y, strict=True)][3:] == [("32", "0%"), ("32", "50%"), ("32", "100%")]
    assert figure.layout.yaxis.autorange == "reversed"  # the beginning is at the top


def test_letters_can_be_read_on_every_cell():
    """WCAG asks for a contrast of 4.5 between a small text and its ground."""
    from plotly.colors import sample_colorscale

    def light(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    shares = {16: {share / 20: share / 20 for share in range(21)}}
    heat, text = depth_chart(shares, 16).data
    scale = [[place, colour] for place, colour in heat.colorscale]
    for share, letters in zip(shares[16], text.textfont.color, strict=True):
        ground = [float(part) / 255 for part in re.findall(r"[\d.]+", sample_colorscale(scale, share)[0])]
        dark, bright = sorted((light(ground), light([int(letters[at : at + 2], 16) / 255 for at in (1, 3, 5)])))
        assert (bright + 0.05) / (dark + 0.05) >= 4.49, share


def test_report_has_a_heat_map_for_each_scheme_of_a_task_with_depths():
    page = report_page(config_of(tasks=("text", "passkey")), RESULTS, {})
    section = page[page.index("Task passkey: by length and depth") :]
    section = section[: section.index("</section>")]
    assert re.findall(r"<h3>(.*?)</h3>", section) == ["t5", "rope"]
    assert "Guessing well gives 4.2%." in section
    assert "Task text: by length and depth" not in page


def test_report_says_what_guessing_gives_at_each_length():
    config = config_of(tasks=("passkey",))
    config["tasks"]["passkey"]["chance"] = [1 / 8, 1 / 16]
    assert "Guessing well gives 12.5% at 16, 6.2% at 32." in report_page(config, RESULTS[:5], {})
