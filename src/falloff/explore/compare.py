"""The Compare page: learned against heuristic in one sortable table, and the figures of a run of `falloff compare`."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, html

from falloff.explore import runs
from falloff.explore.building import Range, whole
from falloff.explore.controls import number_id, several, slider, text_field
from falloff.explore.panels import empty, figure_panel, message, table
from falloff.explore.theme import theme_of
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
        html.H2("A run of falloff compare", className="part"),
        html.Div(
            [
                text_field("run-path", "Folder of the run", _run_in(asked.get("checkpoint", "")), "runs/compare-quick"),
                html.Div(html.Button("Show the run", id="show-run", type="button", className="main"), className="actions"),
            ],
            className="box",
        ),
        html.Div(id="run-said", **{"aria-live": "polite"}),
        html.Div(
            [
                figure_panel("run-tail", "Perplexity of the last bytes by test length", runs.LEVEL, height=440),
                figure_panel("run-all", "Perplexity of all bytes by test length", runs.BARS, height=440),
            ],
            id="run-figures",
            className="panels",
            hidden=True,
        ),
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

    @app.callback(
        Output("run-tail", "figure"),
        Output("run-all", "figure"),
        Output("run-said", "children"),
        Output("run-figures", "hidden"),
        Input("show-run", "n_clicks"),
        Input("theme", "data"),
        State("run-path", "value"),
    )
    def show(_: Any, theme: str | None, path: str | None) -> Any:
        if not path:
            return empty(), empty(), None, True
        try:
            tail, everything, said = runs.charts(Path(path), theme_of(theme))
        except (ValueError, OSError) as error:
            return empty(), empty(), message(str(error)), True
        return tail, everything, said, False


@lru_cache(maxsize=256)
def _column(name: str, trained_length: int) -> Column:
    if name in NO_BIASES:
        return compared(NO_BIASES[name], trained_length)
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return compared(make(SCHEMES[name], 8, {}), trained_length)


def _fact(column: Column, name: str) -> str:
    return column.facts[name] + (" (now)" if name in column.at_hand else "")


def _run_in(path: str) -> str:
    return path if path and (Path(path) / "config.json").is_file() and (Path(path) / "checkpoints").is_dir() else ""
