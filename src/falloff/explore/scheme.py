"""The Scheme page: one or several schemes side by side, with their settings as sliders."""

from typing import Any

from dash import ALL, MATCH, Dash, Input, Output, State, ctx, dcc, html

from falloff.explore.building import PLAIN, Range, build, first_settings, range_of, shown_head, whole
from falloff.explore.charts import curves_chart, matrix_chart, rows_chart, ruler_chart
from falloff.explore.controls import choice, number_id, several, slider
from falloff.explore.panels import empty, figure_panel, message
from falloff.explore.theme import theme_of
from falloff.schemes import SCHEMES, Scheme
from falloff.views.buckets import Bucketed, bucket_table
from falloff.views.by_offset import curves_by_offset
from falloff.views.grids import bias_grid
from falloff.views.pair_words import pair_words
from falloff.views.pairs import pair_bias

TITLE = "Scheme"
_MOST_SHOWN = 4
_FIRST = ["t5", "alibi"]
_LEFT_OUT = "The logarithmic axis begins at offset 1: offset 0 and keys in the future are left out."


def layout(asked: dict[str, str]) -> Any:
    """The page. `?scheme=fire,t5` in the address chooses the schemes."""
    wanted = [name for name in asked.get("scheme", "").split(",") if name in PLAIN][:_MOST_SHOWN] or _FIRST
    fields = [
        several("schemes", f"Schemes, up to {_MOST_SHOWN} side by side", [(name, name) for name in PLAIN], wanted),
        slider("heads", "Heads", 8, Range(1, 16)),
        slider("trained", "Trained length", 128, Range(8, 2048, doubling=True)),
        slider("positions", "Positions", 10, Range(2, 64)),
        slider("head", "Head of the matrix", 0, Range(0, 15)),
        slider("seed", "Seed", 0, Range(0, 99)),
        choice("axis", "Axis of offsets", [("linear", "linear"), ("log", "logarithmic")], "linear"),
        choice("cells", "Cells", [("bucket", "buckets"), ("value", "values")], "bucket"),
    ]
    return [
        html.H1("What a scheme does"),
        html.P(
            "A bias is added to the score of each query and key before softmax. Move a slider and see at once what changes. "
            "A learned scheme is shown with its start values: training moves them.",
            className="lead",
        ),
        html.Div(id="too-many"),
        html.Section(fields, className="controls", **{"aria-label": "Settings of all schemes"}),
        html.Div(_cards(wanted, {}), id="cards", className="cards"),
    ]


def register(app: Dash) -> None:
    """The callbacks: a card changes alone when one of its own fields does."""

    @app.callback(
        Output("cards", "children"), Output("too-many", "children"),
        Input("schemes", "value"),
        State({"type": "setting", "scheme": ALL, "name": ALL, "part": "number"}, "value"),
        State({"type": "switch", "scheme": ALL, "name": ALL}, "value"),
        prevent_initial_call=True,
    )  # fmt: skip
    def choose(chosen: list[str], numbers: list[Any], switches: list[Any]) -> tuple[Any, Any]:
        kept: dict[str, dict[str, Any]] = {}
        for state in [*ctx.states_list[0], *ctx.states_list[1]]:
            value = state.get("value")
            if state["id"]["type"] == "switch":
                value = bool(value)
            if value is not None:  # a field that was cleared starts anew
                kept.setdefault(state["id"]["scheme"], {})[state["id"]["name"]] = value
        ordered = [name for name in PLAIN if name in chosen]
        said = f"{len(ordered)} schemes are chosen: the first {_MOST_SHOWN} are shown." if len(ordered) > _MOST_SHOWN else ""
        if not ordered:
            said = "No scheme is chosen: tick one."
        return _cards(ordered[:_MOST_SHOWN], kept), message(said)

    @app.callback(
        Output({"type": "curves", "scheme": MATCH}, "figure"),
        Output({"type": "matrix", "scheme": MATCH}, "figure"),
        Output({"type": "extra", "scheme": MATCH}, "figure"),
        Output({"type": "said", "scheme": MATCH}, "children"),
        Input({"type": "setting", "scheme": MATCH, "name": ALL, "part": "number"}, "value"),
        Input({"type": "switch", "scheme": MATCH, "name": ALL}, "value"),
        Input(number_id("heads"), "value"),
        Input(number_id("trained"), "value"),
        Input(number_id("positions"), "value"),
        Input(number_id("head"), "value"),
        Input(number_id("seed"), "value"),
        Input("axis", "value"),
        Input("cells", "value"),
        Input("theme", "data"),
        State({"type": "setting", "scheme": MATCH, "name": ALL, "part": "number"}, "id"),
        State({"type": "switch", "scheme": MATCH, "name": ALL}, "id"),
        State({"type": "curves", "scheme": MATCH}, "id"),
    )
    def draw(
        numbers: list[Any],
        switches: list[Any],
        heads: Any,
        trained: Any,
        positions: Any,
        head: Any,
        seed: Any,
        axis: str,
        cells: str,
        theme: str | None,
        number_ids: list[dict[str, str]],
        switch_ids: list[dict[str, str]],
        own: dict[str, str],
    ) -> tuple[Any, Any, Any, Any]:
        given = {one["name"]: value for one, value in zip(number_ids, numbers, strict=True)}
        queries = [given.pop(name) for name in ("near_query", "far_query") if name in given]
        given |= {one["name"]: bool(value) for one, value in zip(switch_ids, switches, strict=True)}
        colours = theme_of(theme)
        try:
            bias = build(own["scheme"], heads, seed, given)
            shown, capped = shown_head(head, bias)
            grid = bias_grid(bias, whole("positions", positions, 2, 64), shown, values=cells == "value")
            curves = curves_chart(bias, whole("trained length", trained, 8, 4096), logarithmic=axis == "log", theme=colours)
            extra, words = _extra(bias, queries, colours)
        except ValueError as error:
            return empty(), empty(), empty(), message(str(error))
        left_out = _LEFT_OUT if axis == "log" else ""
        notes = [html.P(note, className="note") for note in (capped, left_out) if note]
        return curves, matrix_chart(grid, colours), extra, [words, *notes]


