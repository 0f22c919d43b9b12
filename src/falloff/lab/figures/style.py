"""What all charts of the report share: colours, layout, axes."""

import math
from dataclasses import dataclass
from typing import Any

from falloff.lab.config import BASELINES, DEFAULT_SCHEMES, KNOWN_SCHEMES
from falloff.views.palette import head_colours

# Okabe and Ito's palette, which colour-blind readers can distinguish, without its yellow (too pale on white), and three
# darker colours; each with its like on a dark ground. Kinds also differ by dash and schemes by marker: nothing depends on
# colour alone. 9 colours and 10 markers give 90 different schemes.
_ON_DARK = {
    "#882255": "#ff6f91",
    "#CC79A7": "#e6a9cb",
    "#009E73": "#1fc79a",
    "#D55E00": "#ff8a3d",
    "#56B4E9": "#8fd3ff",
    "#666633": "#b9b96b",
    "#0072B2": "#3f97e6",
    "#E69F00": "#ffc033",
    "#332288": "#9a8cff",
}
_MARKERS = (
    "star", "triangle-down", "diamond", "triangle-up", "square", "hexagram", "circle", "pentagon", "triangle-left",
    "triangle-right"
)  # fmt: skip
_DASHES = {"learned": "solid", "heuristic": "dash", "baseline": "dot"}
_BASELINES = {"rope": ("#555555", "x"), "none": ("#000000", "cross")}
_BASELINES_ON_DARK = {"#555555": "#aab2bd", "#000000": "#ffffff"}
_LABEL = 16  # characters: with longer names, a legend of many has one column on a phone
_GRID = "#e6e8ec"
_INK = "#1c2430"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


@dataclass(frozen=True)
class Style:
    """How the curve of a scheme looks."""

    colour: str
    dash: str
    marker: str


def label(scheme: str) -> str:
    """The name of a scheme in a chart: of a long one, as of a scheme in a file, the end. It would take the place of curves.

    >>> label("kerple-power"), label("experiments/offsets.py:LearnedOffsets")
    ('kerple-power', '…:LearnedOffsets')
    """
    return scheme if len(scheme) <= _LABEL else "\u2026" + scheme[1 - _LABEL :]


def scheme_styles(kinds: dict[str, str]) -> dict[str, Style]:
    """The style of each scheme in every chart, given its kind. A published scheme has the same style in every report.

    >>> scheme_styles({"my.py:Mine": "learned", "none": "baseline"})["none"]
    Style(colour='#000000', dash='dot', marker='cross')
    """
    # Those that are compared by default come first: none of them shares its colour.
    places = [name for name in dict.fromkeys((*DEFAULT_SCHEMES, *KNOWN_SCHEMES, *kinds)) if name not in BASELINES]
    colours = tuple(_ON_DARK)
    styles = {}
    for name, kind in kinds.items():
        if name in _BASELINES:
            colour, marker = _BASELINES[name]
        else:
            place = places.index(name)
            colour, marker = colours[place % len(colours)], _MARKERS[place % len(_MARKERS)]
        styles[name] = Style(colour, _DASHES[kind], marker)
    return styles


def on_dark(heads: int = 1) -> dict[str, str]:
    """The colour on a dark ground for each colour of a chart on a white one.

    >>> on_dark()["#000000"], on_dark()[faint("#0072B2")]
    ('#ffffff', 'rgba(63,151,230,0.45)')
    """
    of_schemes = _ON_DARK | _BASELINES_ON_DARK
    of_heads = zip(head_colours(heads), head_colours(heads, dark=True), strict=True)
    return of_schemes | {faint(light): faint(dark) for light, dark in of_schemes.items()} | dict(of_heads)


def faint(colour: str) -> str:
    """A colour #rrggbb at 45% opacity.

    >>> faint("#0072B2")
    'rgba(0,114,178,0.45)'
    """
    return f"rgba({','.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))},0.45)"


def layout(height: int) -> dict[str, Any]:
    """The layout of a chart."""
    return {
        "template": "none",
        "autosize": True,
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 28, "b": 48},
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": _GRID,
        "linecolor": "#c3c9d2",
        "zeroline": False,
        "ticks": "",
        **settings,
    }


def legend(**settings: Any) -> dict[str, Any]:
    """A legend below a chart."""
    return {"orientation": "h", "yanchor": "top", "y": -0.14, "x": 0, "font": {"size": 13}, **settings}


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, few enough to read, and at least two.

    >>> log_ticks(5.1, 23.0), log_ticks(13.2, 16.7)
    ([6, 8, 10, 15, 20], [14, 15, 16])
    """
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [step * 10.0**power for power in range(-1, 40) for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 10:
            break
    if len(inside) < 2:  # a range so narrow that even steps look even
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 2)
        inside = [round(place * step, 9) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    inside = inside[:: -(-len(inside) // 10)]
    return [int(tick) if tick == int(tick) else tick for tick in inside]
