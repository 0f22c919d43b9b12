"""The process of an older falloff, which `--against` times: run as a file by that falloff's own Python. See `against`.

It answers a line of JSON with a line of JSON, and asks of falloff what has a name in public: older ones have other modules.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import falloff


def run_of(stored: dict[str, Any]) -> Callable[[], list[Tensor]]:
    """One turn of the problem that `against` stored: output, and gradients where it trains."""
    bias = None
    if stored["scheme"] is not None:
        bias = getattr(falloff, stored["scheme"])(**stored["settings"])
        bias.load_state_dict(stored["state"])
    inputs = [tensor.requires_grad_(stored["training"]) for tensor in stored["inputs"]]
    query, key, value = inputs
    leaves = [*inputs, *(bias.parameters() if bias is not None else ())] if stored["training"] else []

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(bool(leaves)):
            out = falloff.attention(query, key, value, bias, causal=stored["causal"], impl=stored["impl"])
        return [out, *torch.autograd.grad(out, leaves, stored["grad_out"])] if leaves else [out]

    return run


def answer(asked: dict[str, Any], run: Callable[[], list[Tensor]]) -> dict[str, Any]:
    """To `results`, a path: the results of one turn are stored there. To `calls`, a number: the seconds of each."""
    if "results" in asked:
        torch.save([tensor.detach() for tensor in run()], asked["results"])
        return {}
    seconds = []
    for _ in range(asked["calls"]):
        start = time.perf_counter()
        results = run()
        seconds.append(time.perf_counter() - start)
        del results
    return {"seconds": seconds}


def main() -> None:
    """Say who is here, then answer until nothing more is asked."""
    print(json.dumps({"falloff": falloff.__version__, "torch": torch.__version__, "package": falloff.__file__}), flush=True)
    run: Callable[[], list[Tensor]] = list
    for line in sys.stdin:
        asked = json.loads(line)
        if "problem" in asked:
            stored = torch.load(asked["problem"], weights_only=True)
            torch.set_num_threads(stored["threads"])
            run = run_of(stored)
        print(json.dumps(answer(asked, run)), flush=True)


if __name__ == "__main__":
    main()
