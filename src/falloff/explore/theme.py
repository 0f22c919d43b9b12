"""The colours of figures in light and dark mode; the page's own are in assets/explore.css."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Theme:
    """What a figure needs to be legible on its ground."""

    dark: bool
    ink: str
    soft: str
    ground: str
    grid: str
    mark: str


_LIGHT = Theme(dark=False, ink="#1c2430", soft="#566072", ground="#ffffff", grid="#e6e8ec", mark="#8a94a3")
_DARK = Theme(dark=True, ink="#e8ecf2", soft="#aab4c3", ground="#161c26", grid="#2c3544", mark="#7d8899")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def theme_of(name: object) -> Theme:
    """The theme that the page has stored.

    >>> theme_of("dark").dark, theme_of(None).dark
    (True, False)
    """
    return _DARK if name == "dark" else _LIGHT


def base_layout(theme: Theme) -> dict[str, Any]:
    """The layout that all figures share."""
    return {
        "template": {},
        "autosize": True,
        "margin": {"l": 52, "r": 12, "t": 12, "b": 44},
        "font": {"family": _FONT, "size": 12, "color": theme.ink},
        "paper_bgcolor": theme.ground,
        "plot_bgcolor": theme.ground,
        "dragmode": False,  # a finger that scrolls the page must not zoom
        "hoverlabel": {"font": {"size": 12}},
        "showlegend": False,
    }


def axis(theme: Theme, title: str, **settings: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": theme.soft}, "standoff": 6},
        "gridcolor": theme.grid,
        "linecolor": theme.mark,
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        **settings,
    }
