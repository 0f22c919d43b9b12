from itertools import pairwise

import pytest
import torch

from falloff import FIRE, SCHEMES, TISA, ALiBi, ProfileMixture, T5Bias
from falloff.views.curves import plot_curves
from falloff.views.figures import grid_figure, save_figure
from falloff.views.grids import bias_grid, labelled

TEXTBOOK = T5Bias(1, num_buckets=4, max_distance=5)


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_cells_axes_and_legend():
    figure = grid_figure(bias_grid(TEXTBOOK, 6))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == list("010210221032210332210".replace(" ", ""))
    assert names(axes.xaxis) == names(axes.yaxis) == list("012345")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    assert axes.get_ylim() == (6, 0)  # query 0 on top
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "bucket 0: offset 0",
        "bucket 1: offset 1",
        "bucket 2: offsets 2-3",
        "bucket 3: offsets 4 and beyond",
    ]
    assert len(axes.collections[0].get_paths()) == 21  # masked cells are not drawn


def test_tokens_are_written_as_they_are(tmp_path):
    tokens = ["$x$", "_", "\\frac", "%"]
    figure = grid_figure(bias_grid(ALiBi(8), 4), tokens)
    assert names(figure.axes[0].xaxis) == names(figure.axes[0].yaxis) == tokens
    assert save_figure(figure, tmp_path / "tokens.png") == []


def test_characters_that_no_font_has_are_spelled_out(tmp_path):
    figure = grid_figure(bias_grid(TEXTBOOK, 2), ["\U000f0000", "u"])  # for private use: in no font
    assert names(figure.axes[0].xaxis) == ["U+F0000", "u"]
    assert save_figure(figure, tmp_path / "tokens.png") == []


def test_labels_have_indices_below_the_line(tmp_path):
    figure = grid_figure(labelled(bias_grid(TEXTBOOK, 6), "$q_{query}$\u00b7k_{key}+u_{bucket}"))
    texts = figure.axes[0].texts
    assert texts[-1].get_text() == r"\$q$_{5}$\$" + "\u00b7k$_{5}$+u$_{0}$"
    assert save_figure(figure, tmp_path / "labels.png") == []
    figure.draw_without_rendering()
    axes = figure.axes[0]
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert all(text.get_window_extent().width <= cell for text in texts)
    assert all(text.get_fontsize() >= 8 for text in texts)


@pytest.mark.parametrize("length", [1, 6, 25, 80])
def test_labels_stay_inside_their_cells_or_are_left_out(length):
    figure = grid_figure(bias_grid(ALiBi(8), length))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert all(text.get_window_extent().width <= cell for text in axes.texts)
    assert bool(axes.texts) == (length <= 25)
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def test_a_scale_for_values():
    assert [axes.get_xlabel() for axes in grid_figure(bias_grid(ALiBi(8), 4)).axes] == ["key", "bias added to the score"]
    assert len(grid_figure(bias_grid(ALiBi(8), 1)).axes) == 1


SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", SIGNATURES)
def test_files_are_what_their_ending_says_and_the_same_each_time(tmp_path, ending):
    paths = [tmp_path / f"{name}{ending}" for name in ("one", "two")]
    for path in paths:
        save_figure(grid_figure(bias_grid(TEXTBOOK, 6)), path)
    content = paths[0].read_bytes()
    assert content.startswith(SIGNATURES[ending])
    assert len(content) > 4000
    assert content == paths[1].read_bytes()


def test_other_endings_and_wrong_tokens_are_refused(tmp_path):
    figure = grid_figure(bias_grid(TEXTBOOK, 2))
    for name in ("grid.jpg", "grid", "grid.png.exe"):
        with pytest.raises(ValueError, match=r"image: got .*expected a file that ends in \.png, \.svg or \.pdf"):
            save_figure(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="tokens: got 3 of them for 2 positions"):
        grid_figure(bias_grid(TEXTBOOK, 2), ["a", "b", "c"])


def curves(figure):
    return [(line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines]


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.needs_content])
def test_curves_of_all_heads_hold_the_values(name):
    scheme = SCHEMES[name](4)
    drawn = curves(plot_curves(scheme, 40))
    assert len(drawn) == 4
    for head, (offsets, values) in enumerate(drawn):
        at = scheme.at(torch.tensor(offsets)).detach()[head]
        torch.testing.assert_close(torch.tensor(values), at.to(torch.float32), check_dtype=False)


def test_curves_show_the_future_where_it_differs():
    assert list(curves(plot_curves(ALiBi(2), 4))[0][0]) == [0, 1, 2, 3]
    assert list(curves(plot_curves(T5Bias(2), 4))[0][0]) == [0, 1, 2, 3]
    assert list(curves(plot_curves(TISA(2), 4))[0][0]) == [-3, -2, -1, 0, 1, 2, 3]
    assert curves(plot_curves(T5Bias(2, bidirectional=True), 4))[0][0][0] == -3


def test_the_curve_of_fire_is_that_of_the_last_row():
    scheme = FIRE(2, init_L=8.0)
    row = scheme.dense(1, 30)[0, 0].flip(0).detach()
    torch.testing.assert_close(torch.tensor(curves(plot_curves(scheme, 30))[0][1]), row, check_dtype=False)


def test_methods_of_a_scheme_give_figures():
    assert TEXTBOOK.plot(16).axes[0].lines
    assert len(TEXTBOOK.show(6).axes[0].texts) == 21
    assert ALiBi(4).plot().axes[0].get_legend_handles_labels()[1] == ["head 0", "head 1", "head 2", "head 3"]
    with pytest.raises(ValueError, match="depends on what the tokens say"):
        ProfileMixture(2).plot()
    with pytest.raises(ValueError, match="head: got 4"):
        ALiBi(4).show(4, head=4)
    with pytest.raises(ValueError, match="length: got 0"):
        ALiBi(4).plot(0)
