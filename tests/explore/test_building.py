import pytest

from falloff.explore.building import build, whole


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1000000000", "num_buckets: got '1000000000', expected a number"),
        (None, "num_buckets: got nothing, expected a number"),
        ([2], r"num_buckets: got \[2\], expected a number"),
        (10**400, r"num_buckets: got 10+\.\.\., expected at most 1024"),
        (float("nan"), "num_buckets: got nan, expected at most 1024"),
    ],
    ids=["in quotes", "nothing", "a list", "huge", "nan"],
)
def test_a_setting_that_is_no_small_number_is_refused(value, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        build("t5", 1, 0, {"num_buckets": value})


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "heads: got nothing, expected a whole number"), (10**400, r"heads: got 10+\.\.\., expected 1 to 16")],
    ids=["nothing", "huge"],
)
def test_a_number_that_is_not_whole_or_too_large_is_refused(value, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        whole("heads", value, 1, 16)
