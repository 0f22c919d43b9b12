"""The GPU kernels against the definition in float64: every form and mask, ragged sizes, dtypes; hard inputs; same bits.

With a GPU (`make test-gpu`) everything runs there, at larger sizes. In the interpreter, which takes seconds for a call, each
test takes its share of the cases: `some`.
"""

import random
from functools import partial

import pytest
import torch

from falloff import ALiBi, Band, Strip, T5Bias, Warp, attention
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from falloff.ops.triton import tiles
from falloff.ops.triton.host import bias as host_bias
from falloff.ops.triton.host import forward as host_forward
from falloff.ops.triton.host.lower import lower
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.host.skip import key_ranges
from falloff.ops.triton.kernels.arguments import PAD
from ops import agreement
from ops.agreement import (
    ADVERSARIES,
    FALLS,
    MASKS,
    UNDERFLOWS,
    bias_of,
    falling,
    hidden_keys_reach_nothing,
    underflow_changes_nothing,
)
from ops.cases import BIASES, results, tensors

GPU = torch.cuda.is_available()
agree = partial(agreement.agree, impl="triton")


def some(cases, share):
    """Each `share`th case in the interpreter; on a GPU, where compiling takes the time, each other one."""
    return list(cases)[:: 2 if GPU else share]


@pytest.fixture(params=["short", "long"])
def middle(request, monkeypatch):
    """With the loops for a bias that varies over few offsets, and over many."""
    monkeypatch.setattr(host_bias, "_SHORT", 1024 if request.param == "short" else 0)


@pytest.mark.parametrize(("name", "mask"), some([(name, mask) for mask in MASKS for name in BIASES], 7))
@pytest.mark.usefixtures("middle")
def test_forms_and_masks(name, mask):
    sizes = random.Random(name + mask).choice([(150, 150), (70, 93), (130, 40)])
    query, key, value = tensors(1, 2, 1, *sizes, 18, torch.float32)
    bias, leaves = bias_of(name, 2, 1, sizes[0], torch.float32)
    agree(query, key, value, bias, leaves, **MASKS[mask])


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("num_queries", [1, 3])
def test_decoding(name, num_queries):
    """Few rows against many keys take kernels of their own."""
    query, key, value = tensors(2, 4, 2, num_queries, 333, 24, torch.float32)
    bias, leaves = bias_of(name, 4, 2, num_queries, torch.float32)
    for settings in ({"causal": True}, {"window": 100, "dropout_p": 0.4, "key_mask": torch.rand(2, 333) > 0.3}):
        with torch.no_grad():
            agree_forward(query, key, value, bias, **settings)
    if GPU:
        agree(query, key, value, bias, leaves, causal=True)


def agree_forward(query, key, value, bias, **settings):
    both = []
    for impl in ("reference", "triton"):
        torch.manual_seed(3)
        both.append(attention(query, key, value, bias, impl=impl, return_lse=True, **settings))
    for want, got in zip(*both, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-6)


def test_decoding_of_rows_that_see_nothing_in_a_part_of_the_keys():
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 2, 700, 16, torch.float32))
    agree_forward(query, key, value, ALiBi(2), window=5)
    agree_forward(query, key, value, ALiBi(2), causal=True, query_start=-1)


