"""The Compare page: learned against heuristic in one sortable table, and the figures of a run of `falloff compare`."""

from functools import lru_cache
from typing import Any

import torch
from dash import Dash, Input, Output, html

from falloff.explore import run_section
from falloff.explore.building import Range, whole
from falloff.explore.controls import number_id, several, slider
from falloff.explore.panels import message, table
from falloff.schemes import SCHEMES
from falloff.schemes.settings import make
from falloff.views.comparison import FACTS, Column, compared
from falloff.views.no_bias import NO_BIASES

TITLE = "Compare"
_FIRST = ["t5", "fire", "kerple-log", "alibi", "sandwich"]
_ALL = (*SCHEMES, *NO_BIASES)


def layout(asked: dict[str, str]) -> Any:
    """The page."""
    return [
        html.H1("Learned against heuristic"),
        html.P(
            "Each property is computed from the values of the bias, with 8 heads and start values. Where training may "
            "change it, it is marked “now”. A click on a heading sorts.",
            className="lead",
        ),
        html.Section(
            [
                several("compared", "Schemes", [(name, name) for name in _ALL], _FIRST),
                slider("compare-trained", "Trained length", 512, Range(16, 4096, doubling=True)),
            ],
            className="controls",
            **{"aria-label": "What is compared"},
        ),
        html.Div(id="comparison", className="box"),
        *(run_section.layout(asked) if "files" in asked else ()),
    ]


def register(app: Dash) -> None:
    """The callbacks."""

    @app.callback(Output("comparison", "children"), Input("compared", "value"), Input(number_id("compare-trained"), "value"))
    def fill(chosen: list[str], trained: Any) -> Any:
        try:
            length = whole("trained length", trained, 2, 16384)
            columns = [_column(name, length) for name in _ALL if name in chosen]
        except ValueError as error:
            return message(str(error))
        if not columns:
            return message("No scheme is chosen: tick one.")
        header = ["scheme", *FACTS]
        header[header.index("beyond")] = f"beyond {length}"
        rows = [[column.name, *(_fact(column, name) for name in FACTS)] for column in columns]
        return table(header, rows, "What each bias does with distance")


@lru_cache(maxsize=256)
def _column(name: str, trained_length: int) -> Column:
    if name in NO_BIASES:
        return compared(NO_BIASES[name], trained_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return compared(make(SCHEMES[name], 8, {}), trained_length)


def _fact(column: Column, name: str) -> str:
    return column.facts[name] + (" (now)" if name in column.at_hand else "")
