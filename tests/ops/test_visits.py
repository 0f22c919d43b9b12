"""What certified skipping visits, as the CPU kernels count it."""

import pytest
import torch

from falloff import ALiBi
from falloff.ops import cpu
from falloff.ops.call import Call

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

H, N, D = 2, 1000, 16


def call(**changes):
    settings = {"form": ALiBi(H).form(N, N), "causal": True, "scale": 0.25, "query_start": 0, "window": None}
    settings |= {"key_mask": None, "document_ids": None, "dropout_p": 0.0, "seed": None}
    return Call(**settings | changes)


def counts(one, q, k):
    _, lse = cpu.forward(q, k, k, one, None)
    return cpu.visits(q, k, k, one, lse)


def test_all_that_a_row_sees_is_counted_and_only_far_keys_are_skipped():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, H, N, D)
    seen, visited = counts(call(), q, k)
    assert seen.shape == (1, H, 21, 4)
    rows, keys = torch.arange(0, N, 48), torch.arange(0, N, 256)
    last = torch.minimum(rows + 48, torch.tensor(N))  # the last row of a tile sees all keys before `last`
    assert torch.equal(seen[0, 0], (last[:, None] - keys).clamp(0, 256).int())
    assert bool((visited <= seen).all())
    assert visited[0, 0].sum() < seen[0, 0].sum()
    diagonal = (rows // 256)[:, None] == torch.arange(4)
    assert bool((visited[0][:, diagonal] > 0).all())


def test_nothing_is_skipped_without_a_bias_nor_of_what_is_not_finite():
    q, k = torch.zeros(2, 1, H, N, D)
    for one, key in ((call(form=None), k), (call(), torch.full_like(k, torch.nan))):
        seen, visited = counts(one, q, key)
        assert torch.equal(seen, visited)


@pytest.mark.parametrize("name", ["lse", "seen", "visited"])
def test_the_kernels_check_what_they_read_and_write(name):
    q, k = torch.zeros(2, 1, H, N, D)
    tensors = {"lse": torch.zeros(1, H, N)}
    tensors |= {counted: torch.zeros(1, H, 21, 4, dtype=torch.int32) for counted in ("seen", "visited")}
    arguments = cpu._arguments(q, k, k, call())
    cpu._loaded().visits(*tensors.values(), arguments)
    for wrong in (tensors[name][:, :1].contiguous(), tensors[name].double(), tensors[name][..., :-1].contiguous()):
        with pytest.raises(ValueError, match=f"^{name}\\b"):
            cpu._loaded().visits(*(tensors | {name: wrong}).values(), arguments)
