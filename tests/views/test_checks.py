import pytest

from falloff import ALiBi, T5Bias
from falloff.views.checks import WrongCell, check_grid, row_shifts
from falloff.views.grids import bias_grid
from falloff.views.written import WrittenNumber


def written(text):
    return tuple(
        tuple(None if cell == "X" else WrittenNumber.read(cell) for cell in line.split()) for line in text.splitlines()
    )


def test_the_exercise_has_one_wrong_cell():
    exercise = written("0 X X X X X\n1 0 X X X X\n2 1 0 X X X\n2 2 1 0 X X\n3 1 2 1 0 X\n3 3 2 2 1 0")
    assert check_grid(exercise, bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 6)) == [
        WrongCell(query=4, key=1, offset=3, found=1, expected=2)
    ]


def test_masked_where_it_should_not_be_and_the_other_way_round():
    assert check_grid(written("0 1\nX 0"), bias_grid(T5Bias(1), 2)) == [
        WrongCell(query=0, key=1, offset=-1, found=1, expected=None),
        WrongCell(query=1, key=0, offset=1, found=None, expected=1),
    ]


@pytest.mark.parametrize(
    ("value", "right"),
    [
        *[("-0.5", True), ("-0.50", True), ("-0.45", False), ("-0.49", False), ("-0.5000001", True), ("-0.500001", False)],
        *[("-0.4", False), ("-1", True), ("-5e-1", True), ("0.5", False), ("-0.51", False), ("-2", False)],
    ],
)
def test_values_are_right_to_half_a_unit_of_the_last_place(value, right):
    wrong = check_grid(written(f"0 X\n{value} 0"), bias_grid(ALiBi(8), 2))
    assert (not wrong) == right


def test_the_very_end_of_the_tolerance_counts():
    # head 3 of 8 falls by 1/16 a step: -0.0625 lies exactly between -0.062 and -0.063
    grid = bias_grid(ALiBi(8), 2, head=3)
    assert not check_grid(written("0 X\n-0.062 0"), grid)
    assert not check_grid(written("0 X\n-0.063 0"), grid)
    assert check_grid(written("0 X\n-0.061 0"), grid)


def test_buckets_are_right_or_wrong():
    grid = bias_grid(T5Bias(1), 2)
    assert not check_grid(written("0 X\n1.0 0"), grid)
    assert check_grid(written("0 X\n1.2 0"), grid) == [WrongCell(1, 0, 1, 1.2, 1)]


def test_grids_of_another_length_are_refused():
    with pytest.raises(ValueError, match="written: got a grid of 2 positions, expected 3"):
        check_grid(written("0 X\n1 0"), bias_grid(T5Bias(1), 3))


def test_rows_that_differ_by_a_constant():
    grid = bias_grid(ALiBi(8), 4)
    assert row_shifts(written("0 X X X\n0 0.5 X X\n0 0.5 1 X\n0 0.5 1 1.5"), grid) == [0.0, 0.5, 1.0, 1.5]
    assert row_shifts(written("7 X X X\n6.5 7 X X\n6 6.5 7 X\n5.5 6 6.5 7"), grid) == [7.0] * 4
    rounded = row_shifts(written("0 X X X\n0 0.5 X X\n0.00 0.52 1.00 X\n0 0.5 1 1.5"), grid)
    assert rounded is None  # 0.52 is no 0.5


@pytest.mark.parametrize(
    "text",
    [
        "0 X X\n-0.5 0 X\n-1 -0.5 0",  # right
        "9 X X\n-0.5 0 X\n-1 -0.5 0",  # a single wrong cell, alone in its row
        "0 X X\n-0.5 0 X\n-1 -0.5 1",
        "0 X X\n0 0.5 X\n0 X 1",  # masked where it should not be
    ],
)
def test_what_is_right_or_just_wrong_has_no_shifts(text):
    assert row_shifts(written(text), bias_grid(ALiBi(8), 3)) is None


def test_buckets_have_no_shifts():
    assert row_shifts(written("1 X\n2 1"), bias_grid(T5Bias(1), 2)) is None
