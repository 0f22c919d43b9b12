"""The suite context-parallel: attention by processes that share a sequence, beside one process, on this machine.

Processes talk through gloo, over the loopback device. The suite verifies each method against one process, and sets the
measured time beside what the model's formula gives with the speed of products and of messages, measured in the same run.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from falloff import T5Bias, attention
from falloff import distributed as context_parallel
from falloff.bench.context_model import METHODS, Cluster, Layer, estimate
from falloff.bench.verify import WrongResultError
from falloff.distributed.traffic import Method
from falloff.environment import git_commit, machine, versions

_CASES = ((2, 1024), (2, 4096), (4, 4096))
"""Ranks and length."""
COUNT = len(_CASES)
"""The number of cases."""
_LAYER = Layer(heads=8, key_heads=8, head_size=64)
_TURNS = 5
_MOST_ERROR = 1e-4  # float32; of the largest entry
_MESSAGES = 2_000_000  # numbers of a message whose time is taken
_WAIT = timedelta(minutes=10)  # for ranks on a machine with other work


def run_suite(turns: int | None, doing: Callable[[str], None]) -> dict[str, Any]:
    """Measure every case. Returns what `--json` prints.

    Args:
        turns: of each method; 5 by default.
        doing: called with the name of each case.

    Raises:
        WrongResultError: if a method's output or gradient differs from that of one process.
    """
    cases = []
    for ranks, length in _CASES:
        doing(f"{ranks} ranks, N={length}")
        with tempfile.TemporaryDirectory() as folder:
            arguments = (ranks, length, turns or _TURNS, folder)
            mp.start_processes(_rank, arguments, ranks, start_method="spawn")  # type: ignore[attr-defined, no-untyped-call]
            case = json.loads((Path(folder) / "case.json").read_text())
        for method, error in case["errors"].items():
            if not error <= _MOST_ERROR:
                raise WrongResultError(
                    f"{method} on {ranks} ranks differs from one process by {error:.1e} of the largest entry"
                )
        cases.append(case)
    return {
        "suite": "context-parallel",
        "measured": True,
        "machine": machine("cpu"),
        "versions": versions(),
        "commit": git_commit(),
        "layer": vars(_LAYER).copy(),
        "turns": turns or _TURNS,
        "cases": cases,
    }


def _rank(rank: int, ranks: int, length: int, turns: int, folder: str) -> None:
    """What each process does; the first writes what was found."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", ranks)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=_WAIT)
    try:
        case = _case(ranks, length, turns)
    finally:
        dist.destroy_process_group()
    if rank == 0:
        (Path(folder) / "case.json").write_text(json.dumps(case))


def _case(ranks: int, length: int, turns: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, _LAYER.heads, length, _LAYER.head_size)
    whole = [torch.randn(shape, generator=generator) for _ in range(4)]  # query, key, value, gradient of the output
    torch.manual_seed(0)  # the same bias on every rank
    bias = T5Bias(_LAYER.heads)  # no key is so far down that it is skipped, as with ALiBi

    def alone() -> list[Tensor]:
        query, key, value = inputs = [tensor.requires_grad_() for tensor in whole[:3]]
        out = attention(query, key, value, bias, causal=True)
        return [out, *torch.autograd.grad(out, inputs, whole[3])]

    expected = alone()
    speed, latency = _messages(ranks)
    one = _seconds(turns, alone)
    products = 3.5 * 4 * length**2 / 2 * _LAYER.head_size * _LAYER.heads
    here = Cluster("", products / one / 1e12, speed, speed, ranks, latency, float("inf"))
    milliseconds, estimated, errors = {}, {}, {}
    for method in METHODS:
        order = "contiguous" if method == "ulysses" else "zigzag"
        own = [context_parallel.shard(tensor.detach(), 2, order=order) for tensor in whole]

        def together(method: Method = method, order: str = order, own: list[Tensor] = own) -> list[Tensor]:
            query, key, value = inputs = [tensor.requires_grad_() for tensor in own[:3]]
            out = context_parallel.attention(query, key, value, bias, causal=True, method=method, order=order)
            assert isinstance(out, Tensor)  # no log-sum-exp beside
            return [out, *torch.autograd.grad(out, inputs, own[3])]

        found = together()
        wanted = [context_parallel.shard(tensor.detach(), 2, order=order) for tensor in expected]
        error = max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(found, wanted, strict=True))
        errors[method] = _largest(error)
        milliseconds[method] = 1000 * _seconds(turns, together)
        # The ranks hold numbers of 4 bytes here, and the model's are of 2.
        guess = estimate(method, ranks, length, _LAYER, here, itemsize=4)
        assert guess is not None
        estimated[method] = 1000 * guess.seconds
    return {
        "ranks": ranks,
        "length": length,
        "one_process": 1000 * one,
        "bytes_per_second": speed,
        "latency": latency,
        "milliseconds": milliseconds,
        "estimated": estimated,
        "errors": errors,
    }


def _messages(ranks: int) -> tuple[float, float]:
    """Bytes a second that a rank sends while all send, and the seconds of a message of no size to speak of."""

    def exchanged(numbers: int) -> Callable[[], object]:
        sent, received = torch.zeros(ranks, numbers), torch.zeros(ranks, numbers)
        return lambda: dist.all_to_all_single(received, sent)

    latency = _seconds(20, exchanged(1))
    seconds = _seconds(_TURNS, exchanged(_MESSAGES // ranks)) - latency
    return 4 * _MESSAGES * (ranks - 1) / ranks / max(seconds, 1e-9), latency


def _seconds(turns: int, function: Callable[[], object]) -> float:
    """The median time of the slowest rank."""
    found = []
    for _ in range(turns):
        dist.barrier()
        began = time.perf_counter()
        function()
        found.append(_largest(time.perf_counter() - began))
    return statistics.median(found)


def _largest(number: float) -> float:
    """The largest of the ranks' numbers."""
    tensor = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def table(result: dict[str, Any]) -> list[Any]:
    """Measured and estimated times as a rich table, with a line on the machine."""
    from rich.table import Table
    from rich.text import Text

    layer, found = result["layer"], result["machine"]
    title = (
        f"T5, causal, forward and backward: {layer['heads']} heads of size {layer['head_size']}, float32; ms of the "
        "slowest rank, in brackets the model's estimate"
    )
    drawn = Table(title=title, pad_edge=False, title_justify="left", title_style="bold")
    for heading in ("ranks", "tokens", "each rank\nalone", *METHODS, "MB/s\na rank"):
        drawn.add_column(heading, justify="right")
    for case in result["cases"]:
        times = [f"{case['milliseconds'][method]:,.1f} ({case['estimated'][method]:,.1f})" for method in METHODS]
        speed = f"{case['bytes_per_second'] / 1e6:,.0f}"
        drawn.add_row(f"{case['ranks']}", f"{case['length']:,}", f"{case['one_process']:,.1f}", *times, speed)
    said = (
        f"{found['cpu']}, {found['cores']} cores for all ranks, gloo; medians of {result['turns']} turns, each method "
        "verified against one process. All ranks compute the whole call beside one another for the column 'each rank alone'."
    )
    return [drawn, Text(said, style="dim")]
