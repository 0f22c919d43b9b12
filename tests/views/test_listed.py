import pytest
import torch

from falloff.views.buckets import bucket_table
from falloff.views.grids import bias_grid
from falloff.views.listed import ListedBuckets


def test_a_list_of_buckets():
    listed = ListedBuckets(rule=" 0, 1,2 - 3,4+ ")
    assert listed.bucket(torch.tensor([-5, 0, 1, 2, 3, 4, 10**9])).tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert [entry.offsets for entry in bucket_table(listed)] == [
        "offset 0",
        "offset 1",
        "offsets 2-3",
        "offsets 4 and beyond",
    ]
    assert bias_grid(listed, 2).title == "buckets (rule=0,1,2 - 3,4+)"
    assert ListedBuckets(rule="0+").bucket(torch.arange(3)).tolist() == [0, 0, 0]


def test_it_has_no_values():
    with pytest.raises(ValueError, match="a list of buckets has no values"):
        bias_grid(ListedBuckets(rule="0,1+"), 3, values=True)


@pytest.mark.parametrize(
    "rule", ["", "0", "0,1", "1+", "0,2+", "0-3,3+", "0+,1+", "0,1+,2+", "0-,1+", "a", "0;1+", "3-1,4+", "0,,1+"]
)
def test_what_is_no_list_is_refused(rule):
    with pytest.raises(ValueError, match=r"^buckets: got ") as caught:
        ListedBuckets(rule=rule)
    assert len(str(caught.value)) < 160


def test_an_offset_beyond_any_sequence_is_refused():
    with pytest.raises(ValueError, match="expected offsets of at most 1048576"):
        ListedBuckets(rule="0-2000000,2000001+")
