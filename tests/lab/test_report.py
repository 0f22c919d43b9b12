import html
import re

import pytest

from falloff import FIRE, ALiBi
from falloff.lab.charts import bias_chart, extrapolation_chart, scheme_styles
from falloff.lab.config import DEFAULT_SCHEMES, KNOWN_SCHEMES
from falloff.lab.folder import RunFolder
from falloff.lab.report import report_page
from falloff.lab.tables import old_lines

CONFIG = {
    "settings": {
        "schemes": ["t5", "alibi"],
        "train_length": 16,
        "steps": 3,
        "heads": 2,
        "text": ["<script>alert(1)</script>"],
    },
    "lengths": [16, 32],
    "tail": 16,
    "text": {"source": "<img src=x onerror=alert(1)>", "complete": False, "bytes": 40_000, "held_out_bytes": 1_000_000},
    "versions": {"torch": "2.13.0", "datasets": None},
    "git_commit": None,
    "machine": {"cpu": "A & B", "threads": 2, "gpu": None},
    "model": ["one bias for all layers"],
    "measures": {"perplexity": "per byte"},
}


@pytest.fixture(scope="module")
def page(results):
    return report_page(CONFIG, results, {"alibi": ALiBi(2), "fire": FIRE(2, init_L=4.0)})


@pytest.fixture(scope="module")
def content(page):
    """The page without Plotly's source."""
    scripts = re.findall(r"<script>.*?</script>", page, flags=re.S)
    plotly = max(scripts, key=len)
    assert len(plotly) > 1_000_000
    return page.replace(plotly, "")


def test_needs_no_network(content):
    assert not re.findall(r"(?:src|href)\s*=|@import|url\(|fetch\(|https?://", content.replace("&lt;img src=x", ""))


def test_has_every_part(content):
    for heading in ("Perplexity per byte", "Beyond the trained length", "after training", "What it costs", "Settings"):
        assert heading in content
    assert content.count('class="plotly-graph-div"') == 2 + 2 + 2
    groups = re.findall(r'scope="colgroup">(\w+)<', content)
    assert groups == ["Learned", "Heuristic", "Baseline"]
    table = content[content.index("<table ") : content.index("</table>")]
    assert re.findall(r"</i>([\w-]+)</th>", table) == ["fire", "t5", "alibi", "rope"]
    assert 'class="best edge">4.00<small>3.50&ndash;4.50' in table
    assert table.count("1,234") == 4


def test_facts_are_those_of_the_table(content):
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)<small>([^<]*)</small>", content[: content.index("<table ")])
    assert facts == [
        ("Best at the trained length, 16", "t5", "perplexity 4.00 of the last 16 bytes"),
        ("Best at 2 times it, 32", "alibi", "perplexity 6.00 of the same bytes"),
        ("Hold from 16 to 32", "1 of 4", "alibi"),
    ]


def test_level_schemes_are_not_crowned(results):
    """t5 and fire differ by less than their windows can show: no best, in table and facts."""
    even = {"t5": [1.0, 2.0, 3.0], "fire": [1.0, 2.1, 2.95], "alibi": [2.0, 3.0, 4.0], "rope": [2.0, 3.0, 4.0]}
    lines = [{**line, "items": even[line["scheme"]]} for line in results]
    page = report_page(CONFIG, lines, {})
    page = page[page.index("<body>") :]
    assert ("Lowest at the trained length, 16", "t5, fire") in re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)<small>", page)
    assert 'class="level edge">4.00' in page
    assert "best edge" not in page
    assert "Best at" not in page


def test_a_narrow_screen_shows_the_group_of_columns_that_is_asked_for(content):
    """At 390 pixels, 13 columns do not fit: buttons choose a group, so that schemes can be compared down a column."""
    table = content[content.index("<table ") : content.index("</table>")]
    cells = re.findall(r"<td([^>]*)>", table)
    groups = [*["last"] * 2, *["all"] * 2, *["cost"] * 4]
    assert [re.search(r'data-of="([^"]*)"', cell)[1] for cell in cells] == 4 * groups
    lengths = table[table.index("<tr><th>Scheme") : table.index("</thead>")]
    assert re.findall(r'data-of="([^"]*)"', lengths) == groups
    assert re.findall(r'<button[^>]* data-columns="(\w+)"', content) == ["last", "all", "cost"]
    narrow = content[content.index("@media screen and (max-width") :]
    narrow = narrow[: narrow.index("@media print")]
    for group in ("last", "all", "cost"):
        assert f'table[data-columns="{group}"] [data-of]:not([data-of="{group}"])' in narrow


def test_names_that_are_no_utf_8_can_be_written(results, tmp_path):
    config = {**CONFIG, "text": {**CONFIG["text"], "source": "caf\udce9.txt"}}
    run = RunFolder(tmp_path)
    run.write_report(report_page(config, results, {}))
    assert "caf\\udce9.txt" in run.report_path.read_text(encoding="utf-8")


def test_what_users_write_is_escaped(content):
    assert "<script>alert" not in content
    assert "<img" not in content
    assert html.escape(CONFIG["text"]["source"]) in content
    assert "A &amp; B" in content


def test_tags_are_closed(content):
    for tag in ("section", "div", "table", "tr", "td", "dl", "main", "script", "ul", "li", "button"):
        assert len(re.findall(rf"<{tag}[ >]", content)) == len(re.findall(rf"</{tag}>", content)), tag


def test_styles_tell_all_schemes_apart():
    styles = scheme_styles(dict.fromkeys(DEFAULT_SCHEMES, "learned"))
    assert (
        len({style.colour for style in styles.values()}) == len({style.marker for style in styles.values()}) == len(styles)
    )
    known = scheme_styles(dict.fromkeys(KNOWN_SCHEMES, "learned"))
    assert len(set(known.values())) == len(known)
    own_names = [f"my.py:Mine{place}" for place in range(30)]
    many = scheme_styles(dict.fromkeys((*own_names, *KNOWN_SCHEMES), "heuristic"))
    assert len(set(many.values())) == len(many)
    assert all(many[name].colour == styles[name].colour for name in DEFAULT_SCHEMES)


def test_curves_carry_values_and_intervals(results):
    figure = extrapolation_chart(old_lines(results), 16, tail=True)
    curve = next(trace for trace in figure.data if trace.name == "t5")
    assert list(curve.y) == [4.0, 7.0]
    assert list(curve.error_y.array) == [0.5, 0.5]
    assert curve.x == pytest.approx([16, 32], rel=0.05)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")


def test_bias_chart_is_the_bias_by_offset():
    alibi = bias_chart("alibi", ALiBi(2), 16)
    assert list(alibi.data[0].y) == [round(-offset / 16, 5) for offset in range(32)]
    fire = FIRE(2, init_L=4.0)
    curves = bias_chart("fire", fire, 16).data
    assert [len(curve.y) for curve in curves] == [16, 16, 32, 32]
    row = fire.dense(16, 16)[1, -1].flip(0)
    assert list(curves[1].y) == pytest.approx(row.tolist(), abs=1e-5)


def test_a_page_without_learned_schemes(results):
    lines = [line for line in results if line["scheme"] == "rope"]
    page = report_page(CONFIG, lines, {})
    assert "1 scheme<" in page
    assert "after training" not in page
