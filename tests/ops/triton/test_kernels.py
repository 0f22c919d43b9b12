"""What holds of the GPU kernels alone: what they skip and refuse, CUDA graphs. What they give: `conformance/`."""

import pytest
import torch

from falloff import ALiBi, Band, Factored, Potential, Strip, T5Bias, Warp, attention
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from falloff.ops.triton import tiles
from falloff.ops.triton.host import forward as host_forward
from falloff.ops.triton.host import skip as host_skip
from falloff.ops.triton.host.lower import lower
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.host.skip import key_ranges
from falloff.ops.triton.kernels.arguments import PAD
from ops.cases import BIASES, tensors
from ops.conformance.budget import Case, agree
from ops.conformance.calls import bias_of, warp_of
from ops.conformance.hard import falling
from ops.conformance.variants import Variant

GPU = torch.cuda.is_available()


@pytest.mark.parametrize("side", [16, 32])
def test_diagonals_of_small_tiles_visit_all_that_matters(side, monkeypatch):
    """Several tiles of a diagonal lie within the rows that share a range of keys: the last tile may need its first key."""
    for table in (tiles.FLOAT32, tiles.HALF, tiles.HALF_AMPERE, tiles.HALF_BLACKWELL, tiles.HALF_SMALL):
        monkeypatch.setitem(table, "diagonal", {256: tiles.Tiles(side, side, 4, 1)})
    query, key, value = (0.1 * torch.randn(1, 1, length, 16) for length in (97, 1088, 1088))
    query[..., 0] = 4
    key[..., 512:544, 0] = 600 - torch.arange(32.0)
    strip = Strip(-torch.arange(1088.0)[None].requires_grad_())
    case = Case(*(t.requires_grad_() for t in (query, key, value)), strip, strip.tensors, {"causal": True})
    agree(case, Variant("triton", torch.float32))


def key_ranges_of(query, key, value, bias, lse=None, **settings):
    num_queries, num_keys = query.shape[2], key.shape[2]
    settings = {"causal": False, "key_mask": None, "document_ids": None} | settings
    form = bias.form(num_queries, num_keys, device=query.device)
    others = {"window": None, "dropout_p": 0.0, "seed": None}
    call = Call(form, scale=0.25, query_start=num_keys - num_queries, **others, **settings)
    problem = Problem(query, key, value, call)
    return key_ranges(problem, lower(problem, None, skipping=True), lse)


def test_keys_are_skipped_where_they_cannot_matter():
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 1216, 1216, 16, torch.float32))
    ranges = key_ranges_of(query, key, value, ALiBi(2), causal=True)
    assert ranges.shape == (1, 2, 19, 2)
    steep, gentle = ranges[0]  # slopes 1/16 and 1/256
    assert (steep[10:, 0] >= 64).all()  # some 40 and more in bias, beyond what scores and the number of keys can make up for
    assert (gentle[:, 0] == 0).all()
    key[0, 0, 5, 3] = torch.inf
    assert (key_ranges_of(query, key, value, ALiBi(2), causal=True)[0, 0, :, 0] == 0).all()
    key[0, 0, 5, 3] = 0
    query[0, 0, 640] = torch.nan
    ranges = key_ranges_of(query, key, value, ALiBi(2), causal=True)[0, 0, :, 0]
    assert ranges[10] == 0
    assert ranges[12] > 0
    assert key_ranges_of(query, key, value, T5Bias(2)) is None  # ends within the past: nothing to look for


def test_keys_of_the_future_are_skipped_too():
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 1216, 1216, 16, torch.float32))
    two_sided = ALiBi(2)
    first, last = key_ranges_of(query, key, value, two_sided)[0, 0].unbind(-1)
    assert (last[:3] < 1216).all()
    assert (first[16:] > 0).all()


