"""A program that `test_context_parallel.py` runs: comparisons of 4 processes that share windows, written down.

Its argument is a folder with words.txt (the text). The processes have what torchrun tells them, but are forks of one that
has imported all modules: that takes longer than all they do.
"""

import gc
import importlib
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import distributed
from torch.nn.functional import cross_entropy

from falloff import ForgettingBias
from falloff.lab import processes, sharing
from falloff.lab.compare import compare_schemes
from falloff.lab.config import KNOWN_SCHEMES
from falloff.lab.metering import Metered
from falloff.lab.model import build_model
from falloff.lab.tasks import TASKS
from lab import many_processes

PROCESSES = 4
SCHEMES = ("t5", "fire", "rope", "forgetting", "shaw")  # the last one's training is stopped, see `Losses`
IN_PARTS = ("forgetting",)
VOCABULARY = 20


class Summed(ForgettingBias):
    """A scheme of the user's own that adds up what hidden states say."""

    content = ("hidden",)

    def form_of(self, hidden):
        return super().form_of(hidden.unflatten(2, (self.num_heads, -1)).mean(3).transpose(1, 2))


def settings_for(folder, **changes):
    # Stretches of an odd length differ by a token.
    sizes = {"train_length": 17, "steps": 4, "length_multiples": (1, 3), "layers": 1, "schemes": SCHEMES}
    return many_processes.settings_for(folder / "words.txt", **sizes | changes)


def run(folder, name, ranks=1, *, resume=False, copy=None, **changes):
    """A comparison in folder/name by processes of which so many share each window, stored after every step."""
    progress = many_processes.Losses(folder / name, copy)
    options = {"resume": resume, "progress": progress, "save_seconds": 0.0, "context_parallel": ranks}
    comparison = compare_schemes(settings_for(folder, **changes), folder / name, **options)
    kind = PartialState().distributed_type.value
    return {"kind": kind, "losses": progress.losses, "continued": progress.continued, "results": comparison.results}


def model_for(folder, scheme):
    if scheme != "summed":
        return build_model(settings_for(folder), scheme, 0, VOCABULARY)
    model = build_model(settings_for(folder), "none", 0, VOCABULARY)
    model.scheme = Summed(2)
    return model


def gradients(model, tokens, targets):
    """The gradient of the summed loss of this process's stretch."""
    model.zero_grad()
    logits = model(tokens)
    cross_entropy(logits.flatten(0, 1), sharing.own_stretch(targets).flatten(), reduction="sum").backward()
    return [parameter.grad for parameter in model.parameters()]


def errors(folder, scheme):
    """By how much a model on stretches differs from one on whole windows: in its gradients, and in what is tested."""
    model = model_for(folder, scheme)
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(VOCABULARY, (2, 3, 9), generator=generator)  # 3 rows: shares of 2 and of 2
    logits = model(tokens).detach()
    nats = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    with sharing.windows_shared(1):
        whole = gradients(model, tokens, targets)
    found = {}
    for ranks in (2, 4):
        with sharing.windows_shared(ranks):
            model.group = sharing.group()
            shares = gradients(model, tokens, targets)
            for share in shares:
                distributed.all_reduce(share, group=sharing.group())
            metered = Metered(model, torch.device("cpu"))
            missed = (~metered.right(tokens, logits.argmax(2))).sum().item()
            found[ranks] = {
                "gradient": max((a - b).abs().max().item() for a, b in zip(whole, shares, strict=True)),
                "nats": (metered.nats(tokens, targets) - nats).abs().max().item(),
                "missed": missed,
            }
    return found


def refused(folder):
    error_of = many_processes.error_of
    return {
        "ranks": error_of(lambda: run(folder, "refused", 3)),
        "batch": error_of(lambda: run(folder, "refused", 2, batch_size=5, accumulate=1)),
        "compile": error_of(lambda: run(folder, "refused", 2, compile=True)),
    }


def work(folder, rank, port):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
    }
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with processes.joined():
        found = {"ddp": run(folder, "ddp", 2, copy=folder / "stopped"), "refused": refused(folder)}
        found["errors"] = {scheme: errors(folder, scheme) for scheme in (*KNOWN_SCHEMES, "summed")}
        many_processes.use_fsdp2_on_cpu()
        found["fsdp"] = run(folder, "fsdp", 2, schemes=IN_PARTS)
        (folder / f"{rank}.json").write_text(json.dumps(found))


def main(folder):
    torch.set_num_threads(1)
    TASKS["text"] = many_processes.Ragged
    for module in ("plotly", "scipy.stats", "torch._dynamo"):
        importlib.import_module(module)
    gc.freeze()  # each measurement of memory collects garbage: it need not look through all modules
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    forks = [context.Process(target=work, args=(folder, rank, port)) for rank in range(PROCESSES)]
    for fork in forks:
        fork.start()
    for fork in forks:
        fork.join()
    sys.exit(max(abs(fork.exitcode) for fork in forks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
