import pytest

from falloff.views import fonts
from falloff.views.fonts import families_for, spelled_out


def test_the_font_of_matplotlib_suffices_for_most():
    assert families_for(["q u e r y ?", "\u00e9", "u\u2082", "\u00b7"]) == (["DejaVu Sans"], set())


def test_what_no_font_has():
    _, missing = families_for(["a\U000f0000", "b"])
    assert missing == {"\U000f0000"}
    assert spelled_out("a\U000f0000", missing) == "aU+F0000"


@pytest.fixture
def other_font(monkeypatch):
    """A font that has what matplotlib's own lacks."""
    signs = fonts._signs
    monkeypatch.setattr(fonts, "_wide_fonts", lambda: (("Noto Sans CJK JP", "none"),))
    monkeypatch.setattr(fonts, "_signs", lambda path: frozenset("\u65e5") if path == "none" else signs(path))


@pytest.mark.usefixtures("other_font")
def test_another_font_is_taken_for_what_is_missing():
    assert families_for(["\u65e5x"]) == (["DejaVu Sans", "Noto Sans CJK JP"], set())
    assert families_for(["x"]) == (["DejaVu Sans"], set())
