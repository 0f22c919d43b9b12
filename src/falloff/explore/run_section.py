"""The part of the Compare page that shows a run of `falloff compare`: it reads files of the machine that serves it."""

from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, html

from falloff.explore.controls import choice, text_field
from falloff.explore.panels import empty, figure_panel, message
from falloff.explore.runs import Run
from falloff.explore.theme import theme_of

_LEVEL = "A level line: longer context does no harm. Solid: learned; dashed: heuristic; dotted: baseline."
_RANKS = "A dot for each seed; dots far apart: another seed gives another order."


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
                html.Section([choice("run-measure", "Measure", [], None)], className="controls"),
                html.Div(
                    [
                        figure_panel("run-lengths", "By test length", _LEVEL, height=460),
                        html.Div(
                            figure_panel("run-ranks", "Rank by seed, at the longest length", _RANKS, height=460),
                            id="run-ranks-panel",
                        ),
                    ],
                    className="panels",
                ),
            ],
            id="run-figures",
            hidden=True,
        ),
    ]


def register(app: Dash) -> None:
    """The callback."""

    @app.callback(
        Output("run-lengths", "figure"),
        Output("run-ranks", "figure"),
        Output("run-ranks-panel", "hidden"),
        Output("run-measure", "options"),
        Output("run-measure", "value"),
        Output("run-said", "children"),
        Output("run-figures", "hidden"),
        Input("show-run", "n_clicks"),
        Input("theme", "data"),
        Input("run-measure", "value"),
        State("run-path", "value"),
    )
    def show(_: Any, theme: str | None, measure: str | None, path: str | None) -> Any:
        nothing: tuple[Any, ...] = (empty(), empty(), True, [], None)
        if not path:
            return *nothing, None, True
        try:
            run = Run(Path(path))
            options = run.measures
            chosen = measure if measure in options else next(iter(options))
            by_length, ranks = run.figures(chosen, theme_of(theme))
        except (ValueError, OSError) as error:
            return *nothing, message(str(error)), True
        written = [{"value": key, "label": words} for key, words in options.items()]
        said = html.P(run.said(chosen), className="note")
        return by_length, ranks or empty(), ranks is None, written, chosen, said, False


def _run_in(path: str) -> str:
    return path if path and (Path(path) / "config.json").is_file() and (Path(path) / "trials").is_dir() else ""
