"""The Checkpoint page: what each head of a trained bias has learned, and how far two checkpoints are apart."""

from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, html

from falloff.explore.attention_charts import SHARES
from falloff.explore.charts import curves_chart
from falloff.explore.checkpoint_charts import drift_chart, reach_chart, table_chart
from falloff.explore.controls import choice, text_field
from falloff.explore.panels import empty, figure_panel, message, table
from falloff.explore.stored_biases import StoredBias, stored_biases
from falloff.explore.theme import theme_of
from falloff.schemes import Scheme, T5Bias
from falloff.schemes.settings import title_of
from falloff.views.attention_weights import effective_window, last_row_weights

TITLE = "Checkpoint"
_LENGTH = 512


def layout(asked: dict[str, str]) -> Any:
    """The page. `?checkpoint=PATH` in the address opens one."""
    path = asked.get("checkpoint", "")
    return [
        html.H1("What each head has learned"),
        html.P(
            "A .safetensors file, a folder of Transformers, or a run of falloff compare, on the machine that serves this "
            "page. Nothing in it is run.",
            className="lead",
        ),
        html.Div(
            [
                text_field("checkpoint", "File or folder", path, "runs/compare-quick"),
                text_field("other-checkpoint", "A second one, to see the drift between them", "", "may stay empty"),
                html.Div(html.Button("Open", id="open-checkpoint", type="button", className="main"), className="actions"),
                html.Div(choice("place", "Which bias", [], None), id="places", hidden=True),
            ],
            className="box",
        ),
        html.Div(id="found-said", **{"aria-live": "polite"}),
        html.Div(id="checkpoint-said", **{"aria-live": "polite"}),
        html.Div(
            [
                figure_panel(
                    "stored-curves",
                    "Bias by offset",
                    "One curve a head; the line marks the trained length, if known. The logarithmic axis begins at "
                    "offset 1: offset 0 and keys in the future are left out.",
                ),
                figure_panel("stored-reach", "Heads by reach", "The nearest keys that hold half, 90% and 99% of attention."),
                html.Div(
                    figure_panel("stored-table", "Values by bucket and head", "T5's table, as it was learned.", height=420),
                    id="table-panel",
                ),
                html.Div(
                    figure_panel("stored-drift", "Drift", "The second checkpoint less the first, by offset from 1 on."),
                    id="drift-panel",
                ),
            ],
            id="stored-figures",
            className="panels",
            hidden=True,
        ),
        html.Div(id="heads-table", className="box", hidden=True),
    ]


def register(app: Dash) -> None:
    """The callbacks."""

    @app.callback(
        Output("place", "options"),
        Output("place", "value"),
        Output("places", "hidden"),
        Output("found-said", "children"),
        Input("open-checkpoint", "n_clicks"),
        State("checkpoint", "value"),
    )
    def find(_: Any, path: str | None) -> Any:
        if not path:
            return [], None, True, None
        try:
            found = stored_biases(Path(path))
        except (ValueError, OSError) as error:
            return [], None, True, message(_plain(error))
        options = [{"value": str(place), "label": one.label} for place, one in enumerate(found)]
        return options, "0", False, None

    @app.callback(
        Output("stored-curves", "figure"),
        Output("stored-reach", "figure"),
        Output("stored-table", "figure"),
        Output("stored-drift", "figure"),
        Output("heads-table", "children"),
        Output("stored-figures", "hidden"),
        Output("heads-table", "hidden"),
        Output("table-panel", "hidden"),
        Output("drift-panel", "hidden"),
        Output("checkpoint-said", "children"),
        Input("place", "value"),
        Input("open-checkpoint", "n_clicks"),
        Input("theme", "data"),
        State("checkpoint", "value"),
        State("other-checkpoint", "value"),
    )
    def show(place: str | None, _: Any, theme: str | None, path: str | None, other: str | None) -> Any:
        nothing = (empty(), empty(), empty(), empty(), None, True, True, True, True)
        if not path or place is None:
            return *nothing, None
        colours = theme_of(theme)
        try:
            one = stored_biases(Path(path))[int(place)]
            second = _same_place(stored_biases(Path(other)), one) if other else None
            bias = one.scheme
            drift = empty() if second is None else drift_chart(bias, second, _LENGTH, colours)
            buckets = table_chart(bias, colours) if isinstance(bias, T5Bias) else empty()
            length = one.trained_length or _LENGTH
            curves = curves_chart(bias, length, logarithmic=True, theme=colours, marked=one.trained_length is not None)
            reach = reach_chart(bias, _LENGTH, colours)
            said = html.P(f"{one.label}: {title_of(bias)}, {bias.num_heads} heads.", className="note")
            hidden = (False, False, not isinstance(bias, T5Bias), second is None)
            return curves, reach, buckets, drift, _heads(bias), *hidden, said
        except (ValueError, OSError, IndexError) as error:
            return *nothing, message(_plain(error))


def _same_place(found: list[StoredBias], one: StoredBias) -> Scheme:
    for other in found:
        if other.place == one.place and other.scheme.num_heads == one.scheme.num_heads:
            return other.scheme
    places = ", ".join(other.place for other in found[:4])
    raise ValueError(
        f"second checkpoint: got {places}, expected {one.place} with {one.scheme.num_heads} heads, as in the first one"
    )


def _heads(bias: Scheme) -> Any:
    weights = last_row_weights(bias, _LENGTH)
    windows = {name: effective_window(weights, share).tolist() for share, name, _ in SHARES}
    ordered = sorted(range(bias.num_heads), key=lambda head: windows["90%"][head])
    rows = [[f"head {head}", *(str(window[head]) for window in windows.values())] for head in ordered]
    caption = f"Of {_LENGTH} keys with equal scores: how many of the nearest hold this share of the attention"
    return table(["head", *windows], rows, caption)


def _plain(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"checkpoint: {error.filename}: {error.strerror}"
    return str(error)
