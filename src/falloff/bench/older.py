"""The process of the older falloff that `--against` times: its Python runs this file. See `against`.

It answers each line of JSON with a line of JSON. It uses public names of falloff only: an older one has other modules.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import falloff


def run_of(asked: dict[str, Any]) -> Callable[[], list[Tensor]]:
    """One turn of the problem that `against` stored: output, and gradients if the case trains."""
    stored = load_file(asked["problem"])
    query, key, value, grad_out = (stored.pop(name) for name in ("query", "key", "value", "grad_out"))
    inputs = [tensor.requires_grad_(asked["training"]) for tensor in (query, key, value)]
    bias = None
    if asked["scheme"] is not None:
        bias = getattr(falloff, asked["scheme"])(**asked["settings"])
        bias.load_state_dict({name.removeprefix("scheme."): tensor for name, tensor in stored.items()})
    leaves = [*inputs, *(bias.parameters() if bias is not None else ())] if asked["training"] else []

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(bool(leaves)):
            out = falloff.attention(query, key, value, bias, causal=asked["causal"], impl=asked["impl"])
        return [out, *torch.autograd.grad(out, leaves, grad_out)] if leaves else [out]

    return run


def answer(asked: dict[str, Any], run: Callable[[], list[Tensor]]) -> dict[str, Any]:
    """For `results`, a path: store the results of one turn there. For `calls`, a number: the seconds of each call."""
    if "results" in asked:
        named = {str(index): tensor.detach().clone().contiguous() for index, tensor in enumerate(run())}
        save_file(named, asked["results"])
        return {}
    seconds = []
    for _ in range(asked["calls"]):
        start = time.perf_counter()
        results = run()
        seconds.append(time.perf_counter() - start)
        del results
    return {"seconds": seconds}


def main() -> None:
    """Print the versions, then answer until stdin ends."""
    print(json.dumps({"falloff": falloff.__version__, "torch": torch.__version__, "package": falloff.__file__}), flush=True)
    run: Callable[[], list[Tensor]] = list
    for line in sys.stdin:
        asked = json.loads(line)
        if "problem" in asked:
            torch.set_num_threads(asked["threads"])
            run = run_of(asked)
        print(json.dumps(answer(asked, run)), flush=True)


if __name__ == "__main__":
    main()
