"""The part of the Compare page that shows a run of `falloff compare`: it reads files of the machine that serves it."""

from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, html

from falloff.explore import runs
from falloff.explore.controls import text_field
from falloff.explore.panels import empty, figure_panel, message
from falloff.explore.theme import theme_of


def layout(asked: dict[str, str]) -> list[Any]:
    """A field for the folder, and the figures."""
    return [
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
    """The callback."""

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


def _run_in(path: str) -> str:
    return path if path and (Path(path) / "config.json").is_file() and (Path(path) / "checkpoints").is_dir() else ""
