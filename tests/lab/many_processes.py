"""A program that `test_processes.py` runs by torchrun: comparisons by several processes, whose results it writes down.

Its argument is a folder with words.txt (the text) and stopped/ (a run of one process, stopped on the way).
"""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState

from falloff.lab import processes
from falloff.lab.compare import compare_schemes
from falloff.lab.config import Settings
from falloff.lab.progress import Silent
from falloff.lab.tasks import TASKS
from falloff.lab.tasks.base import IGNORED
from falloff.lab.tasks.text import LanguageModelling

STOPPED_AFTER = 3  # steps, of the last scheme's training


class Ragged(LanguageModelling):
    """Language modelling that asks for another number of tokens in each window."""

    def training_item(self, seed, index):
        inputs, targets = super().training_item(seed, index)
        targets = targets.clone()
        targets[1 + index * 5 % 16 :] = IGNORED
        return inputs, targets


SCHEMES = ("t5", "fire", "shaw")  # a strip; a warp, with buffers; a bias that depends on content


COMPILED = {"schemes": ("t5",), "layers": 1, "steps": 2, "length_multiples": (1,), "compile": True}


def settings_for(text, **changes):
    sizes = {"train_length": 16, "steps": 6, "batch_size": 4, "layers": 2, "width": 16, "heads": 2, "windows": 9}
    sizes["length_multiples"] = (1, 4)
    options = {
        "resamples": 100,
        "accumulate": 2,
        "device": "cpu",
        "clip_norm": 0.1,
        "text": (str(text),),
        "schemes": SCHEMES,
    }
    return Settings.of_preset("quick", **options | sizes | changes)


class Losses(Silent):
    """The losses of each step by trial, and the step from which each trial continued.

    Args:
        folder, copy: the folder is copied there when the last trial has done `STOPPED_AFTER` steps: its state is then that
            of a run that was stopped.
    """

    def __init__(self, folder=None, copy=None):
        self.losses = {}
        self.continued = {}
        self.folder, self.copy = folder, copy

    def start_trial(self, name, work):
        self.name = name

    def advance(self, work, *, doing, loss=None, tokens_per_second=None):
        if doing.startswith("step"):
            step = int(doing.split()[1].split("/")[0])
            if loss is None:
                self.continued[self.name] = step
                return
            self.losses.setdefault(self.name, []).append(loss)
            # A step is told before its state is stored.
            if self.copy and step == STOPPED_AFTER + 1 and self.name.startswith(SCHEMES[-1]):
                shutil.copytree(self.folder, self.copy)


def use_fsdp2_on_cpu():
    """Have Accelerate take its FSDP2 path, which it takes on GPUs alone: torch's FSDP2 itself works on CPUs too."""
    AcceleratorState._reset_state(True)
    PartialState._prepare_backend = lambda self, cpu=False, sagemaker=False, backend=None: (
        "gloo",
        DistributedType.MULTI_GPU,
    )
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_TORCH_DEVICE": "cpu"}
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"  # the default of accelerate launch


def run(folder, name, *, resume=False, **changes):
    """A comparison in folder/name, stored after every step."""
    progress = Losses(folder / name, None if resume or changes else folder / f"{name}-stopped")
    settings = settings_for(folder / "words.txt", **changes)
    comparison = compare_schemes(settings, folder / name, resume=resume, progress=progress, save_seconds=0.0)
    kind = PartialState().distributed_type.value
    return {"kind": kind, "losses": progress.losses, "continued": progress.continued, "results": comparison.results}


def error_of(work):
    try:
        work()
    except processes.ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return None


def refused(folder):
    """The messages about what is wrong on one process alone, or known to one alone."""

    def fail():
        raise OSError(28, "No space left on device", "disk")

    own = folder / f"of-{os.environ['RANK']}"  # as on a machine of its own: the same name for another text
    own.mkdir()
    shutil.copy(folder / ("words.txt" if processes.is_main() else "others.txt"), own / "text.txt")
    os.chdir(own)
    words = folder / "words.txt"
    return {
        "one": error_of(lambda: processes.everywhere(lambda: processes.is_main() or fail())),
        "main": error_of(lambda: processes.on_main(fail)),
        "text": error_of(lambda: compare_schemes(settings_for("text.txt"), folder / "refused")),
        "batch": error_of(lambda: compare_schemes(settings_for(words, batch_size=5, accumulate=1), folder / "refused")),
        "folder": error_of(lambda: compare_schemes(settings_for(words), folder / "ddp")),
    }


def compiled(folder):
    """A comparison of compiled models.

    Torch's compiler traces and differentiates them, and eager operators run them: C++ would take a minute to compile.
    """
    compile_ = torch.compile
    torch.compile = partial(compile_, backend="aot_eager")
    try:
        found = run(folder, "compiled", **COMPILED)
    finally:
        torch.compile = compile_
    return found | {"frames": torch._dynamo.utils.counters["frames"]["ok"]}


def main(folder):
    torch.set_num_threads(1)
    TASKS["text"] = Ragged
    with processes.joined():
        found = {"ddp": run(folder, "ddp"), "ddp resumes one": run(folder, "stopped", resume=True)}
        found["refused"] = refused(folder)
        found["compiled"] = compiled(folder)
        use_fsdp2_on_cpu()
        found["fsdp"] = run(folder, "fsdp")
        found["fsdp resumes ddp"] = run(folder, "ddp-stopped", resume=True)
        (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
