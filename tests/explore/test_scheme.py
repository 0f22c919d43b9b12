"""The Scheme page: sliders, keyboard, downloads, wrong values."""

import csv
import json

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")


def dash_id(**parts):
    return "#" + json.dumps(dict(sorted(parts.items())), separators=(",", ":")).translate(
        {ord(sign): f"\\{sign}" for sign in '{}":,'}
    )


def setting(scheme, name, part):
    return dash_id(type="setting", scheme=scheme, name=name, part=part)


def curve(page, scheme, kind="curves"):
    """The numbers that a figure shows."""
    return page.evaluate(
        "(id) => document.getElementById(id).querySelector('.js-plotly-plot').data"
        ".map((trace) => trace.type === 'heatmap' ? trace.z : trace.y)",
        json.dumps({"scheme": scheme, "type": kind}, separators=(",", ":")),
    )


def test_a_slider_moves_its_number_and_the_figures(visit):
    tab = visit()
    page = tab.open("/?scheme=t5")
    before = curve(page, "t5", "matrix")
    slider = page.locator(setting("t5", "num_buckets", "slider"))
    slider.fill("20")
    tab.settle()
    assert page.locator(setting("t5", "num_buckets", "number")).input_value() == "5"
    assert curve(page, "t5", "matrix") != before
    page.locator(setting("t5", "num_buckets", "number")).fill("4")
    page.locator(setting("t5", "max_distance", "number")).fill("5")
    tab.settle()
    assert slider.input_value() == "16"
    # The grid of the textbook's figure.
    assert [row[:6] for row in curve(page, "t5", "matrix")[0][:6]] == [
        [0, None, None, None, None, None],
        [1, 0, None, None, None, None],
        [2, 1, 0, None, None, None],
        [2, 2, 1, 0, None, None],
        [3, 2, 2, 1, 0, None],
        [3, 3, 2, 2, 1, 0],
    ]


def test_fire_gives_two_pairs_at_one_offset_different_values(visit):
    tab = visit()
    page = tab.open("/?scheme=fire")
    said = page.locator(".said").text_content()
    assert "Key 3 lies 4 before query 7, and key 23 lies 4 before query 27. The offset is the same, the bias is not" in said
    page.locator(setting("fire", "init_L", "number")).fill("512")
    tab.settle()
    assert "Both pairs get the same bias" in page.locator(".said").text_content()


def test_the_keyboard_alone_changes_a_scheme(visit):
    tab = visit()
    page = tab.open("/?scheme=alibi")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('label')?.textContent.includes('Heads')"):
            break
    page.keyboard.press("Home")
    tab.settle()
    assert len(curve(page, "alibi")) == 1
    page.keyboard.press("End")
    tab.settle()
    assert len(curve(page, "alibi")) == 16


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_buckets", "1", "num_buckets: got 1"),
        ("max_distance", "3", "max_distance: got 3, expected"),
        ("num_buckets", "1e9", "expected at most 1024"),
    ],
)
def test_a_wrong_value_says_how_to_mend_it(visit, field, value, said):
    tab = visit()
    page = tab.open("/?scheme=t5")
    page.locator(setting("t5", field, "number")).fill(value)
    page.locator("[role=alert]").wait_for()
    assert said in page.locator("[role=alert]").text_content()
    page.locator(setting("t5", field, "number")).fill("32")
    page.locator("[role=alert]").wait_for(state="detached")


def test_settings_stay_when_another_scheme_is_added(visit):
    tab = visit()
    page = tab.open("/?scheme=t5")
    page.locator(setting("t5", "num_buckets", "number")).fill("8")
    tab.settle()
    page.locator("label", has_text="sandwich").click()
    page.get_by_role("heading", name="sandwich").wait_for()
    tab.settle()
    assert page.locator(setting("t5", "num_buckets", "number")).input_value() == "8"


def test_a_figure_is_downloaded_in_each_format(visit, tmp_path):
    tab = visit()
    page = tab.open("/?scheme=t5")
    begins = {"png": b"\x89PNG", "svg": b"<svg", "csv": b"name,x,y\r\n"}
    for kind, begin in begins.items():
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Download Bias by offset as {kind.upper()}").click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.name == f"t5-curves.{kind}"
        assert path.read_bytes().startswith(begin)
    rows = list(csv.DictReader((tmp_path / "t5-curves.csv").read_text().splitlines()))
    assert len(rows) == 8 * 256
    assert rows[0] == {"name": "head 0", "x": "0", "y": rows[0]["y"]}


@pytest.mark.parametrize("cells", ["values", "buckets"])
def test_a_matrix_is_downloaded_in_full(visit, tmp_path, cells):
    """A CSV has a bucket as it is written, and a value with all its digits, for which a cell has no room."""
    tab = visit()
    page = tab.open("/?scheme=t5")
    page.locator("#cells label", has_text=cells).click()
    tab.settle()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download Matrix as CSV").click()
    waiting.value.save_as(tmp_path / "matrix.csv")
    written = [row["value"] for row in csv.DictReader((tmp_path / "matrix.csv").read_text().splitlines())]
    assert len(written) == 55
    assert written[1:3] == ["1", "0"] if cells == "buckets" else all(len(value) > 8 for value in written)
