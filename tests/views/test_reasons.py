import re

import pytest
import torch

from falloff import ALiBi, PerOffsetBias, Scheme, T5Bias
from falloff.views.reasons import bucket_reason, bucket_rule


class Steps(Scheme):
    def at(self, offsets):
        return self.bucket(offsets).expand(1, -1).float()

    def bucket(self, offsets):
        return offsets.clamp(0, 2)


@pytest.mark.parametrize(
    "scheme",
    [T5Bias(1, 4, 5), T5Bias(1), T5Bias(1, 36, 392), T5Bias(1, 12, 8, bidirectional=True), PerOffsetBias(1, 3)],
    ids=repr,
)
def test_every_reason_ends_in_the_bucket(scheme):
    for offset in range(-20, 420):
        bucket = int(scheme.bucket(torch.tensor(offset)))
        reason = bucket_reason(scheme, offset)
        assert reason.startswith(f"offset {offset} has bucket {bucket} (")
        step = re.search(r"= (\d+) \+ floor\((\d+\.\d+)\) = (\d+)(?:, and (\d+) more)?", reason)
        if step is not None:  # the arithmetic shown is that of the bucket
            exact, part, found, more = step.groups()
            assert int(exact) + int(float(part)) == int(found)
            assert int(found) + int(more or 0) == bucket


def test_rules_of_every_kind():
    assert bucket_rule(T5Bias(1, 12, 8, bidirectional=True)).endswith("n = the distance; keys in the future: 6 more")
    assert bucket_rule(PerOffsetBias(1, 3)) == "bucket(n) = min(n, 3); keys in the future as n = 0"
    assert bucket_rule(PerOffsetBias(1, 3, bidirectional=True)) == "bucket(n) = n, at least -3 and at most 3, plus 3"
    assert bucket_rule(Steps()).startswith("bucket 0: offset 0; bucket 1: offset 1; bucket 2: offsets 2")


def test_reasons_of_the_others():
    both = PerOffsetBias(1, 3, bidirectional=True)
    assert bucket_reason(both, -9).endswith("everything from -3 on shares one, plus 3, so that none is negative")
    assert bucket_reason(T5Bias(1), -2).endswith("the key lies in the future, which counts as offset 0")
    assert bucket_reason(Steps(), 1) == "offset 1 has bucket 1 (offset 1)"
    with pytest.raises(ValueError, match="expected one with buckets"):
        bucket_reason(ALiBi(1), 1)
