"""The same call gives the same bits: again, and by any number of threads."""

import pytest
import torch

from falloff import attention
from ops.cases import BIASES, FORMS, bias_of, form_of, results, tensors
from ops.conformance.variants import GPU, share_of, variants

FOUND = variants(torch.float32, torch.bfloat16, all_ways=False)
# In the interpreter, one strip and one warp.
ORDER = ("t5 bidirectional", "none", "t5", "alibi", "kerple-power", "fire", "tisa", "fire beyond L", "band")


CPU = [variant for variant in FOUND if getattr(variant, "impl", "") == "cpu"]
PAIRS = [*share_of([(name,) for name in ORDER], FOUND, 5, {"blockwise": 3}), *share_of([(name,) for name in FORMS], CPU)]


@pytest.mark.parametrize(("name", "variant"), PAIRS)
def test_the_same_bits_over_runs_and_threads(name, variant, one_thread):
    """On a GPU a hundred runs, and on a CPU of several threads: a race would show."""
    if variant.impl == "triton":
        batch, heads, groups, rows, keys, head_size = (2, 2, 1, 1000, 1000, 64) if GPU else (1, 2, 1, 70, 70, 64)
        threads = [1] * (100 if GPU else 2)
    elif variant.impl == "cpu":
        batch, heads, groups, rows, keys, head_size = 1, 4, 2, 500, 1300, 16
        threads = [1, 2, 4, *[2] * 10]
    else:
        batch, heads, groups, rows, keys, head_size = 2, 4, 2, 130, 130, 16
        threads = [1, 2, 1]
    inputs = tensors(batch, heads, groups, rows, keys, head_size, variant.dtype)
    made = form_of(name, heads, batch, rows, keys, torch.float32) if name in FORMS else None
    bias, leaves = made or bias_of(name, heads, batch, rows, torch.float32)
    first = None
    for count in threads:
        torch.set_num_threads(count)
        torch.manual_seed(3)
        out, lse = attention(*inputs, bias, causal=True, dropout_p=0.1, return_lse=True, impl=variant.impl)
        run = results(out, lse, [*inputs, *leaves])
        first = first or run
        assert all(torch.equal(a, b) for a, b in zip(first, run, strict=True))


assert set(ORDER) == set(BIASES)
