import pytest
import torch

from falloff import ALiBi, PerOffsetBias, Scheme, T5Bias
from falloff.views.buckets import OffsetRange, bucket_table


def offsets_of(scheme):
    return [bucket.offsets for bucket in bucket_table(scheme)]


def test_the_textbook_example():
    assert offsets_of(T5Bias(1, num_buckets=4, max_distance=5)) == [
        "offset 0",
        "offset 1",
        "offsets 2-3",
        "offsets 4 and beyond",
    ]


def test_the_future_has_buckets_of_its_own_and_one_is_never_used():
    table = bucket_table(T5Bias(1, num_buckets=8, max_distance=8, bidirectional=True))
    assert [bucket.offsets for bucket in table] == [
        "offset 0",
        "offset 1",
        "offsets 2-3",
        "offsets 4 and beyond",
        "never used",
        "offset -1",
        "offsets -3 to -2",
        "offsets -4 and below",
    ]
    assert [bucket.bucket for bucket in table if bucket.in_future] == [5, 6, 7]


@pytest.mark.parametrize(
    "scheme",
    [
        T5Bias(1),
        T5Bias(1, num_buckets=36, max_distance=392),
        T5Bias(1, num_buckets=32, max_distance=17),
        T5Bias(1, num_buckets=64, max_distance=256, bidirectional=True),
        PerOffsetBias(1, max_distance=7),
        PerOffsetBias(1, max_distance=7, bidirectional=True),
    ],
    ids=lambda scheme: scheme.extra_repr(),
)
def test_every_offset_lies_in_the_ranges_of_its_bucket_and_no_other(scheme):
    table = bucket_table(scheme)
    lowest = -500 if scheme.future_reach else 0
    for offset in range(lowest, 500):
        holders = [bucket.bucket for bucket in table if any(offset in part for part in bucket.ranges)]
        assert holders == [int(scheme.bucket(torch.tensor(offset)))]


def test_logarithmic_buckets_may_stay_empty():
    assert "never used" in offsets_of(T5Bias(1, num_buckets=32, max_distance=17))


def test_a_long_distance_takes_no_memory():
    assert offsets_of(T5Bias(1, num_buckets=4, max_distance=3_000_000))[-1] == "offsets 2450 and beyond"


def test_a_bucket_of_a_scheme_without_reach_has_no_open_range():
    class EvenOdd(Scheme):
        def bucket(self, offsets):
            return offsets % 2

        def at(self, offsets):
            return self.bucket(offsets).float()[None]

    even, odd = bucket_table(EvenOdd())
    assert even.ranges[:2] == (OffsetRange(0, 0), OffsetRange(2, 2))
    assert odd.ranges[0] == OffsetRange(1, 1)


def test_schemes_without_buckets_are_refused():
    with pytest.raises(ValueError, match="scheme: got 'alibi', expected one with buckets"):
        bucket_table(ALiBi(8))