def test_keys_of_other_documents_are_skipped():
    query, key, value = (t.detach() for t in tensors(2, 2, 2, 1216, 1216, 16, torch.float32))
    packed = torch.arange(4).repeat_interleave(torch.tensor([300, 64, 500, 352]))
    ids = torch.stack([packed, torch.randint(-3, 3, (1216,))]).to(query.device)
    ranges = key_ranges_of(query, key, value, T5Bias(2), document_ids=ids)
    assert ranges[0, 0, :6].tolist() == [[0, 320]] * 4 + [[0, 384], [256, 896]]
    for b, block in ((b, block) for b in range(2) for block in range(19)):
        begin, end = ranges[b, 1, block].tolist()
        needed = torch.isin(ids[b], ids[b, block * 64 : block * 64 + 64]).nonzero()
        assert begin <= needed.min() <= needed.max() < end
    by_bias = key_ranges_of(query, key, value, ALiBi(2), causal=True)
    both = key_ranges_of(query, key, value, ALiBi(2), causal=True, document_ids=ids)
    assert torch.equal(both[..., 0], by_bias[..., 0].maximum(ranges[..., 0]))
    assert torch.equal(both[..., 1], by_bias[..., 1].minimum(ranges[..., 1]))


@pytest.mark.parametrize("name", ["none", "t5", "alibi", "fire beyond L", "band"])
def test_skipping_other_documents_changes_nothing(name, monkeypatch):
    monkeypatch.setattr(host_skip, "_SKIP_FROM", 0)
    query, key, value = tensors(2, 2, 1, 150, 150, 16, torch.float32)
    packed = torch.arange(3).repeat_interleave(torch.tensor([20, 90, 40]))
    ids = torch.stack([packed, torch.arange(150) % 2 * 5 + packed]).to(query.device)
    bias, leaves = bias_of(name, 2, 2, 150, torch.float32)
    agree(Case(query, key, value, bias, leaves, {"document_ids": ids}), Variant("triton", torch.float32))


def test_a_tile_without_far_zones_reads_within_its_table():
    """Rows and keys that hang over the end of the text read a strip, or a warp's g, behind its ends: into the padding."""
    assert PAD.value >= max(
        sizes.block_m + sizes.block_n
        for table in (table for name, table in vars(tiles).items() if name.isupper() and isinstance(table, dict))
        for entry in table.values()
        for sizes in (entry.values() if isinstance(entry, dict) else entry)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("intercepts", [[-torch.inf], [-torch.inf, 0.2, 0.1], [-torch.inf] * 3], ids=str)
@pytest.mark.parametrize("scale", [0.25, 0.0])
def test_a_warp_of_minus_infinity_hides_keys(intercepts, scale, dtype):
    """More than a warp promises: its lines should be finite."""
    agree(warp_of(intercepts, dtype, {"scale": scale}), Variant("triton", dtype))


def call(form=None):
    return Call(form, False, 1.0, 0, None, None, None, 0.0, None)


def test_refuses_what_it_cannot_serve(monkeypatch):
    query, key, value = tensors(1, 1, 1, 3, 3, 4)
    with pytest.raises(ValueError, match=r"takes float32, bfloat16 and float16, and query is torch\.float64"):
        attention(query, key, value, impl="triton")
    monkeypatch.setattr(implementation, "_interpreted", lambda: False)
    assert "runs on GPUs" in implementation.refusal(query.cpu().float(), key, call())
    assert "runs on GPUs" in implementation.refusal(query.to("meta"), key, call())
    longest = torch.empty(1, 1, 2**30, 4, device="meta")
    monkeypatch.setattr(implementation, "_interpreted", lambda: True)
    assert "one of 1073741824" in implementation.refusal(query.cpu().float(), longest, call())


def test_without_triton_the_name_is_refused_and_auto_goes_on(monkeypatch):
    monkeypatch.setattr(implementation, "find_spec", lambda name: None)
    implementation._installed.cache_clear()
    query, key, value = tensors(1, 1, 1, 3, 3, 4, torch.float16)
    try:
        with pytest.raises(ValueError, match="triton is not installed"):
            attention(query, key, value, impl="triton")
        assert attention(query, key, value).shape == query.shape
    finally:
        implementation._installed.cache_clear()


@pytest.mark.skipif(not GPU, reason="needs a GPU")
class TestOnAGpu:
    """What the interpreter cannot show."""

    def test_auto_takes_triton(self, monkeypatch):
        query, key, value = tensors(1, 2, 2, 8, 8, 16, torch.bfloat16)
        called = []
        monkeypatch.setattr(implementation, "forward", lambda *a, run=implementation.forward: called.append(1) or run(*a))
        attention(query, key, value)
        assert called

    @pytest.mark.parametrize("name", BIASES)
    def test_in_a_cuda_graph(self, name):
        query, key, value = tensors(1, 4, 2, 1500, 1500, 64, torch.bfloat16)
        bias, leaves = bias_of(name, 4, 1, 1500, torch.float32)

        def step():
            out = attention(query, key, value, bias, causal=True)
            return [out, *torch.autograd.grad(out.float().sin().sum(), [query, key, value, *leaves], allow_unused=True)]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            expected = [None if t is None else t.clone() for t in step()]
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        graph.replay()
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(expected, captured, strict=True))

    @pytest.mark.filterwarnings("ignore:TensorFloat32")
    @pytest.mark.parametrize("name", ["t5", "fire beyond L", "band"])
    def test_compiled_as_one_graph(self, name):
        query, key, value = tensors(1, 4, 2, 300, 300, 64, torch.bfloat16)
        bias, _ = bias_of(name, 4, 1, 300, torch.float32)
        compiled = torch.compile(lambda *inputs: attention(*inputs, bias, causal=True), fullgraph=True)
        torch.testing.assert_close(compiled(query, key, value), attention(query, key, value, bias, causal=True))

    def test_addresses_beyond_32_bits(self):
        if torch.cuda.mem_get_info()[0] < 60 * 2**30:
            pytest.skip("needs 60 GB of free memory")
        query = torch.randn(1, 1, 1, 128, dtype=torch.bfloat16).expand(5, 32, 128 * 1024, 128).contiguous()  # 2.7e9 entries
        key = value = query[:, :, -512:].clone()
        value = torch.randn_like(value)
        out = attention(query, key, value, ALiBi(32), query_start=0)
        first = 128 * 1024 - 300
        strip = ALiBi(32).form(300, 512, first, device=query.device)
        last = attention(
            *(query[-1:, -1:, -300:], key[-1:, -1:], value[-1:, -1:]),
            Strip(strip.values[-1:], strip.start),
            query_start=first,
        )
        torch.testing.assert_close(out[-1:, -1:, -300:], last)


