"""A program that `test_context_parallel.py` runs by torchrun on 4 processes: comparisons in which they share windows.

Its argument is a folder with words.txt (the text).
"""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from falloff.lab import processes
from falloff.lab.compare import compare_schemes
from falloff.lab.tasks import TASKS
from lab import many_processes
from lab.many_processes import Losses, Ragged, error_of, settings_for

SCHEMES = (
    "t5",
    "fire",
    "rope",
    "shaw",
    "transformer-xl",
    "forgetting",
    "disentangled",
    "gated-t5",
    "profile-mixture",
    "cable",
)
STOPPED = "stopped"


def run(folder, name, ranks=1, **changes):
    """A comparison in folder/name by processes of which so many share each window, stored after every step."""
    # Stretches of an odd length differ by a token.
    sizes = {"train_length": 17, "steps": 3, "layers": 1, "length_multiples": (1, 3), "schemes": SCHEMES}
    progress = Losses()
    settings = settings_for(folder / "words.txt", **sizes | changes)
    compared = compare_schemes(
        settings, folder / name, progress=progress, save_seconds=0.0, context_parallel=ranks, resume=True
    )
    kind = PartialState().distributed_type.value
    return {"kind": kind, "losses": progress.losses, "continued": progress.continued, "results": compared.results}


def main(folder):
    torch.set_num_threads(1)
    TASKS["text"] = Ragged
    import time

    with processes.joined():
        t = time.time()
        found = {"two": run(folder, "two", 2)}
        print("two", time.time() - t)
        t = time.time()
        found["four"] = run(folder, "four", 4, schemes=("t5", "rope", "forgetting"))
        print("four", time.time() - t)
        t = time.time()
        many_processes.use_fsdp2_on_cpu()
        found["fsdp"] = run(folder, "fsdp", 2, schemes=("t5", "shaw", "forgetting"))
        print("fsdp", time.time() - t)
        t = time.time()
        (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
