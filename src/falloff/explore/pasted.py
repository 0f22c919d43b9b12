"""A box to paste a grid of buckets or values: it finds the wrong cells and says why."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from falloff.explore.building import Range, build, whole
from falloff.explore.controls import choice, number_id, slider, text_field
from falloff.explore.panels import message
from falloff.schemes import Scheme
from falloff.views.buckets import Bucketed
from falloff.views.checks import WrongCell, check_grid, row_shifts
from falloff.views.grid_text import parse_grid
from falloff.views.grids import bias_grid
from falloff.views.listed import ListedBuckets
from falloff.views.reasons import bucket_reason

_MOST_TOLD = 12


def layout() -> list[Any]:
    """The box and what its grid should be."""
    return [
        html.H2("Check a grid of your own"),
        html.P(
            "Paste it as it is written: rows in lines, or all in one line with row labels such as (u) 1 |; X for a masked "
            "cell; tables of Markdown and LaTeX, lists of Python.",
            className="note",
        ),
        html.Div(
            [
                html.Label("The grid", htmlFor="pasted"),
                dcc.Textarea(id="pasted", value="0 X X X\n1 0 X X\n2 1 0 X\n3 2 1 0", rows=8),
            ],
            className="field wide",
        ),
        html.Div(
            [
                choice(
                    "pasted-scheme",
                    "What it should be",
                    [("t5", "T5's buckets"), ("list", "a list of buckets"), ("alibi", "ALiBi's values")],
                    "t5",
                    wide=True,
                ),
                slider("pasted-buckets", "num_buckets", 4, Range(2, 64)),
                slider("pasted-distance", "max_distance", 5, Range(2, 512, doubling=True)),
                text_field("pasted-list", "List of buckets", "0,1,2-3,4+"),
                slider("pasted-heads", "Heads of ALiBi", 8, Range(1, 16)),
                slider("pasted-head", "Head, from 0", 0, Range(0, 15)),
            ],
            className="settings",
        ),
        html.Div(html.Button("Check the grid", id="check-pasted", type="button", className="main"), className="actions"),
        html.Div(id="pasted-said", **{"aria-live": "polite"}),
    ]


def register(app: Dash) -> None:
    """The callback."""

    @app.callback(
        Output("pasted-said", "children"),
        Input("check-pasted", "n_clicks"),
        State("pasted", "value"),
        State("pasted-scheme", "value"),
        State("pasted-list", "value"),
        *(State(number_id(f"pasted-{name}"), "value") for name in ("buckets", "distance", "heads", "head")),
        prevent_initial_call=True,
    )
    def check(_: Any, text: str | None, kind: str, listed: str | None, *numbers: Any) -> Any:
        try:
            return _said(text or "", _expected(kind, listed or "", numbers), numbers[3])
        except ValueError as error:
            return message(str(error))


def _expected(kind: str, listed: str, numbers: tuple[Any, ...]) -> Scheme:
    if kind == "list":
        return ListedBuckets(rule=listed)
    if kind == "alibi":
        return build("alibi", numbers[2], 0, {})
    return build("t5", 1, 0, {"num_buckets": numbers[0], "max_distance": numbers[1]})


def _said(text: str, scheme: Scheme, head: Any) -> Any:
    written = parse_grid(text)
    expected = bias_grid(scheme, len(written), 0 if isinstance(scheme, Bucketed) else whole("head", head, 0, 15))
    wrong = check_grid(written, expected)
    if not wrong:
        return html.P(f"Right: all {len(written)} x {len(written)} cells.", className="right")
    if row_shifts(written, expected) is not None:
        said = "Each row differs from ours by a constant, which softmax cancels: it is the same bias, written another way."
        return html.P(said, className="right")
    lines = [html.Li(_line(cell, scheme)) for cell in wrong[:_MOST_TOLD]]
    more = [html.P(f"{len(wrong) - _MOST_TOLD} more.")] if len(wrong) > _MOST_TOLD else []
    count = "1 cell is wrong." if len(wrong) == 1 else f"{len(wrong)} cells are wrong."
    return html.Div([html.P(html.Strong(count)), html.Ul(lines), *more], className="wrong")


def _line(cell: WrongCell, scheme: Scheme) -> str:
    found = "is masked" if cell.found is None else f"reads {cell.found:g}"
    if cell.expected is None:
        return f"Query {cell.query}, key {cell.key} {found}, but the key lies in the future: it is masked."
    why = bucket_reason(scheme, cell.offset) if _has_reason(scheme) else f"offset {cell.offset} has {cell.expected:g}"
    return f"Query {cell.query}, key {cell.key} {found}, but {why}."


def _has_reason(scheme: Scheme) -> bool:
    return isinstance(scheme, Bucketed) and not isinstance(scheme, ListedBuckets)
