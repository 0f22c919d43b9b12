"""Every page in a real browser: it fits, it is silent, it asks no other host, and axe-core finds no serious fault."""

import pytest

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from explore.conftest import WIDTHS
from falloff.explore.app import PAGES


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_and_serves_everyone(visit, path, width):
    tab = visit(width)
    page = tab.open(path)
    assert page.title() == f"{PAGES[path].TITLE} · falloff explore"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("header nav a[aria-current=page]").text_content() == PAGES[path].TITLE
    if width == 390:  # each of both widths in one of both themes
        page.get_by_role("button", name="Light or dark").click()
        tab.settle()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.faults() == []


def test_an_unknown_address_is_said(visit):
    page = visit().open("/nowhere")
    assert "There is no page /nowhere" in page.locator("main").text_content()
