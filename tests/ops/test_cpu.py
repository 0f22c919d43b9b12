"""The CPU kernels against the definition in float64: every form, mask, size, instruction set; hard inputs; threads."""

import os
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falloff import ALiBi, Band, Sandwich, Strip, T5Bias, Warp, attention
from falloff.ops import cpu
from falloff.ops.call import Call
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

INSTRUCTION_SETS = [] if cpu.unavailable() else cpu._module().instruction_sets()


def test_the_kernels_were_built():
    """The tests run where a compiler is; without the kernels, this whole file would test nothing."""
    assert cpu.unavailable() is None
    assert INSTRUCTION_SETS


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request, monkeypatch):
    monkeypatch.setenv("FALLOFF_CPU_ISA", request.param)
    assert cpu.instruction_set() == request.param


agree = partial(agreement.agree, impl="cpu")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("sizes", [(70, 70), (5, 117), (117, 5), (1, 9)], ids=str)
def test_forms_and_masks(name, mask, sizes):
    query, key, value = tensors(2, 4, 2, *sizes, 18, torch.float32)
    bias, leaves = bias_of(name, 4, 2, sizes[0], torch.float32)
    agree(query, key, value, bias, leaves, **MASKS[mask])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", BIASES)
def test_padding_and_documents(name, causal):
    query, key, value = tensors(3, 2, 1, 83, 83, 8, torch.float32)
    bias, leaves = bias_of(name, 2, 3, 83, torch.float32)
    key_mask = torch.rand(3, 83) > 0.4
    key_mask[1] = False  # nothing to attend to at all
    document_ids = torch.stack([torch.arange(83) // 20, torch.arange(83) % 2, torch.full((83,), 5)])
    agree(query, key, value, bias, leaves, causal=causal, key_mask=key_mask)
    masks = {"causal": causal, "key_mask": key_mask, "document_ids": document_ids}
    agree(query, key, value, bias, leaves, **masks, window=26, dropout_p=0.2)


# Derandomized: in one of some thousand cases a few numbers are right by luck in plain torch, and the budget is no budget.
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 96, 128, 256])),
    st.sampled_from(BIASES),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 320)),
    st.sampled_from(INSTRUCTION_SETS),
    st.integers(0, 2**32),
)
def test_ragged_sizes(batch, heads, num_queries, num_keys, head_size, name, causal, window, isa, seed):
    torch.manual_seed(seed)
    query, key, value = tensors(batch, *heads, num_queries, num_keys, head_size, torch.float32)
    bias, leaves = bias_of(name, heads[0], batch, num_queries, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FALLOFF_CPU_ISA", isa)
        agree(query, key, value, bias, leaves, causal=causal, window=window)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(["strip", "band", "warp", "warp by text", "none"]), st.data())
