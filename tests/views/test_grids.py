import pytest
import torch

from falloff import FIRE, TISA, ALiBi, ProfileMixture, T5Bias
from falloff.views.grids import bias_grid, format_value, labelled, value_format
from falloff.views.palette import GridColours, head_colours, text_colour


def test_the_textbook_grid():
    grid = bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 6)
    assert grid.kind == "bucket"
    assert grid.cells == (
        (0, None, None, None, None, None),
        (1, 0, None, None, None, None),
        (2, 1, 0, None, None, None),
        (2, 2, 1, 0, None, None),
        (3, 2, 2, 1, 0, None),
        (3, 3, 2, 2, 1, 0),
    )
    assert [(bucket.bucket, bucket.offsets) for bucket in grid.legend][2:] == [
        (2, "offsets 2-3"),
        (3, "offsets 4 and beyond"),
    ]
    assert grid.unseen == 0


def test_the_legend_has_only_the_buckets_in_the_grid():
    grid = bias_grid(T5Bias(1), 6)
    assert [bucket.bucket for bucket in grid.legend] == list(range(6))
    assert grid.unseen == 26


def test_bidirectional_schemes_show_the_future_and_others_only_when_asked():
    assert None not in {cell for row in bias_grid(T5Bias(1, bidirectional=True), 4).cells for cell in row}
    assert bias_grid(TISA(1), 4).cells[0][1] is None
    assert bias_grid(TISA(1), 4, future=True).cells[0][1] is not None
    assert bias_grid(T5Bias(1, bidirectional=True), 4, future=False).cells[0][1] is None


@pytest.mark.parametrize("scheme", [ALiBi(4), FIRE(4, init_L=8.0), T5Bias(4)], ids=lambda scheme: scheme.name)
def test_values_are_those_of_dense_in_every_row(scheme):
    grid = bias_grid(scheme, 300, head=2, values=True, future=True)  # more than one part
    torch.testing.assert_close(torch.tensor(grid.cells).double(), scheme.dense(300, 300)[2].double())


def test_values_of_a_scheme_with_buckets_have_no_bucket_legend():
    grid = bias_grid(T5Bias(2), 3, values=True)
    assert (grid.kind, grid.legend, grid.unseen) == ("value", (), 0)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, -0.5, -3.5], ["0", "-0.50", "-3.50"]),
        ([-0.0, 12.5], ["0", "12.5"]),
        ([-120.0, 1.0], ["-120", "1"]),
        ([0.0351, 0.0015], ["0.0351", "0.0015"]),
        ([1e-7], ["1.0e-07"]),
        ([2e9, 1.0], ["2.0e+09", "1.0e+00"]),
        ([], []),
    ],
)
def test_labels_are_short_and_share_a_format(values, labels):
    assert [format_value(value, value_format(values)) for value in values] == labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length: got 0, expected an int of at least 1"),
        ({"length": 5000}, "length: got 5000, expected at most 2048"),
        ({"length": 2.5}, "length: got 2.5"),
        ({"length": True}, "length: got True"),
        ({"length": 4, "head": 8}, r"head: got 8, expected 0 .. 7: the bias has 8 heads"),
        ({"length": 4, "head": -1}, "head: got -1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bias_grid(ALiBi(8), **arguments)


def test_a_bias_that_is_not_finite_is_refused():
    scheme = T5Bias(1)
    torch.nn.init.constant_(scheme.weight, float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        bias_grid(scheme, 3, values=True)


def test_a_bias_that_depends_on_content_is_refused():
    with pytest.raises(ValueError, match=r"^scheme: got 'profile-mixture', whose bias depends on what the tokens say"):
        bias_grid(ProfileMixture(2), 4)


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    "grid",
    [
        bias_grid(T5Bias(1), 100),
        bias_grid(T5Bias(1, bidirectional=True), 100),
        bias_grid(ALiBi(8), 40),
        bias_grid(T5Bias(1), 40, values=True),
        bias_grid(ALiBi(8), 1),
    ],
    ids=lambda grid: grid.caption,
)
def test_text_stays_legible_on_every_cell(grid):
    colours = GridColours(grid)
    for cell in set(grid.visible):
        dark, light = sorted((luminance(colours(cell)), luminance(text_colour(colours(cell)))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_buckets_have_colours_of_their_own_and_values_use_the_whole_ramp():
    grid = bias_grid(T5Bias(1, bidirectional=True), 100)
    colours = GridColours(grid)
    assert len({colours(bucket.bucket) for bucket in grid.legend}) == len(grid.legend)
    values = bias_grid(FIRE(8), 8)  # of both signs
    assert (GridColours(values)(min(values.visible)), GridColours(values)(max(values.visible))) == ("#440154", "#fde725")
    assert len(set(head_colours(16))) == 16


def test_labels_of_cells():
    grid = labelled(bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 2), "q_{query}.k_{key}+u_{bucket}, {offset}%s {0:x}")
    assert grid.labels()[1] == ["q_1.k_0+u_1, 1%s {0:x}", "q_1.k_1+u_0, 0%s {0:x}"]
    assert labelled(bias_grid(ALiBi(8), 2), "{value}!").labels() == [["0!", ""], ["-0.500!", "0!"]]


@pytest.mark.parametrize(
    ("label_format", "message"),
    [
        ("{value}", "labels: got {value}, expected of this grid {bucket}, {offset}, {query}, {key}"),
        ("{}", "labels: got {}, expected"),
        ("{bucket} {grid}", "labels: got {grid}"),
        ("u" * 61, "labels: got 61 characters, expected at most 60"),
    ],
)
def test_labels_that_are_refused(label_format, message):
    with pytest.raises(ValueError) as caught:
        labelled(bias_grid(T5Bias(1), 2), label_format)
    assert message in str(caught.value)
