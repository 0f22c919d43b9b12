import torch

from falloff.offsets import first_query_position, offset_matrix, offset_range


def test_last_query_stands_at_last_key_by_default():
    assert offset_matrix(3, 5)[-1].tolist() == [4, 3, 2, 1, 0]
    assert torch.equal(offset_matrix(1, 7), offset_matrix(7, 7)[-1:])


def test_query_start_shifts_every_offset():
    assert offset_matrix(2, 3, 10).tolist() == [[10, 9, 8], [11, 10, 9]]
    assert first_query_position(2, 3, 10) == 10
    assert first_query_position(5, 3) == -2


def test_range_is_that_of_the_matrix():
    for sizes in [(1, 1, None), (4, 9, None), (9, 4, None), (3, 3, 7), (2, 5, -4)]:
        matrix = offset_matrix(*sizes)
        assert offset_range(*sizes) == (matrix.min(), matrix.max())
