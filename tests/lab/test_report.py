import html
import re

import pytest

from falloff import FIRE, ALiBi
from falloff.lab.config import DEFAULT_SCHEMES, KNOWN_SCHEMES
from falloff.lab.figures.charts import bias_chart, length_chart
from falloff.lab.figures.cost_charts import cost_chart, length_cost_chart
from falloff.lab.figures.rank_chart import rank_chart
from falloff.lab.figures.style import log_ticks, on_dark, scheme_styles
from falloff.lab.findings.tables import task_tables
from falloff.lab.protocols import PROTOCOLS
from falloff.lab.published import published_section
from falloff.lab.report import report_page
from falloff.lab.report.limits import limits
from falloff.lab.store.folder import RunFolder
from falloff.views.palette import head_colours
from lab.lines import MEASURES, answers_of, config_of, line, results_of

SEEDS = (0, 1, 2, 3)
TASKS = ("text", "passkey")


@pytest.fixture(scope="module")
def page():
    """Four schemes, four seeds, two tasks."""
    config = config_of(seeds=SEEDS, tasks=TASKS)
    results = [*results_of(seeds=SEEDS), *answers_of(seeds=SEEDS)]
    return report_page(config, results, {"alibi": ALiBi(2), "fire": FIRE(2, init_L=4.0)})


def without_plotly(page):
    scripts = re.findall(r"<script>.*?</script>", page, flags=re.S)
    plotly = max(scripts, key=len)
    assert len(plotly) > 1_000_000
    return page.replace(plotly, "")


@pytest.fixture(scope="module")
def content(page):
    """The page without Plotly's source."""
    return without_plotly(page)


def text_of(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def facts_of(content):
    return re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)<small>([^<]*)</small>", content[: content.index("<table ")])


def test_needs_no_network(content):
    own = re.sub(r'href="(#[\w-]+|data:,)"', "", content.replace("&lt;img src=x", ""))
    assert not re.findall(r"(?:src|href)\s*=|@import|url\(|fetch\(|https?://", own)


def test_links_lead_to_parts_of_the_page(content):
    links = re.findall(r'href="#([\w-]+)"', content)
    assert links == ["task-text", "task-passkey", "limits", "biases", "costs", "settings"]
    assert [link for link in links if f'id="{link}"' not in content] == []


def test_has_every_part(content):
    headings = re.findall(r"<h2>([^<]*)</h2>", content)
    of_tasks = [
        f"Task {task}: {part}"
        for task in TASKS
        for part in ("results", "beyond the trained length", "seed by seed, pair by pair")
    ]
    rest = ["What this can show, and what not", "The bias of each scheme after training", "What it costs", "Settings"]
    assert headings == [*of_tasks, *rest]
    curves, ranks, costs, biases = 2 + 1, 4 + 2, 2 * 4, 2
    assert content.count('class="plotly-graph-div"') == curves + ranks + costs + biases
    table = content[content.index("<table ") : content.index("</table>")]
    assert re.findall(r'scope="colgroup">(\w+)<', table) == ["Learned", "Heuristic", "Baseline"]
    assert re.findall(r"</i>([\w-]+)</th>", table) == ["fire", "t5", "alibi", "rope"]
    assert 'class="best edge">4.00<small>4.00&ndash;4.00' in table


def test_facts_are_those_of_the_table(content):
    words = "perplexity per byte of the last 16 bytes"
    assert facts_of(content) == [
        ("Best at the shortest length, 16", "t5", f"4.00: {words}"),
        ("Best at 2 times it, 32", "alibi", f"6.00: {words}"),
        ("Hold from 16 to 32", "1 of 4", "alibi"),
    ]


def test_level_schemes_are_not_crowned():
    """t5 and fire differ by less than their windows can show: no best, in table and facts."""
    even = {"t5": [1.0, 2.0, 3.0, 2.0], "fire": [1.0, 2.1, 2.95, 2.0], "alibi": [2.0, 3.1, 4.0, 3.0]}
    config = config_of(schemes=tuple(even))
    page = without_plotly(report_page(config, [line(name, 16, "tail", items) for name, items in even.items()], {}))
    (fact,) = facts_of(page)
    assert fact[:2] == ("In front at the shortest length, 16", "t5, fire")
    assert fact[2] == "7.39 to 7.48: none is shown to be worse than t5"
    assert 'class="level edge">7.39' in page
    assert "best edge" not in page
    assert "Best at" not in page


def test_the_words_say_what_an_interval_is(content):
    assert "95% interval over 4 seeds (Student's t)" in html.unescape(content)
    assert "bootstrap" not in content[: content.index('id="settings"')]
    one = html.unescape(without_plotly(report_page(config_of(), results_of(), {})))
    assert "interval over windows of text (bootstrap), of one training run" in one
    assert "It says nothing about another training run" in one
    assert "Rank by seed" not in one
    assert "Several seeds answer that" in one