def test_keys_that_are_hidden_do_not_keep_others_from_being_skipped(monkeypatch):
    """A NaN that key_mask hides is no key that may matter."""
    kept = []
    monkeypatch.setattr(host_forward, "key_ranges", lambda *arguments: kept.append(key_ranges(*arguments)) or kept[-1])
    query, key, value = (t.detach() for t in tensors(1, 1, 1, 70, 1100, 16, torch.float32))
    key_mask = torch.arange(1100)[None] != 3
    for anything in (0.0, torch.nan):
        key[:, :, 3] = value[:, :, 3] = anything
        attention(query, key, value, falling(1, 1100, 1.0), causal=True, key_mask=key_mask, impl="triton")
    assert torch.equal(*kept)
    assert (kept[0][..., 0] > 0).all()


@pytest.mark.parametrize("other", ["strip", "band", "warp", "factored"])
def test_a_potential_beside_any_form(other):
    """Their bounds are not those of a strip alone: nothing is skipped."""
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, requires_grad=True)

    forms = {
        "strip": lambda: Strip(leaf(2, 90), -20),
        "band": lambda: Band(leaf(1, 2, 70, 20)),
        "warp": lambda: Warp(leaf(12), leaf(70), torch.tensor([0.1, 0.6]), leaf(2, 3), leaf(2, 3)),
        "factored": lambda: Factored(leaf(1, 2, 70, 5), leaf(1, 30, 5), -9),
    }
    form = forms[other]() + Potential(leaf(1, 2, 70), leaf(1, 2, 93))
    case = Case(*tensors(1, 2, 1, 70, 93, 18, torch.float32), form, [t for t in form.tensors if t.requires_grad])
    agree(case, Variant("triton", torch.float32))