@pytest.mark.parametrize("name", some(BIASES, 2))
def test_padding_and_documents(name):
    query, key, value = tensors(3, 2, 1, 83, 83, 8, torch.float32)
    bias, leaves = bias_of(name, 2, 3, 83, torch.float32)
    key_mask = torch.rand(3, 83) > 0.4
    key_mask[1] = False  # nothing to attend to at all
    document_ids = torch.stack([torch.arange(83) // 20, torch.arange(83) % 2, torch.full((83,), 5)])
    agree(query, key, value, bias, leaves, causal=True, key_mask=key_mask)
    agree(query, key, value, bias, leaves, key_mask=key_mask, document_ids=document_ids, window=26, dropout_p=0.2)


@pytest.mark.parametrize("head_size", [1, 16, 33, 64, 80, 128, 256])
def test_head_sizes(head_size):
    query, key, value = tensors(1, 2, 2, 40, 50, head_size, torch.float32)
    bias, leaves = bias_of("t5 bidirectional", 2, 1, 40, torch.float32)
    agree(query, key, value, bias, leaves)


@pytest.mark.parametrize("seed", range(60 if GPU else 18))
def test_any_form_with_any_masks(seed, monkeypatch):
    """Also forms that no scheme makes, and all masks at once."""
    torch.manual_seed(seed)
    pick = random.Random(seed).choice
    monkeypatch.setattr(host_bias, "_SHORT", pick([0, 1024]))
    kind = ("strip", "band", "warp", "warp by text", "none", "strip")[seed % 6]
    batch, (heads, groups) = pick([1, 2]), pick([(1, 1), (2, 1), (3, 3)])
    most = 300 if GPU else 150
    documents = pick([False, False, True])
    num_queries = random.Random(seed + 1).randint(1, most)
    num_keys = num_queries if documents else random.Random(seed + 2).randint(1, most)

    def leaf(*shape):
        return torch.randn(*shape).requires_grad_(pick([True, True, False]))

    if kind == "strip":
        bias = Strip(leaf(heads, pick([1, 2, 3, 40, 200])), pick([0, 1, -5, -100, 60]))
    elif kind == "band":
        bias = Band(leaf(batch, heads, num_queries, pick([1, 7, 200])))
    elif kind.startswith("warp"):
        segments = pick([1, 2, 9])
        g, a = torch.randn(pick([1, 50, 300])), torch.randn((batch, num_queries) if "text" in kind else (num_queries,))
        knots = (torch.randn(segments - 1) * 2).sort().values
        bias = Warp(g.requires_grad_(), a.requires_grad_(), knots, leaf(heads, segments), leaf(heads, segments))
    else:
        bias = None
    masks = {
        "causal": pick([True, False]),
        "window": pick([None, None, 1, 3, 50]),
        "key_mask": torch.rand(batch, num_keys) > 0.4 if pick([False, False, True]) else None,
        "document_ids": torch.randint(-2, 3, (batch, num_queries)) if documents else None,
        "query_start": None if documents else pick([None, None, 0, -5, 7, 200]),
        "dropout_p": pick([0.0, 0.0, 0.3, 1.0]),
        "bias_scale": pick([1.0, 0.0, -2.0]),
        "scale": pick([None, None, 0.0, -1.0]),
    }
    query, key, value = tensors(batch, heads, groups, num_queries, num_keys, pick([5, 33]), torch.float32)
    agree(query, key, value, bias, [t for t in (bias.tensors if bias else []) if t.requires_grad], **masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BIASES if GPU else ("none", "t5", "band", "fire beyond L"))
def test_error_at_most_twice_that_of_pytorch(name, dtype):
    agreement.error_at_most_twice_that_of_pytorch(name, "triton", dtype, seeds=8 if GPU else 2, heads=4 if GPU else 1)


SHAPES = {
    "steep": lambda: falling(1, 1300, 1.0),
    "rising again": lambda: Strip((torch.arange(1300.0) - 450).abs().mul(0.4)[None].requires_grad_()),
    "both sides": lambda: Strip(-(torch.arange(2600.0) - 1300).abs()[None].requires_grad_(), -1300),
    "gentle": lambda: falling(1, 1300, 0.05),
}


@pytest.mark.parametrize(
    ("shape", "adversary", "causal"),
    some([(shape, adversary, causal) for adversary in ADVERSARIES for causal in (True, False) for shape in SHAPES], 10),
)
def test_skipping_hides_nothing_that_matters(shape, adversary, causal):
    query, key, value = tensors(1, 1, 1, 700, 1100, 16, torch.float32)
    with torch.no_grad():
        ADVERSARIES[adversary](key, value) if "one head" not in adversary else key[:, 0, 40].mul_(200)
    bias = SHAPES[shape]()
    agree(query, key, value, bias, bias.tensors, causal=causal)


@pytest.mark.parametrize(
    ("fall", "norm", "late"),
    some([(fall, norm, late) for norm in (0.0, 0.3, 1.0) for late in (1, 60) for fall in FALLS], 5),
)
@pytest.mark.parametrize("causal", [True, False])
def test_the_mass_that_is_skipped(fall, norm, late, causal):
    """At most 2^-24 of each row. Values are such that an output component is the weight of one block of keys."""
    query, key = torch.randn(1, 1, 500, 32) * norm, torch.randn(1, 1, 1088, 32)
    key[..., 40, :] *= late
    value = torch.nn.functional.one_hot(torch.arange(1088) // 64, 32).float()[None, None]
    strip = FALLS[fall](torch.arange(1088.0))[None]
    got = attention(query, key, value, Strip(strip), causal=causal, impl="triton")
    exact = attention(*(t.double() for t in (query, key, value)), Strip(strip.double()), causal=causal, impl="reference")
    assert torch.where(got == 0, exact, 0.0).sum(-1).max() <= 2**-24


@pytest.mark.parametrize("side", [16, 32])
def test_diagonals_of_small_tiles_visit_all_that_matters(side, monkeypatch):
    """Several tiles of a diagonal lie within the rows that share a range of keys: the last tile may need its first key."""
    for table in (tiles.FLOAT32, tiles.HALF, tiles.HALF_SMALL):
        monkeypatch.setitem(table, "diagonal", {256: tiles.Tiles(side, side, 4, 1)})
    query, key, value = (0.1 * torch.randn(1, 1, length, 16) for length in (97, 1088, 1088))
    query[..., 0] = 4
    key[..., 512:544, 0] = 600 - torch.arange(32.0)
    strip = Strip(-torch.arange(1088.0)[None].requires_grad_())
    agree(*(t.requires_grad_() for t in (query, key, value)), strip, strip.tensors, causal=True)


def key_ranges_of(query, key, value, bias, lse=None, **settings):
    num_queries, num_keys = query.shape[2], key.shape[2]
    settings = {"causal": False, "key_mask": None} | settings
    form = bias.form(num_queries, num_keys, device=query.device)
    call = Call(form, scale=0.25, query_start=num_keys - num_queries, window=None, document_ids=None, dropout_p=0.0,
                seed=None, **settings)  # fmt: skip
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


@pytest.mark.parametrize(
    ("which", "bad"), some([(which, bad) for which in ("query", "key", "value") for bad in (torch.nan, torch.inf)], 2)
)
def test_what_is_not_finite_spreads_to_all_that_see_it(which, bad):
    """As in masked softmax, however far away and however steep the bias."""
    inputs = dict(
        zip(("query", "key", "value"), (t.detach() for t in tensors(1, 1, 1, 1100, 1100, 8, torch.float32)), strict=True)
    )
    inputs[which][0, 0, 300 if which == "query" else 5, 1] = bad
    out, expected = (
        attention(*inputs.values(), falling(1, 1100, 2.0), causal=True, impl=impl).detach()
        for impl in ("triton", "reference")
    )
    seen = slice(128, None) if which == "value" else slice(None)  # what a row does not see may reach it or not
    out, expected = out[:, :, seen], expected[:, :, seen]
    assert not expected.isfinite().all()
    assert torch.equal(out.isfinite(), expected.isfinite())


def test_large_logits():
    query, key, value = tensors(1, 1, 1, 70, 70, 64, torch.float32)
    with torch.no_grad():
        query *= 1e3
    agree(query, key, value, ALiBi(1), [], causal=True)


@pytest.mark.parametrize("query_start", [2**31, -(2**60)])
@pytest.mark.parametrize("name", ["strip", "band", "warp"])
def test_far_positions(name, query_start):
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 70, 20, 8, torch.float32))
    bias = {
        "strip": Strip(torch.randn(2, 9), start=-3),
        "band": Band(torch.randn(1, 2, 70, 9)),
        "warp": Warp(torch.arange(5.0), torch.ones(70), torch.tensor([1.0, 2.5]), torch.randn(2, 3), torch.randn(2, 3)),
    }[name]
    agree_forward(query, key, value, bias, query_start=query_start)


def test_a_bias_of_minus_infinity_hides_keys():
    query, key, value = tensors(1, 2, 2, 200, 200, 4, torch.float32)
    strip = ALiBi(2).form(200, 200, device=query.device).values.clone()
    strip[0, :] = -torch.inf  # head 0 sees nothing
    strip[1, :20] = -torch.inf
    agree(query, key, value, Strip(strip), [], causal=True)


def test_strides_as_torch_gives_them():
    query = torch.randn(2, 7, 4, 6).transpose(1, 2).requires_grad_()
    key, value = (torch.randn(2, 2, 6, 7).mT.requires_grad_() for _ in range(2))
    agree(query, key, value, ALiBi(4), [])
    expanded = torch.randn(1, 1, 7, 6).expand(2, 2, 7, 6).detach().requires_grad_()
    agree(query, expanded, expanded, ALiBi(4), [])


def test_only_the_gradients_that_are_asked_for():
    query, key, value = (t.detach() for t in tensors(1, 1, 1, 40, 40, 8, torch.float32))
    bias = T5Bias(1, std=1.0)
    grads = []
    for impl in ("reference", "triton"):
        out = attention(query, key, value.requires_grad_(), bias, causal=True, impl=impl)
        grads.append(torch.autograd.grad(out.sin().sum(), [value, bias.weight]))
    for want, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BIASES if GPU else ("t5 bidirectional", "fire"))