def test_one_scheme_alone_is_told_nothing_of_marks():
    one = html.unescape(without_plotly(report_page(config_of(schemes=("t5",)), results_of(schemes=("t5",)), {})))
    assert "interval over windows of text" in one
    assert "★ marks" not in one
    assert "All schemes share" not in one


def test_the_pairs_of_a_column_are_a_matrix(content):
    section = content[content.index('id="task-text-pairs-tail-32"') :]
    table = section[section.index('<table class="pairs">') : section.index("</table>")]
    assert re.findall(r'<th scope="row">([\w-]+)</th>', table) == ["alibi", "fire", "t5", "rope"]
    cells = re.findall(r"<td( class=\w+)?>(.*?)</td>", table)
    assert len(cells) == 16
    assert list(cells[::5]) == [(" class=self", "")] * 4
    kinds = [kind for kind, _ in cells]
    assert kinds[1] == " class=better"
    assert kinds[4] == " class=worse"
    assert cells[1][1].startswith("\u22127.7<small>")  # 6.0 against 6.5
    assert cells[4][1].startswith("+8.3<small>")
    assert cells[12][1].startswith("+733<small>")  # rope, 50, against alibi, 6
    shown = list(re.findall(r'class="panel" id="([\w-]+)">', content))
    assert shown == ["task-text-pairs-tail-32", "task-passkey-pairs-exact-32"]
    options = re.findall(r'<option value="([\w-]+)"', content)
    assert [option for option in options if f'id="{option}"' not in content] == []
    assert len(options) == 6
    against = text_of(section[section.index("<details>") : section.index("</details>")])
    assert "Each scheme against alibi, which is in front (6.00)" in against
    assert re.search(r"fire \+8\.3 \+8\.\d to \+8\.\d <\.001 <\.001 4", against)


def test_what_could_not_be_tested_has_no_p():
    """alibi has one seed, which says how far it is from t5, and not whether that is chance."""
    items = {"t5": {0: [1.0], 1: [1.1]}, "rope": {0: [1.2], 1: [1.25]}, "alibi": {1: [1.3]}}
    results = [line(name, 16, "tail", found, seed=seed) for name, of in items.items() for seed, found in of.items()]
    page = without_plotly(report_page(config_of(schemes=tuple(items), seeds=(0, 1)), results, {}))
    table = page[page.index('<table class="pairs">') :]
    first = re.findall(r"<td[^>]*>(.*?)</td>", table[: table.index("</tr>", table.index("<tbody>"))])
    assert re.fullmatch(r"\u221216<small>\.\d+</small>", first[1])
    assert first[2] == "\u221218<small>&ndash;</small>"
    assert "<td>&ndash;</td><td>&ndash;</td><td>&ndash;</td><td>1</td>" in table


def test_shares_are_in_percent(content):
    section = content[content.index('id="task-passkey"') :]
    table = section[section.index("<table ") : section.index("</table>")]
    assert re.findall(r">(\d+%)<small>", table) == ["100%", "100%"] * 3 + ["100%", "50%"]
    pairs = section[section.index('id="task-passkey-pairs-exact-32"') :]
    assert "class=better>+50<small>" in pairs
    assert "percentage points" in pairs


@pytest.mark.parametrize("which", [0, -1])
def test_a_narrow_screen_shows_the_group_of_columns_that_is_asked_for(content, which):
    """At 390 pixels not all columns fit: buttons choose a group, so that schemes can be compared down a column."""
    tables = re.findall(r'<table[^>]* data-columns="0">.*?</table>', content, flags=re.S)
    groups = [*["0"] * 2, *["1"] * 2] if which == 0 else [*["0"] * 5, *["1"] * 2, *["2"] * 2, *["3"] * 2]
    cells = re.findall(r"<td([^>]*)>", tables[which])
    assert [re.search(r'data-of="([^"]*)"', cell)[1] for cell in cells] == 4 * groups
    heads = tables[which][tables[which].index("<tr><th>Scheme") : tables[which].index("</thead>")]
    assert re.findall(r'data-of="([^"]*)"', heads) == groups
    before = content[: content.index(tables[which])]
    buttons = re.findall(r'data-columns="(\d)">', before[before.rindex('<div class="tabs') :])
    assert buttons == sorted(set(groups))
    narrow = content[content.index("@media screen and (max-width") :]
    narrow = narrow[: narrow.index("@media print")]
    for group in groups:
        assert f'table[data-columns="{group}"] [data-of]:not([data-of="{group}"])' in narrow


