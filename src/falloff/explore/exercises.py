"""The Exercises page: the exercises of `falloff exercise`, by kind and seed in the address, and a box to check a grid."""

from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html

from falloff.exercises import (
    PROPERTIES,
    Exercise,
    MatchExercise,
    PropertyExercise,
    ShareExercise,
    WrongBucketExercise,
    make_exercise,
)
from falloff.explore import pasted
from falloff.explore.controls import choice, several
from falloff.explore.panels import message
from falloff.views.grids import BiasGrid
from falloff.views.palette import GridColours, text_colour

TITLE = "Exercises"
_NAMES = {
    "grid": "Find the wrong bucket",
    "match": "Match pairs to buckets",
    "share": "Which distance shares a bucket",
    "property": "Properties of a matrix",
}


def layout(asked: dict[str, str]) -> Any:
    """The page. `?kind=grid&seed=12` in the address is one exercise, which a teacher can hand out."""
    kind, seed = asked.get("kind", "grid"), asked.get("seed", "0")
    kinds = [
        dcc.Link(said, href=f"/exercises?kind={name}&seed={seed}", className="here" if name == kind else "")
        for name, said in _NAMES.items()
    ]
    return [
        html.H1("Exercises"),
        html.P("Drawn by a seed. The address of this page is the exercise: send it to hand one out.", className="lead"),
        html.Nav(kinds, className="tabs", **{"aria-label": "Kinds of exercises"}),
        html.Section(_exercise(kind, seed), className="box"),
        html.Section(pasted.layout(), className="box"),
    ]


def register(app: Dash) -> None:
    """The callbacks."""
    pasted.register(app)

    @app.callback(
        Output("verdict", "children"),
        Input("check-answer", "n_clicks"),
        Input({"type": "cell", "query": ALL, "key": ALL}, "n_clicks"),
        State({"type": "answer", "part": ALL}, "value"),
        State("exercise", "data"),
        prevent_initial_call=True,
    )
    def check(_: Any, cells: list[Any], answers: list[Any], drawn: dict[str, Any]) -> Any:
        clicked = ctx.triggered_id
        if isinstance(clicked, dict):
            if not any(cells):
                return None
            written = f"{clicked['query']},{clicked['key']}"
        elif drawn["kind"] == "property":
            written = ",".join(answers[0]) or "none"
        elif any(answer is None for answer in answers):
            return message("answer: got nothing for one of the questions, expected a choice in each")
        else:
            written = ",".join(map(str, answers))
        return _verdict(make_exercise(drawn["kind"], drawn["seed"]), written)


def _exercise(kind: str, seed: str) -> list[Any]:
    try:
        if not seed.isascii() or not seed.isdigit():
            raise ValueError(f"seed: got {seed[:40]!r}, expected a whole number")
        drawn = make_exercise(kind, int(seed))
    except ValueError as error:
        return [html.H2("No such exercise"), message(f"{error}; an address such as /exercises?kind=grid&seed=12 has one")]
    by_click = isinstance(drawn, WrongBucketExercise)
    return [
        html.H2(f"{_NAMES[kind]}, seed {drawn.seed}"),
        html.P(drawn.question),
        html.Details([html.Summary("The rule"), html.P(html.Code(drawn.rule))]),
        dcc.Store(id="exercise", data={"kind": kind, "seed": drawn.seed}),
        *_shown(drawn),
        html.Div(
            [
                html.Button("Check", id="check-answer", type="button", className="main", hidden=by_click),
                dcc.Link("Another one", href=f"/exercises?kind={kind}&seed={drawn.seed + 1}"),
            ],
            className="actions",
        ),
        html.Div(id="verdict", **{"aria-live": "polite"}),
    ]


def _shown(drawn: Exercise) -> list[Any]:
    """What the question shows, and the fields for its answer."""
    if isinstance(drawn, WrongBucketExercise):
        return [html.P("Choose the wrong cell.", className="note"), _grid_table(drawn.grid, buttons=True)]
    if isinstance(drawn, PropertyExercise):
        options = [(name, meaning) for name, meaning in PROPERTIES.items()]
        return [_grid_table(drawn.grid, buttons=False), several(_part(0), "It is", options, [])]
    if isinstance(drawn, MatchExercise):
        buckets = [(str(bucket), str(bucket)) for bucket in drawn.buckets]
        return [
            choice(_part(place), f"Query {query}, key {key}", buckets, None)
            for place, (query, key) in enumerate(drawn.pairs)
        ]
    assert isinstance(drawn, ShareExercise)
    choices = [(str(one), str(one)) for one in drawn.choices]
    return [choice(_part(0), f"It shares a bucket with distance {drawn.distance}", choices, None)]


def _part(place: int) -> dict[str, str]:
    return {"type": "answer", "part": str(place)}


def _grid_table(grid: BiasGrid, *, buttons: bool) -> Any:
    """A grid as a table; each visible cell may be a button that names its query and key."""
    colours = GridColours(grid)
    labels = grid.labels()

    def cell(query: int, key: int) -> Any:
        value = grid.cells[query][key]
        if value is None:
            return html.Td("", className="masked")
        fill = colours(value)
        style = {"background": fill, "color": text_colour(fill)}
        if not buttons:
            return html.Td(labels[query][key], style=style)
        name = f"Query {query}, key {key}: bucket {value}"
        button = html.Button(
            labels[query][key],
            id={"type": "cell", "query": query, "key": key},
            type="button",
            style=style,
            **{"aria-label": name},
        )
        return html.Td(button)

    header = [html.Td(""), *(html.Th(str(key), scope="col") for key in range(grid.length))]
    rows = [
        html.Tr([html.Th(str(query), scope="row"), *(cell(query, key) for key in range(grid.length))])
        for query in range(grid.length)
    ]
    return html.Div(
        html.Table(
            [html.Caption("Rows are queries, columns keys."), html.Tbody([html.Tr(header), *rows])], className="grid"
        ),
        className="scroll",
    )


def _verdict(drawn: Exercise, written: str) -> Any:
    try:
        checked = drawn.check(drawn.read(written))
    except ValueError as error:
        return message(str(error))
    word = "Right." if checked.right else "Wrong."
    return html.Div(
        [html.P(html.Strong(word)), *map(html.P, checked.explanation)], className="right" if checked.right else "wrong"
    )
