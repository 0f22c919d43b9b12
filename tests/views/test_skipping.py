import pytest

from falloff import ALiBi, T5Bias
from falloff.ops.cpu import unavailable
from falloff.views.attention_weights import causal_weights
from falloff.views.skipping import skipped_work, visited_blocks

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def test_blocks_that_are_not_visited_hold_next_to_nothing():
    length = 2048
    shares = visited_blocks(ALiBi(8), length, head=1)
    weights = causal_weights(ALiBi(8), length, head=1).nan_to_num()
    skipped = (shares == 0).repeat_interleave(48, 0)[:length].repeat_interleave(256, 1)
    assert skipped.any()
    assert (weights * skipped).sum(1).max() < 2.0**-24
    assert shares[0].isnan().tolist() == [False] + [True] * 7  # the first queries see no later block


def test_longer_texts_save_more_and_a_flat_bias_nothing():
    saved = [skipped_work(ALiBi(8), length).saved for length in (1024, 4096, 16384)]
    assert (saved[0] <= saved[1]).all()
    assert (saved[1] <= saved[2]).all()
    assert saved[2][0] > 0.9
    assert (skipped_work(T5Bias(8), 4096).saved == 0).all()
    assert (skipped_work(ALiBi(8), 16384, spread=2.0).saved <= saved[2]).all()
