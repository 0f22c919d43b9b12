"""What a notebook shows of schemes, forms and reports."""

import sys
from html.parser import HTMLParser

import pytest
import torch

from falloff import FIRE, SCHEMES, ALiBi, Scheme, T5Bias
from falloff.hf.fusing import FuseReport
from falloff.views.grids import bias_grid
from falloff.views.html import grid_html

EMPTY = {"br", "img"}


class Balanced(HTMLParser):
    """Reads HTML and keeps its text; every element is closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def shown(thing):
    bundle = thing._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/html"] == thing._repr_html_()
    return bundle["text/plain"], Balanced(bundle["text/html"])


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # which a notebook may lack
    scheme = SCHEMES[name](2)
    text, html = shown(scheme)
    assert text == repr(scheme)
    assert scheme.formula in html.text
    assert scheme.reading in html.text
    assert ("without a model it has no values" in html.text) == scheme.needs_content
    assert (html.tags.count("td") > 64) == (not scheme.needs_content)


def test_a_grid_has_its_cells_in_colour():
    html = grid_html(bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 6))
    assert html.count("background:#fde725;color:#000000") == 3  # bucket 3
    assert "bucket 2: offsets 2-3" in Balanced(html).text


def test_what_has_no_values_is_shown_all_the_same():
    with torch.device("meta"):
        scheme = FIRE(2)
    assert "No values to show" in shown(scheme)[1].text
    with torch.no_grad():
        broken = T5Bias(1)
        broken.weight.fill_(torch.nan)
    assert "bucket 7" in shown(broken)[1].text  # its buckets are as good as ever


def test_names_are_text_not_markup():
    class Mine(Scheme):
        name = "<script>"
        formula = "a < b & c"

        def at(self, offsets):
            raise ValueError("<b>no</b>")

    html = Mine()._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "a &lt; b &amp; c" in html


@pytest.mark.parametrize("scheme", [ALiBi(4), FIRE(4, init_L=4), T5Bias(4) + FIRE(4, init_L=4)], ids=repr)
def test_forms(scheme):
    form = scheme(8, 8)
    text, html = shown(form)
    assert text == repr(form)
    assert html.text.split()[0] == type(form).__name__
    assert all(f"({', '.join(map(str, tensor.shape))}" in html.text for tensor in form.tensors)
    assert "float32" in html.text


def test_the_report_of_a_fused_model():
    report = FuseReport(
        fused={"a": ("T5Attention", "T5, by offset"), "b": ("T5Attention", "T5, by offset")},
        left_alone={"c": ("Odd", "<why>")},
    )
    text, html = shown(report)
    assert text == str(report)
    assert "fused: 2 T5Attention" in html.text
    assert "left alone: 1 Odd" in html.text
    assert "<why>" not in report._repr_html_()


class Broken(Scheme):
    num_heads = 1

    def bucket(self, offsets):
        raise RuntimeError("no buckets today")

    def at(self, offsets):
        raise RuntimeError("no values today")


class Many(Broken):
    num_buckets, reach = 100, 99

    def bucket(self, offsets):
        return offsets.clamp(0, 99)


def test_a_scheme_that_cannot_compute_is_shown():
    assert "No values to show" in shown(Broken())[1].text


def test_a_rule_without_a_formula_stays_short():
    text = shown(Many())[1].text
    assert "bucket 15: offset 15; 84 more" in text
    assert "bucket 16" not in text
