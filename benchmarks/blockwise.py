"""Forward and backward of blockwise attention beside PyTorch's, causal, float32: `make bench`, or with --json.

Every case is checked against the reference first. Contestants take turns within one process, and the fastest of several
turns counts: ratios hold on a shared machine, absolute times drift.
"""

import argparse
import json
import time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import scaled_dot_product_attention

from falloff import FIRE, ALiBi, T5Bias, attention
from falloff.lab.environment import machine

SHAPES = [(16, 4, 128, 32), (8, 8, 512, 64), (1, 8, 2048, 64), (1, 8, 4096, 64)]
TURNS = 5
MOST_DENSE = 2048  # beyond, a dense bias with its gradient takes too much memory for a small machine


def contestants(query, key, value, heads, length):
    """Name -> (function of the forward, what its gradient goes to)."""
    inputs = [query, key, value]
    t5, alibi, fire = T5Bias(heads), ALiBi(heads), FIRE(heads, init_L=length / 4)
    hidden = torch.full((length, length), -torch.inf).triu(1) if length <= MOST_DENSE else None

    def ours(bias):
        leaves = [*inputs, *([] if bias is None else bias.parameters())]
        return (lambda: attention(*inputs, bias, causal=True, impl="blockwise")), leaves

    cases = {
        "torch, no bias": ((lambda: scaled_dot_product_attention(*inputs, is_causal=True)), inputs),
        "torch, learned dense T5": (
            (lambda: scaled_dot_product_attention(*inputs, attn_mask=t5.dense(length, length) + hidden)),
            [*inputs, t5.weight],
        ),
        "blockwise, no bias": ours(None),
        "blockwise, learned T5": ours(t5),
        "blockwise, ALiBi": ours(alibi),
        "blockwise, learned FIRE": ours(fire),
    }
    if hidden is None:
        del cases["torch, learned dense T5"]
    return cases, {"blockwise, learned T5": t5, "blockwise, ALiBi": alibi, "blockwise, learned FIRE": fire}


def step(forward, leaves):
    return torch.autograd.grad(forward().sum(), leaves)


def verify(cases, biases, inputs):
    for name, bias in biases.items():
        if inputs[0].shape[2] <= MOST_DENSE:
            forward, leaves = cases[name]
            expected = step(lambda bias=bias: attention(*inputs, bias, causal=True, impl="reference"), leaves)
            # Of all gradients, since some are exactly zero (that of a constant) and come out as rounding.
            largest = max(want.abs().max().item() for want in expected)
            for got, want in zip(step(forward, leaves), expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * largest)


def run():
    rows = []
    for batch, heads, length, head_size in track(SHAPES, "shapes", console=Console(stderr=True)):
        inputs = [torch.randn(batch, heads, length, head_size, requires_grad=True) for _ in range(3)]
        cases, biases = contestants(*inputs, heads, length)
        verify(cases, biases, inputs)
        best = dict.fromkeys(cases, float("inf"))
        for _ in range(TURNS):
            for name, case in cases.items():
                start = time.perf_counter()
                step(*case)
                best[name] = min(best[name], time.perf_counter() - start)
        rows.append({"shape": [batch, heads, length, head_size], "milliseconds": {k: 1e3 * v for k, v in best.items()}})
    return {
        "machine": machine("cpu"),
        "torch": torch.__version__,
        "dtype": "float32",
        "cases": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args().json
    result = run()
    if as_json:
        print(json.dumps(result, indent=1))
        return
    cases = result["cases"]
    shapes = [", ".join(map(str, case["shape"])) for case in cases]
    table = Table("B, H, N, D", *shapes, title="forward + backward, ms (times torch without bias)")
    names = list(cases[0]["milliseconds"])
    for name in names:
        times = [(case["milliseconds"].get(name), case["milliseconds"][names[0]]) for case in cases]
        table.add_row(name, *("-" if ms is None else f"{ms:.0f} ({ms / base:.1f}x)" for ms, base in times))
    Console().print(table)


if __name__ == "__main__":
    main()
