"""The figure of the suite `scaling`."""

from typing import TYPE_CHECKING, Any

from falloff.bench.cases import BIASES
from falloff.bench.contestants import NO_BIAS, OURS
from falloff.views.figures import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers and dashes differ too.
_STYLES = {
    "alibi": ("#882255", "o", "-"),
    "t5": ("#0072B2", "s", "-"),
    "fire": ("#CC79A7", "D", "-"),
    NO_BIAS: ("#555555", "x", "--"),
}


def scaling_figure(result: dict[str, Any]) -> "Figure":
    """Time against length, both axes logarithmic: forward on the left, forward and backward on the right.

    Args:
        result: of the suite `scaling`.

    Returns:
        A matplotlib figure, without pyplot.

    Raises:
        ImportError: without matplotlib (extra `plot`).
    """
    figure = empty_figure(9, 4.4)
    titles = {"forward": "Forward", "training": "Forward + backward"}
    groups = [group for group in titles if any(case["group"] == group for case in result["cases"])]
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axes, group in zip(panels, groups, strict=True):
        _draw(axes, [case for case in result["cases"] if case["group"] == group])
        axes.set_title(titles[group], loc="left", fontsize=11)
    panels[0].set_ylabel("milliseconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    shape = result["cases"][0]["shape"]
    figure.suptitle(
        f"{shape['heads']} heads of {shape['head_size']}, causal, float32; {result['machine']['cpu']}, "
        f"{result['threads']} threads",
        fontsize=9,
        color="#555555",
        x=0.01,
        ha="left",
    )
    return figure


def _draw(axes: "Axes", cases: list[dict[str, Any]]) -> None:
    biases = list(dict.fromkeys(case["bias"] for case in cases))
    curves = {f"{OURS}, {BIASES[bias]}": (bias, [case for case in cases if case["bias"] == bias], OURS) for bias in biases}
    by_length = {case["shape"]["queries"]: case for case in cases}
    curves[NO_BIAS.replace("sdpa", "SDPA")] = (NO_BIAS, list(by_length.values()), NO_BIAS)
    for label, (style, points, contestant) in curves.items():
        colour, marker, dash = _STYLES[style]
        axes.plot(
            [case["shape"]["queries"] for case in points],
            [case["milliseconds"][contestant]["median"] for case in points],
            color=colour,
            marker=marker,
            linestyle=dash,
            markersize=5,
            linewidth=1.6,
            label=label,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted(by_length)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("length N")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