def test_any_form_with_any_masks(seed, kind, data):
    """Also forms that no scheme makes, and all masks at once."""
    torch.manual_seed(seed)
    pick = data.draw
    batch, (heads, groups) = pick(st.integers(1, 3)), pick(st.sampled_from([(1, 1), (4, 2), (6, 3), (4, 1)]))
    documents = pick(st.booleans())
    num_queries = pick(st.integers(1, 150))
    num_keys = num_queries if documents else pick(st.integers(1, 400))

    def leaf(*shape):
        return torch.randn(*shape).requires_grad_(pick(st.booleans()))

    if kind == "strip":
        bias = Strip(leaf(heads, pick(st.integers(1, 600))), pick(st.integers(-500, 500)))
    elif kind == "band":
        bias = Band(leaf(batch, heads, num_queries, pick(st.integers(1, 400))))
    elif kind.startswith("warp"):
        segments = pick(st.integers(1, 9))
        g, a = torch.rand(pick(st.integers(1, 300))), torch.rand((batch, num_queries) if "text" in kind else (num_queries,))
        knots = (torch.rand(segments - 1) * 8).sort().values
        bias = Warp(g.cumsum(0).requires_grad_(), a.requires_grad_(), knots, leaf(heads, segments), leaf(heads, segments))
    else:
        bias = None
    masks = {
        "causal": pick(st.booleans()),
        "window": pick(st.sampled_from([None, 1, 3, 50, 200])),
        "key_mask": torch.rand(batch, num_keys) > 0.4 if pick(st.booleans()) else None,
        "document_ids": torch.randint(-2, 3, (batch, num_queries)) if documents else None,
        "query_start": None if documents else pick(st.sampled_from([None, 0, -5, -100, 7, 200])),
        "dropout_p": pick(st.sampled_from([0.0, 0.3, 1.0])),
        "bias_scale": pick(st.sampled_from([1.0, 0.0, -2.0])),
        "scale": pick(st.sampled_from([None, 0.0, -1.0])),
    }
    query, key, value = tensors(
        batch, heads, groups, num_queries, num_keys, pick(st.sampled_from([1, 5, 33])), torch.float32
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FALLOFF_CPU_ISA", pick(st.sampled_from(INSTRUCTION_SETS)))
        agree(query, key, value, bias, [t for t in (bias.tensors if bias else []) if t.requires_grad], **masks)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("shape", ["steep", "gentle", "rising again", "sandwich", "t5 with a large far bucket", "cliff"])
@pytest.mark.parametrize("causal", [False, True])
def test_skipping_hides_nothing_that_matters(shape, adversary, causal):
    """Keys are skipped only where all that is skipped weighs less than rounding."""
    torch.manual_seed(3)
    query, key, value = tensors(1, 2, 2, 700, 900, 16, torch.float32)
    with torch.no_grad():
        ADVERSARIES[adversary](key, value)
    bias = {
        "steep": lambda: falling(2, 900, 1.0),
        "gentle": lambda: falling(2, 900, 0.05),
        "rising again": lambda: Strip((torch.arange(900.0) - 450).abs().mul(0.4).repeat(2, 1).requires_grad_()),
        "sandwich": lambda: Strip(Sandwich(2).form(700, 900).values.mul(20).requires_grad_()),
        "t5 with a large far bucket": lambda: Strip(torch.cat([torch.zeros(2, 40), torch.full((2, 1), 50.0)], 1)),
        "cliff": lambda: Strip(torch.cat([torch.zeros(2, 300), torch.full((2, 1), -200.0)], 1)),
    }[shape]()
    agree(query, key, value, bias, [t for t in bias.tensors if t.requires_grad], causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("late", [1, 60])
@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("fall", FALLS)
def test_the_mass_that_is_skipped(fall, norm, late, causal):
    """At most 2^-24 of each row. Values are such that an output component is the weight of one block of keys."""
    torch.manual_seed(3)
    query, key = torch.randn(1, 1, 700, 16) * norm, torch.randn(1, 1, 960, 16)
    key[..., 40, :] *= late
    value = torch.nn.functional.one_hot(torch.arange(960) // 64, 16).float()[None, None]
    strip = FALLS[fall](torch.arange(960.0))[None]
    got = attention(query, key, value, Strip(strip), causal=causal, impl="cpu")
    exact = attention(*(t.double() for t in (query, key, value)), Strip(strip.double()), causal=causal, impl="reference")
    assert torch.where(got == 0, exact, 0.0).sum(-1).max() <= 2**-24


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("small", UNDERFLOWS, ids=str)
def test_norms_that_underflow_skip_nothing(small):
    """A norm of 0 that is none would let a key be skipped that has all the weight: its score is 20."""
    underflow_changes_nothing("cpu", small, 320, 600)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("head_size", [16, 18])
@pytest.mark.parametrize("num_queries", [1, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_hidden_key_holds_reaches_nothing(dtype, num_queries, head_size):
    hidden_keys_reach_nothing("cpu", dtype, num_queries, head_size)
    hidden_keys_reach_nothing("cpu", dtype, num_queries, head_size, causal=True, dropout_p=1.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", ["query", "key", "value"])
def test_what_is_not_finite_spreads_to_all_that_see_it(which, bad):
    """As in masked softmax, however far away and however steep the bias. What a row does not see may reach it or not."""
    inputs = dict(
        zip(("query", "key", "value"), (t.detach() for t in tensors(1, 1, 1, 600, 600, 8, torch.float32)), strict=True)
    )
    inputs[which][0, 0, 300 if which == "query" else 5, 1] = bad
    out = attention(*inputs.values(), falling(1, 600, 2.0), causal=True, impl="cpu").detach()
    expected = attention(*inputs.values(), falling(1, 600, 2.0), causal=True, impl="reference").detach()
    seen = slice(5, None) if which == "value" else slice(None)
    out, expected = out[:, :, seen], expected[:, :, seen]
    assert not expected.isfinite().all()
    assert torch.equal(out.isfinite(), expected.isfinite())  # inf * a weight that underflows to 0 is NaN: either may come
    torch.testing.assert_close(out[out.isfinite()], expected[out.isfinite()], rtol=1e-4, atol=1e-5)


def test_nan_in_a_bias_and_with_a_payload():
    query, key, value = (t.detach() for t in tensors(1, 1, 1, 40, 600, 8, torch.float32))
    strip = falling(1, 600, 1.0).values.detach().clone()
    strip[0, 500] = torch.nan
    out = attention(query, key, value, Strip(strip), impl="cpu")
    offsets = torch.arange(560, 600)[:, None] - torch.arange(600)
    assert torch.equal(out[0, 0, :, 0].isnan(), (offsets == 500).any(1))
    odd = torch.tensor([0x7FC001FF], dtype=torch.int32).view(torch.float32).item()
    query[0, 0, 3, 0] = odd
    assert attention(query, key, value, impl="cpu")[0, 0, 3].isnan().all()


@pytest.mark.parametrize("num_queries", [1, 4, 5, 120])
@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_logits(magnitude, num_queries):
    for seed in range(5):
        torch.manual_seed(seed)
        query, key, value = tensors(1, 2, 2, num_queries, 120, 64, torch.float32)
        with torch.no_grad():
            query *= magnitude / 8
        agree(query, key, value, ALiBi(2), [], causal=True)


def test_a_row_that_sees_one_key_has_no_gradient_of_its_scores():
    """Exactly: its weight is 1 whatever its score is, and the two products that cancel are summed in one order."""
    query, key, value = tensors(2, 4, 2, 70, 70, 37, torch.float32)
    out = attention(query, key, value, T5Bias(4), causal=True, window=1, impl="cpu")
    grad_query, grad_key = torch.autograd.grad(out.sin().sum(), [query, key])
    assert (grad_query == 0).all()
    assert (grad_key == 0).all()


@pytest.mark.parametrize("query_start", [2**31, -(2**31), 2**60, -(2**60)])
@pytest.mark.parametrize("name", BIASES)
def test_far_positions(name, query_start):
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 7, 20, 8, torch.float32))
    knots = torch.tensor([1.0, 2.5])
    if name.startswith("fire"):  # FIRE's own form would be as long as the distance
        bias = Warp(torch.arange(5.0), torch.ones(7), knots, torch.randn(2, 3), torch.randn(2, 3))
    elif name in ("kerple-power", "alibi", "tisa"):
        bias = Strip(torch.randn(2, 9), start=-3)
    else:
        bias, _ = bias_of(name, 2, 1, 7, torch.float32)
    both = [attention(query, key, value, bias, query_start=query_start, impl=impl) for impl in ("reference", "cpu")]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


def test_a_bias_of_minus_infinity_hides_keys():
    strip = ALiBi(2).form(300, 300).values.clone()
    strip[0, :] = -torch.inf  # head 0 sees nothing
    strip[1, :20] = -torch.inf
    query, key, value = tensors(1, 2, 2, 300, 300, 4, torch.float32)
    agree(query, key, value, Strip(strip), [], causal=True)
    assert (attention(query, key, value, Strip(strip), causal=True, impl="cpu")[0, 0] == 0).all()


def test_strides_as_torch_gives_them():
    query = torch.randn(2, 7, 4, 6).transpose(1, 2).requires_grad_()
    key, value = (torch.randn(2, 2, 6, 7).mT.requires_grad_() for _ in range(2))
    agree(query, key, value, ALiBi(4), [])
    expanded = torch.randn(1, 1, 7, 6).expand(2, 2, 7, 6).detach().requires_grad_()
    agree(query, expanded, expanded, ALiBi(4), [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BIASES)
def test_the_same_bits_over_runs_and_threads(name, dtype):
    query, key, value = tensors(1, 4, 2, 500, 1300, 16, dtype)
    bias, leaves = bias_of(name, 4, 1, 500, torch.float32)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 4, *[2] * 10):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            out, lse = attention(query, key, value, bias, causal=True, dropout_p=0.1, return_lse=True, impl="cpu")
            runs.append(results(out, lse, [query, key, value, *leaves]))
    finally:
        torch.set_num_threads(before)
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_a_hundred_runs_and_decoding_give_the_same_bits():
    bias = T5Bias(4)
    for num_queries in (1, 65):
        query, key, value = (t.detach() for t in tensors(1, 4, 2, num_queries, 5000, 16, torch.float32))
        first = attention(query, key, value, bias, impl="cpu")
        assert all(torch.equal(first, attention(query, key, value, bias, impl="cpu")) for _ in range(100))


def test_decoding_is_the_last_row():
    query, key, value = (t.detach() for t in tensors(2, 4, 2, 3000, 3000, 16, torch.float32))
    whole = attention(query, key, value, ALiBi(4), causal=True, impl="cpu")
    last = attention(query[:, :, -1:], key, value, ALiBi(4), causal=True, impl="cpu")
    torch.testing.assert_close(last, whole[:, :, -1:])


def test_two_python_threads_at_once():
    inputs = [[t.detach() for t in tensors(1, 4, 4, 400, 400, 16, torch.float32)] for _ in range(4)]
    alone = [attention(*tensors_of_one, ALiBi(4), causal=True, impl="cpu") for tensors_of_one in inputs]
    together = [None] * 4

    def work(number):
        for _ in range(20):
            together[number] = attention(*inputs[number], ALiBi(4), causal=True, impl="cpu")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, got in zip(alone, together, strict=True):
        assert torch.equal(expected, got)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_after_use_does_not_hang():
    """As in the worker processes of a DataLoader: the parent's threads are not there, and must not be waited for."""
    query, key, value = (t.detach() for t in tensors(1, 4, 4, 300, 300, 16, torch.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = attention(query, key, value, impl="cpu")
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(attention(query, key, value, impl="cpu"), expected) else 1)
        timer = threading.Timer(60, os.kill, (child, 9))
        timer.start()
        _, status = os.waitpid(child, 0)
        timer.cancel()
    finally:
        torch.set_num_threads(before)
    assert os.waitstatus_to_exitcode(status) == 0


def call(form=None):
    return Call(form, False, 1.0, 0, None, None, None, 0.0, None)


def test_refuses_what_it_cannot_serve():
    query, key, value = tensors(1, 1, 1, 3, 3, 4)
    with pytest.raises(ValueError, match=r"takes float32 and bfloat16, and query is torch\.float64"):
        attention(query, key, value, impl="cpu")
    falling_g = Warp(torch.tensor([1.0, 0.0]), torch.ones(3), torch.zeros(0), torch.ones(1, 1), torch.ones(1, 1))
    assert "rises" in cpu.refusal(query.float(), key.float(), call(falling_g.with_rising()))
    rising = Warp(torch.tensor([0.0, 1.0]), torch.ones(3), torch.zeros(0), torch.ones(1, 1), torch.ones(1, 1))
    assert cpu.refusal(query.float(), key.float(), call(rising.with_rising())) is None


def test_without_the_extension_auto_goes_on_and_the_name_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "_module", lambda: None)
    query, key, value = tensors(1, 1, 1, 3, 3, 4, torch.float32)
    assert attention(query, key, value).shape == query.shape
    with pytest.raises(ValueError, match="installed without its CPU kernels"):
        attention(query, key, value, impl="cpu")


_BY_METHODS = """
import torch
if {hidden}:
    torch.Tensor.__dlpack_c_exchange_api__ = None
from falloff.ops import cpu
from falloff.ops.call import Call
torch.manual_seed(0)
torch.set_num_threads(1)
for dtype in (torch.float32, torch.bfloat16):
    query, key, value = (torch.randn(2, 9, 3, 24, dtype=dtype)[1:].transpose(1, 2) for _ in range(3))
    for ids in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        mask, documents = torch.rand(1, 9) < 0.8, torch.randint(0, 3, (1, 9)).to(ids)
        call = Call(None, True, 0.2, 0, None, mask, documents, 0.0, None)
        print([tensor.float().flatten().tolist() for tensor in cpu.forward(query, key, value, call, None)])
    query = query.detach().clone()
    query.untyped_storage().resize_(8)
    try:
        cpu.forward(query, key, value, Call(None, True, 0.2, 0, None, None, None, 0.0, None), None)
    except ValueError as error:
        print(error)
"""


def test_a_torch_without_dlpack_s_table_of_functions_is_read_by_its_methods():
    """An older torch has none: offsets, strides, every dtype and the length of a storage are read alike."""

    def printed(hidden):
        program = [sys.executable, "-c", _BY_METHODS.format(hidden=hidden)]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout

    by_table = printed(False)
    assert by_table.count("query: got a storage with") == 2
    assert printed(True) == by_table


def test_an_instruction_set_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("FALLOFF_CPU_ISA", "mmx")
    query, key, value = tensors(1, 1, 1, 3, 3, 4, torch.float32)
    with pytest.raises(ValueError, match="FALLOFF_CPU_ISA: got 'mmx', expected one of"):
        attention(query, key, value, impl="cpu")


def test_band_gradient_beyond_what_rows_see():
    query, key, value = tensors(1, 1, 1, 60, 60, 8, torch.float32)
    values = torch.randn(1, 1, 60, 100, requires_grad=True)
    agree(query, key, value, Band(values), [values], causal=True, window=30)


@pytest.mark.parametrize("length", [1, 4, 5, 70])
def test_weights_of_forward_and_backward_are_of_the_same_scores(length):
    """A row's only key weighs 1 in both, to the bit, however large its score is: few rows take other products than many."""
    query, key, value = tensors(1, 2, 2, length, length, 64, torch.float32)
    out = attention(query * 1e4, key, value, causal=True, window=1, impl="cpu")
    grad_out = torch.randn_like(out)
    (grad_value,) = torch.autograd.grad(out, value, grad_out)
    assert torch.equal(grad_value, grad_out)