def test_the_same_bits_over_runs(name, dtype):
    """On a GPU, a hundred runs: a race would show."""
    length = 1000 if GPU else 70
    batch = 2 if GPU else 1
    query, key, value = tensors(batch, 2, 1, length, length, 64, dtype)
    bias, leaves = bias_of(name, 2, batch, length, torch.float32)
    first = None
    for _ in range(100 if GPU else 2):
        torch.manual_seed(3)
        out, lse = attention(query, key, value, bias, causal=True, dropout_p=0.1, return_lse=True, impl="triton")
        run = results(out, lse, [query, key, value, *leaves])
        first = first or run
        assert all(torch.equal(a, b) for a, b in zip(first, run, strict=True))


def test_a_tile_without_far_zones_reads_within_its_table():
    """Rows and keys that hang over the end of the text read a strip, or a warp's g, behind its ends: into the padding."""
    assert PAD.value >= max(
        sizes.block_m + sizes.block_n
        for table in (tiles.HALF, tiles.HALF_SMALL, tiles.FLOAT32, tiles.CANDIDATES)
        for entry in table.values()
        for sizes in (entry.values() if isinstance(entry, dict) else entry)
    )


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
    @pytest.mark.parametrize("name", ["t5", "fire", "band"])
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


@pytest.mark.parametrize("small", UNDERFLOWS[:: 1 if GPU else 3], ids=str)
def test_norms_that_underflow_skip_nothing(small):
    """A norm of 0 that is none would let a key be skipped that has all the weight: its score is 20."""
    underflow_changes_nothing("triton", small, 70, 1030)


@pytest.mark.parametrize("num_queries", [3, 70])
def test_what_a_hidden_key_holds_reaches_nothing(num_queries):
    hidden_keys_reach_nothing("triton", torch.float32, num_queries)


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
