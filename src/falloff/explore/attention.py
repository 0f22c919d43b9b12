"""The Attention page: what a bias leaves of the other keys, and what the kernels need not compute for it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dash import Dash, Input, Output, State, html, no_update

from falloff.explore.attention_charts import (
    LENGTHS,
    blocks_chart,
    saved_chart,
    weight_matrix_chart,
    weights_chart,
    windows_chart,
)
from falloff.explore.building import MOST_HEADS, PLAIN, Range, build, first_settings, shown_head, whole
from falloff.explore.controls import choice, number_id, slider
from falloff.explore.panels import empty, figure_panel, message
from falloff.explore.theme import theme_of
from falloff.views.skipping import skipped_work, visited_blocks

TITLE = "Attention"
_BLOCKS_LENGTH = 4096


def layout(asked: dict[str, str]) -> Any:
    """The page. `?scheme=kerple-log` in the address chooses the scheme."""
    scheme = asked.get("scheme", "alibi")
    fields = [
        choice("one-scheme", "Scheme", [(name, name) for name in PLAIN], scheme if scheme in PLAIN else "alibi", wide=True),
        slider("heads", "Heads", 8, Range(1, 16)),
        slider("length", "Keys", 512, Range(16, 4096, doubling=True)),
        slider("spread", "Spread of the scores", 0, Range(0, 4, whole=False)),
        slider("head", "Head of the pictures", 0, Range(0, 15)),
        slider("seed", "Seed", 0, Range(0, 99)),
    ]
    return [
        html.H1("What a bias does to attention"),
        html.P(
            "Softmax of the bias alone, where the spread is 0: all keys have equal scores. With a spread, queries and keys "
            "are random and their scores have this standard deviation. The query is the last of the keys.",
            className="lead",
        ),
        html.Section(fields, className="controls", **{"aria-label": "Settings"}),
        html.Div(id="attention-said", **{"aria-live": "polite"}),
        html.Div(
            [
                figure_panel("weights", "Attention by offset", "One curve a head; both axes are logarithmic."),
                figure_panel("windows", "Effective window", "How many of the nearest keys hold half, 90% and 99%, by head."),
                figure_panel(
                    "weight-matrix", "Attention of the first 32 queries", "Rows are queries, columns keys.", height=380
                ),
            ],
            className="panels",
        ),
        html.H2("What the kernels skip", className="part"),
        html.P(
            "A key is skipped where it provably holds next to nothing: all skipped keys of a row together have less than "
            "2^-24 of its attention. The CPU kernels count here themselves, with 64 numbers a head.",
            className="lead",
        ),
        html.Button("Count for these settings", id="count", type="button", className="main"),
        html.Div(id="skip-said", **{"aria-live": "polite"}),
        html.Div(
            [
                figure_panel("saved", "Share of the work that is saved", "By length, one curve a head.", height=320),
                figure_panel(
                    "blocks",
                    f"Visited blocks at {_BLOCKS_LENGTH} keys",
                    "Each cell is 48 queries and 256 keys: the share of its pairs that is visited.",
                    height=380,
                ),
            ],
            className="panels",
        ),
    ]


def register(app: Dash) -> None:
    """The callbacks."""
    shared = [
        ("one-scheme", "value"),
        *((number_id(name), "value") for name in ("heads", "length", "spread", "head", "seed")),
        ("theme", "data"),
    ]

    @app.callback(
        Output("weights", "figure"),
        Output("windows", "figure"),
        Output("weight-matrix", "figure"),
        Output("attention-said", "children"),
        *(Input(*one) for one in shared),
    )
    def draw(scheme: str, heads: Any, length: Any, spread: Any, head: Any, seed: Any, theme: str | None) -> Any:
        colours = theme_of(theme)
        try:
            bias = build(scheme, heads, seed, first_settings(scheme))
            keys, scores = whole("keys", length, 2, 4096), _spread(spread)
            shown, capped = shown_head(head, bias)
            seeded = int(seed)
            return (
                weights_chart(bias, keys, scores, seeded, colours),
                windows_chart(bias, keys, scores, seeded, colours),
                weight_matrix_chart(bias, 32, shown, scores, seeded, colours),
                html.P(capped, className="note") if capped else None,
            )
        except ValueError as error:
            return empty(), empty(), empty(), message(str(error))

    @app.callback(
        Output("saved", "figure"),
        Output("blocks", "figure"),
        Output("skip-said", "children"),
        Input("count", "n_clicks"),
        *(State(*one) for one in shared[:-1]),
        Input("theme", "data"),
        prevent_initial_call=True,
    )
    def count(times: Any, scheme: str, heads: Any, length: Any, spread: Any, head: Any, seed: Any, theme: str | None) -> Any:
        if not times:  # the theme alone has changed, or has just been read
            return no_update, no_update, no_update
        colours = theme_of(theme)
        try:
            scores = _spread(spread)
            seeded = whole("seed", seed, 0, 2**32 - 1)
            counted = _counted(scheme, whole("heads", heads, 1, MOST_HEADS), scores, whole("head", head, 0, 15), seeded)
        except ValueError as error:
            return empty(), empty(), message(str(error))
        said = f"{scheme}, {counted.heads} heads, spread {scores:g}; the blocks are those of head {counted.shown}."
        if not any(any(shares) for shares in counted.saved):
            said += " Nothing is skipped: no key is provably without weight, or the bias depends on the query's position."
        return saved_chart(counted.saved, colours), blocks_chart(counted.blocks, colours), html.P(said, className="note")


def _spread(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 16:
        raise ValueError(
            f"spread of the scores: got {'nothing' if value is None else value}, expected a number from 0 to 16"
        )
    return float(value)


@dataclass(frozen=True)
class _Counted:
    heads: int
    shown: int
    saved: list[list[float]]
    blocks: list[list[float]]


@lru_cache(maxsize=8)
def _counted(scheme: str, heads: int, spread: float, head: int, seed: int) -> _Counted:
    """What is skipped: kept, so that another theme costs no new count."""
    bias = build(scheme, heads, seed, first_settings(scheme))
    shown, _ = shown_head(head, bias)
    saved = [skipped_work(bias, length, spread, seed).saved.tolist() for length in LENGTHS]
    return _Counted(bias.num_heads, shown, saved, visited_blocks(bias, _BLOCKS_LENGTH, shown, spread, seed).tolist())
