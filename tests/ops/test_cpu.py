"""What holds of the CPU kernels alone: threads, processes, bits, and what they refuse. What they give: `conformance/`."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from falloff import ALiBi, Factored, Strip, T5Bias, Warp, attention
from falloff.ops import cpu
from falloff.ops.call import Call
from ops.cases import tensors
from ops.conformance.hard import falling


def test_the_kernels_were_built():
    """The tests run where a compiler is; without the kernels, this whole file would test nothing."""
    assert cpu.unavailable() is None
    assert cpu._module.instruction_sets()


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


def test_a_row_that_sees_one_key_has_no_gradient_of_its_scores():
    """Exactly: its weight is 1 whatever its score is, and the two products that cancel are summed in one order."""
    query, key, value = tensors(2, 4, 2, 70, 70, 37, torch.float32)
    out = attention(query, key, value, T5Bias(4), causal=True, window=1, impl="cpu")
    grad_query, grad_key = torch.autograd.grad(out.sin().sum(), [query, key])
    assert (grad_query == 0).all()
    assert (grad_key == 0).all()


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
def test_fork_after_use_does_not_hang(one_thread):
    """As in the worker processes of a DataLoader: the parent's threads are not there, and must not be waited for."""
    query, key, value = (t.detach() for t in tensors(1, 4, 4, 300, 300, 16, torch.float32))
    torch.set_num_threads(2)
    expected = attention(query, key, value, impl="cpu")
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(attention(query, key, value, impl="cpu"), expected) else 1)
    timer = threading.Timer(60, os.kill, (child, 9))
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    assert os.waitstatus_to_exitcode(status) == 0


def call(form=None):
    return Call(form, False, 1.0, 0, None, None, None, 0.0, None)


def test_refuses_what_it_cannot_serve():
    query, key, value = tensors(1, 1, 1, 3, 3, 4)
    with pytest.raises(ValueError, match=r"takes float32 and bfloat16, and query is torch\.float64"):
        attention(query, key, value, impl="cpu")
    falling_g = Warp(torch.tensor([1.0, 0.0]), torch.ones(3), torch.zeros(0), torch.ones(1, 1), torch.ones(1, 1))
    assert "rises" in cpu.refusal(query.float(), key.float(), call(falling_g.settled()))
    rising = Warp(torch.tensor([0.0, 1.0]), torch.ones(3), torch.zeros(0), torch.ones(1, 1), torch.ones(1, 1))
    assert cpu.refusal(query.float(), key.float(), call(rising.settled())) is None


def test_without_the_extension_auto_goes_on_and_the_name_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "falloff.ops.cpu._kernels", None)
    monkeypatch.setattr(cpu, "_why_not", cpu._load()[1])
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


@pytest.mark.parametrize("length", [1, 4, 5, 70])
def test_weights_of_forward_and_backward_are_of_the_same_scores(length):
    """A row's only key weighs 1 in both, to the bit, however large its score is: few rows take other products than many."""
    query, key, value = tensors(1, 2, 2, length, length, 64, torch.float32)
    out = attention(query * 1e4, key, value, causal=True, window=1, impl="cpu")
    grad_out = torch.randn_like(out)
    (grad_value,) = torch.autograd.grad(out, value, grad_out)
    assert torch.equal(grad_value, grad_out)


@pytest.mark.parametrize("side", ["query", "key"])
def test_the_backward_may_have_another_instruction_set_than_the_forward(monkeypatch, side):
    """What the forward keeps for it is the same for all."""
    sets = cpu._module.instruction_sets()
    if len(sets) < 2:
        pytest.skip(f"this machine has {sets} alone")
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 90, 16) for _ in range(3))
    states, table = torch.randn(1, 2, 90, 12, requires_grad=True), torch.randn(2, 33, 12, requires_grad=True)
    found = []
    for backward in sets:
        monkeypatch.setenv("FALLOFF_CPU_ISA", sets[0])
        out = attention(query, key, value, Factored(states, table, -16, "clamp", side), impl="cpu")
        monkeypatch.setenv("FALLOFF_CPU_ISA", backward)
        found.append(torch.autograd.grad(out.sum(), (states, table)))
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