def _cards(schemes: list[str], kept: dict[str, dict[str, Any]]) -> list[Any]:
    return [_card(name, first_settings(name) | kept.get(name, {})) for name in schemes]


def _card(name: str, settings: dict[str, Any]) -> Any:
    cls = SCHEMES[name]
    bias = build(name, 1, 0, first_settings(name))
    by_row = not cls.toeplitz
    bucketed = issubclass(cls, Bucketed)
    numbers = {key: value for key, value in settings.items() if not isinstance(value, bool)}
    if by_row:
        numbers = {"near_query": 7, "far_query": 27} | numbers
    fields = [
        slider({"type": "setting", "scheme": name, "name": key}, _written(key), value, _ends(key))
        for key, value in numbers.items()
    ]
    fields += [choice_switch(name, key, value) for key, value in settings.items() if isinstance(value, bool)]
    learned = "learned: training moves it" if bias.kind == "learned" else "heuristic: fixed, not learned"
    extra = figure_panel(
        {"type": "extra", "scheme": name},
        "Ruler of buckets" if bucketed else "Two queries",
        "Each box is one bucket, over the offsets that share it."
        if bucketed
        else "Solid: the near query; dotted: the far one. The marks are two pairs at one offset.",
        file=f"{name}-extra",
        height=130 if bucketed else 280,
    )
    return html.Article(
        [
            html.H2(name),
            html.P(learned, className="kind"),
            html.P(html.Code(bias.formula), className="formula"),
            html.P(bias.reading),
            html.Div(fields, className="settings"),
            html.Div(id={"type": "said", "scheme": name}, className="said", **{"aria-live": "polite"}),
            figure_panel({"type": "curves", "scheme": name}, "Bias by offset", "One curve a head.", file=f"{name}-curves"),
            html.Div(extra, hidden=not (bucketed or by_row)),
            figure_panel(
                {"type": "matrix", "scheme": name},
                "Matrix",
                "Rows are queries, columns keys.",
                file=f"{name}-matrix",
                height=360,
            ),
        ],
        className="card",
    )


def choice_switch(scheme: str, key: str, value: bool) -> Any:
    """A checkbox for a setting that is true or false."""
    return html.Div(
        dcc.Checklist(
            id={"type": "switch", "scheme": scheme, "name": key},
            options=[{"value": "on", "label": _written(key)}],
            value=["on"] if value else [],
            className="chips",
        ),
        className="field",
    )


def _ends(key: str) -> Range:
    return Range(4, 255) if key.endswith("_query") else range_of(key)


def _written(key: str) -> str:
    return {"near_query": "Near query", "far_query": "Far query"}.get(key, key)


def _extra(bias: Scheme, queries: list[Any], colours: Any) -> tuple[Any, Any]:
    """The third figure of a card and the words above the figures: the ruler of buckets, or two queries."""
    if isinstance(bias, Bucketed):
        used = sum(bool(bucket.ranges) for bucket in bucket_table(bias))
        return ruler_chart(bias, colours), html.P(f"{used} buckets are used.")
    if bias.toeplitz:
        return empty(), None
    near, far = (whole("query", query, 4, 255) for query in queries)
    pairs = [pair_bias(bias, near, near - 4), pair_bias(bias, far, far - 4)]
    curves = [curves_by_offset(bias, query + 1) for query in (near, far)]
    return rows_chart(curves[0], curves[1], pairs, colours), html.P(pair_words(bias, *pairs))