def test_limits_follow_from_the_numbers():
    config = config_of(seeds=SEEDS, tasks=TASKS)
    tables = task_tables(config, [*results_of(seeds=SEEDS), *answers_of(seeds=SEEDS)])
    said = " ".join(limits(tables, config))
    assert "4 seeds" in said
    assert "With so few" in said
    column = tables[0].columns["tail", 32]
    least = re.search(r"end of the window at 32: .*? differences of about ([\d.e-]+)% of perplexity", said)[1]
    assert float(least) == pytest.approx(100 * column.smallest_shown, rel=0.06)
    assert "correction for 6 pairs" in said
    assert "1,234 parameters" in said
    assert "3 steps on 192 bytes, 0.16 for each parameter" in said
    assert f"Protocol last-k (k = 16): {PROTOCOLS['last-k'].words}" in said
    assert "not with numbers of another protocol, another k, another tokenizer or another text" in said
    problems = config_of(tasks=("passkey",), text=None)
    assert "Protocol" not in " ".join(limits(task_tables(problems, answers_of()), problems))


def test_too_few_problems_are_said_to_be_too_few():
    """Of four problems, none of six pairs can be shown to differ, however they are solved: 2 / 2^4 is above 5% / 6."""
    config = config_of(tasks=("passkey",), text=None)
    said = " ".join(limits(task_tables(config, answers_of(count=4)), config))
    assert "these items are too few to show any difference (the first step of the correction for 6 pairs)" in said


def test_depths_have_a_map_for_each_scheme():
    config = config_of(schemes=("t5", "rope"), tasks=("passkey",), text=None)
    config["tasks"]["passkey"]["summary"] = "a number in filler; depth: where the <number> stands"
    results = [one | {"depths": [problem % 4 / 3 for problem in range(20)]} for one in answers_of(schemes=("t5", "rope"))]
    page = without_plotly(report_page(config, results, {}))
    section = page[page.index("<h2>By length and depth</h2>") :]
    section = section[: section.index("</section>")]
    assert re.findall(r"<h3>([\w-]+)</h3>", section) == ["t5", "rope"]
    assert section.count('class="plotly-graph-div"') == 2
    assert "depth:\nwhere the &lt;number&gt; stands." in section
    assert "Protocol last-k" not in page


def test_a_place_for_published_figures():
    page = without_plotly(report_page(config_of(), results_of(), {}, published_section("paper-kerple")))
    assert page.count('<section id="published">') == 1
    assert page.index('id="published"') < page.index('id="limits"')
    assert "published" not in without_plotly(report_page(config_of(), results_of(), {}))


def test_names_that_are_no_utf_8_can_be_written(tmp_path):
    config = config_of(text={"source": "caf\udce9.txt"})
    run = RunFolder(tmp_path)
    run.write_report(report_page(config, results_of(), {}))
    assert "caf\\udce9.txt" in run.report_path.read_text(encoding="utf-8")


def test_what_users_write_is_escaped(content):
    assert "<script>alert" not in content
    assert "<img" not in content
    assert html.escape("<img src=x onerror=alert(1)>") in content
    assert "A &amp; B" in content
    name = 'a"b/<i>.py:Mine'
    page = without_plotly(
        report_page(config_of(schemes=(name, "t5")), [line(one, 16, "tail", [1.0, 2.0]) for one in (name, "t5")], {})
    )
    page = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "a&quot;b/&lt;i&gt;.py:Mine" in page
    assert "<i>.py" not in page


def test_tags_are_closed(content):
    tags = (
        "section",
        "div",
        "table",
        "tr",
        "td",
        "th",
        "dl",
        "main",
        "script",
        "ul",
        "li",
        "button",
        "select",
        "details",
        "nav",
    )
    for tag in tags:
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


def test_every_colour_has_its_like_on_a_dark_ground():
    styles = scheme_styles(dict.fromkeys(KNOWN_SCHEMES, "learned"))
    likes = on_dark(4)
    dark = {name: likes[style.colour] for name, style in styles.items()}
    assert len(set(dark.values())) == len({style.colour for style in styles.values()})
    assert set(head_colours(4)) <= set(likes)


def test_a_logarithmic_axis_has_some_ticks_and_not_many():
    for low, high in ((1.0, 1e30), (6.0, 6.1), (0.95e5, 1.05e5), (5.0, 23.0), (2.0, 2.2)):
        ticks = log_ticks(low, high)
        assert 2 <= len(ticks) <= 10
        assert low <= ticks[0] < ticks[-1] <= high


def test_curves_carry_values_and_intervals():
    (table,) = task_tables(config_of(), results_of())
    figure = length_chart(table, table.measures[0], 16, "byte")
    curve = next(trace for trace in figure.data if trace.name == "t5")
    assert list(curve.y) == pytest.approx([4.0, 7.0], rel=1e-3)
    assert list(curve.error_y.array) == pytest.approx([0.5, 0.5], rel=0.01)
    assert curve.x == pytest.approx([16, 32], rel=0.05)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    passkey = task_tables(config_of(tasks=("passkey",)), answers_of())[0]
    assert length_chart(passkey, passkey.measures[0], 16, "token").layout.yaxis.type is None


