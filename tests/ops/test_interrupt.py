"""Ctrl-C in the middle of a long call of the CPU kernels: they stop where they are, and the next call is right.

That a kernel stopped, and did not merely return late, shows in what it writes into: part of it is as it was before.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from falloff import Strip, attention
from falloff.ops import cpu
from falloff.ops.call import Call

STRIP = Strip(torch.linspace(0, 1, 50).repeat(2, 1))


def kernels(length, threads):
    """A call of the kernels themselves, and one of each direction with what it writes, NaN at first."""
    query, key, value = (torch.randn(1, 2, length, 32) for _ in range(3))
    call = Call(STRIP, False, 0.2, 0, None, None, None, 0.0, None)
    lowered = torch.zeros(cpu.lowered_size(query, key, call), dtype=torch.int32)
    arguments = (
        query,
        key,
        value,
        threads,
        STRIP.tensors,
        None,
        None,
        None,
        "strip",
        STRIP.numbers,
        False,
        0.2,
        0,
        None,
        0.0,
    )
    run = cpu._module
    run.forward(torch.empty_like(query), torch.empty(1, 2, length), lowered, arguments)

    def forward():
        out, lse = torch.full_like(query, torch.nan), torch.full((1, 2, length), torch.nan)
        return lambda: run.forward(out, lse, lowered, arguments), lse

    def backward():
        # Any log-sum-exp will do for this, as long as nothing is skipped for it.
        out, lse = torch.zeros_like(query), torch.zeros(1, 2, length)
        grads = [torch.full_like(query, torch.nan) for _ in range(3)]
        return lambda: run.backward(query, None, out, lse, lowered, *grads, [], arguments), grads[2]

    return forward, backward


def interrupted(run):
    """Run it, and send this process a SIGINT a little later: whether KeyboardInterrupt was raised."""
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    sender.start()
    try:
        run()
        sender.join()
        time.sleep(0.1)  # a signal that came too late ends this
    except KeyboardInterrupt:
        return True
    finally:
        sender.join()
    return False


def main(direction, threads, forked):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in its background ignore it
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    inputs = [torch.randn(1, 2, 300, 32) for _ in range(3)]
    expected = attention(*inputs, STRIP, impl="cpu")  # before a fork: as in the worker of a DataLoader
    if forked == "forked":
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        torch.set_num_threads(1)  # torch's own operators would wait for the parent's threads

    def check(length):
        run, written = kernels(length, int(threads))[direction == "backward"]()
        began = time.perf_counter()
        run()
        assert written.isfinite().all()
        return time.perf_counter() - began > 0.5

    length = 2048
    while not check(length):  # so long that the signal comes in its middle
        length *= 2
    run, written = kernels(length, int(threads))[direction == "backward"]()
    assert interrupted(run), "no KeyboardInterrupt"
    assert written.isnan().any(), "the kernel ran to its end"
    assert torch.equal(attention(*inputs, STRIP, impl="cpu"), expected)

    # The same by way of torch's operators and autograd.
    query, key, value = (torch.randn(1, 2, length, 32, requires_grad=direction == "backward") for _ in range(3))
    if direction == "forward":
        assert interrupted(lambda: attention(query, key, value, STRIP, impl="cpu"))
    else:
        out = attention(query, key, value, STRIP, impl="cpu").sum()
        assert interrupted(out.backward)
        assert query.grad is None
    assert torch.equal(attention(*inputs, STRIP, impl="cpu"), expected)
    os._exit(0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize(
    ("direction", "threads", "forked"),
    [("forward", "1", ""), ("forward", "2", ""), ("backward", "2", ""), ("forward", "2", "forked")],
)
def test_a_long_call_stops_at_a_signal(direction, threads, forked):
    environment = os.environ | {"FALLOFF_SHAPE_CHECKS": "0"}
    command = [sys.executable, Path(__file__), direction, threads, forked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_a_handler_that_calls_attention_disturbs_nothing():
    """It runs in the middle of an item of work, on the same thread: it must not touch what that item works in."""
    call, lse = kernels(8192, 1)[0]()
    call()
    expected = lse.clone()
    inputs = [torch.randn(1, 2, 300, 200) for _ in range(3)]
    inner = attention(*inputs, STRIP, impl="cpu")
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(attention(*inputs, STRIP, impl="cpu")))
    try:
        while not seen:
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # once: on a busy machine a handler takes longer than that
            lse.fill_(torch.nan)
            call()
            assert torch.equal(lse, expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(torch.equal(out, inner) for out in seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
