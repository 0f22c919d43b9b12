"""Labelled fields: every one is a native control with its own label, which keyboards and screen readers know."""

import json
from collections.abc import Sequence
from math import log
from typing import Any

from dash import dcc, html

from falloff.explore.building import Range

Component = Any
Id = str | dict[str, str]


def slider(identity: Id, label: str, value: float, ends: Range) -> Component:
    """A slider and a number field that follow one another; the number is the value (its id: `identity` with part=number).

    The slider's own scale is 0 to 1000: assets/explore.js turns it into the number, by the ends in `data-`.
    """
    own = identity if isinstance(identity, dict) else {"type": "field", "name": identity}
    number, track = own | {"part": "number"}, own | {"part": "slider"}
    step = 1 if ends.whole else "any"
    return html.Div(
        [
            html.Label(
                [
                    html.Span(label),
                    dcc.Input(
                        id=track, type="range", min=0, max=1000, step=1, value=place_on(ends, value), className="slider"
                    ),
                ]
            ),
            html.Label(f"{label}, as a number", htmlFor=dom_id(number), className="unseen"),
            dcc.Input(id=number, type="number", step=step, value=value, className="number"),
            dcc.Store(
                id=own | {"part": "ends"},
                data={"low": ends.low, "high": ends.high, "doubling": ends.doubling, "whole": ends.whole},
            ),
        ],
        className="field",
    )


def number_id(name: str) -> dict[str, str]:
    """The id of the number of `slider(name, ...)`."""
    return {"type": "field", "name": name, "part": "number"}


def place_on(ends: Range, value: float) -> int:
    """Where a value lies on a slider, 0 to 1000; the inverse is in assets/explore.js.

    >>> place_on(Range(1, 1024, doubling=True), 32), place_on(Range(0, 2), 1)
    (500, 500)
    """
    inside = min(max(value, ends.low), ends.high)
    if ends.doubling:
        return round(1000 * log(inside / ends.low) / log(ends.high / ends.low))
    return round(1000 * (inside - ends.low) / (ends.high - ends.low))


def dom_id(identity: Id) -> str:
    """The id attribute that Dash gives a component: JSON with sorted keys.

    >>> dom_id({"name": "a", "part": "number"})
    '{"name":"a","part":"number"}'
    """
    return identity if isinstance(identity, str) else json.dumps(identity, sort_keys=True, separators=(",", ":"))


def choice(
    identity: Id, label: str, options: Sequence[tuple[str, str]], value: str | None, *, wide: bool = False
) -> Component:
    """One of a few: radio buttons. Options are (value, what is written)."""
    return _chips(dcc.RadioItems, identity, label, options, value, wide=wide)


def several(identity: Id, label: str, options: Sequence[tuple[str, str]], values: list[str]) -> Component:
    """Some of a few: checkboxes."""
    return _chips(dcc.Checklist, identity, label, options, values, wide=True)


def _chips(
    kind: type[Component], identity: Id, label: str, options: Sequence[tuple[str, str]], value: Any, *, wide: bool
) -> Component:
    written = [{"value": key, "label": said} for key, said in options]
    chips = kind(id=identity, options=written, value=value, className="chips")
    return html.Fieldset([html.Legend(label), chips], className="field wide" if wide else "field")


def text_field(identity: Id, label: str, value: str = "", hint: str = "") -> Component:
    """One line of text."""
    return html.Div(
        [
            html.Label(label, htmlFor=dom_id(identity)),
            dcc.Input(id=identity, type="text", value=value, debounce=True, placeholder=hint, className="text"),
        ],
        className="field wide",
    )