def test_guessing_is_a_curve_of_the_measure_that_it_is_of():
    config = config_of(tasks=("passkey",))
    config["tasks"]["passkey"] |= {"chance": [0.1, 0.05], "measures": [*MEASURES["passkey"], MEASURES["text"][1]]}
    (table,) = task_tables(config, [*answers_of(), *(one | {"task": "passkey"} for one in results_of())])
    charts = [length_chart(table, measure, 16, "token").data for measure in table.measures]
    (guessing,) = (trace for trace in charts[0] if trace.name == "guessing")
    assert (list(guessing.x), list(guessing.y)) == ([16, 32], [0.1, 0.05])
    assert "guessing" not in [trace.name for trace in charts[1]]


def test_an_interval_without_an_end_is_not_drawn():
    items = {"t5": {0: [900.0], 1: [1.0]}, "alibi": {0: [1.0]}}
    results = [line(name, 16, "tail", found, seed=seed) for name, of in items.items() for seed, found in of.items()]
    (table,) = task_tables(config_of(seeds=(0, 1)), results)
    figure = length_chart(table, table.measures[0], 16, "byte")
    assert {trace.name: list(trace.error_y.array) for trace in figure.data} == {"t5": [0.0], "alibi": [0.0]}
    assert "∞" in report_page(config_of(seeds=(0, 1)), results, {})


def test_ranks_have_a_dot_for_each_seed():
    items = {"t5": (1.0, 3.0, 1.0), "alibi": (2.0, 2.0, 2.0), "rope": (3.0, 1.0, 3.0)}
    results = [line(name, 16, "tail", [nats]) | {"seed": seed} for name, of in items.items() for seed, nats in enumerate(of)]
    (table,) = task_tables(config_of(schemes=tuple(items), seeds=(0, 1, 2)), results)
    figure = rank_chart(table, "tail", 16)
    dots = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert {name: list(trace.x) for name, trace in dots.items()} == {"rope": [3, 1, 3], "alibi": [2, 2, 2], "t5": [1, 3, 1]}
    assert list(figure.layout.yaxis.ticktext) == ["rope", "alibi", "t5"]  # the last one on top
    assert len(set(dots["alibi"].y)) == 3  # side by side, so that all are seen


def test_bias_chart_is_the_bias_by_offset():
    alibi = bias_chart("alibi", ALiBi(2), 16)
    assert list(alibi.data[0].y) == [round(-offset / 16, 5) for offset in range(32)]
    fire = FIRE(2, init_L=4.0)
    curves = bias_chart("fire", fire, 16).data
    assert [len(curve.y) for curve in curves] == [16, 16, 32, 32]
    row = fire.dense(16, 16)[1, -1].flip(0)
    assert list(curves[1].y) == pytest.approx(row.tolist(), abs=1e-5)


def test_a_page_of_one_scheme():
    page = without_plotly(report_page(config_of(schemes=("rope",)), results_of(schemes=("rope",)), {}))
    assert "1 scheme<" in page
    assert "after training" not in page
    assert "<select" not in page
    assert facts_of(page)[0][0] == "Tested at the shortest length, 16"


def test_a_long_name_leaves_room_for_the_curves():
    """On a phone, the names beside a chart of ranks took all of its width, and a legend had one column."""
    long = "experiments/relative_windows.py:RelativeWindow"
    short = "\u2026" + long[-15:]
    results = [line(name, 16, "tail", [nats], seed=seed) for name, nats in ((long, 1.0), ("t5", 2.0)) for seed in (0, 1)]
    (table,) = task_tables(config_of(schemes=(long, "t5"), seeds=(0, 1)), results)
    costs = {row.scheme: row.cost for row in table.rows}
    styles = scheme_styles(table.kinds)
    assert [trace.name for trace in length_chart(table, table.measures[0], 16, "byte").data] == [short, "t5"]
    assert [trace.name for trace in length_cost_chart(costs, "seconds", "", styles, "byte").data] == [short, "t5"]
    assert list(rank_chart(table, "tail", 16).layout.yaxis.ticktext) == ["t5", short]
    bars = cost_chart([(name, 1.0) for name in costs], "ms", styles)
    assert dict(zip(bars.layout.yaxis.tickvals, bars.layout.yaxis.ticktext, strict=True)) == {long: short, "t5": "t5"}
    page = without_plotly(report_page(config_of(schemes=(long, "t5"), seeds=(0, 1)), results, {}))
    assert f'<span title="{long}">{short}</span>' in page
    assert f"</i>{long}</th>" in page
