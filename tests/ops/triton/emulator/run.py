"""Emulate calls on one target: python -m ops.triton.emulator.run TARGET FOLDER CALLS...

It prints one JSON object a call: what the budget says of values and gradients, and the problems by kind, kernel and line.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import torch

from falloff.ops import triton as implementation
from ops.conformance.budget import Budget
from ops.triton.emulator.calls import case_of, way_of
from ops.triton.emulator.device import Device


def emulate(device, name):
    """A call, forward and backward, held against the definition."""
    case, start, wrong = case_of(name), time.process_time(), None
    budget = Budget(case)
    device.clear()
    try:
        with way_of(name):
            budget.hold(budget.results(*case.run("triton")))
    except AssertionError as error:
        wrong = str(error)
    except RuntimeError as error:
        wrong = f"{device.fault or error}"
    problems = [[*what, count] for what, count in sorted(device.problems.items())]
    kernels = [launch.program.name for launch in device.launches]
    return {"call": name, "wrong": wrong, "problems": problems, "kernels": kernels, "seconds": time.process_time() - start}


def prepared(target, folder):
    """The device, for falloff's calls on tensors of the CPU."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.utils.deterministic.fill_uninitialized_memory = True  # with NaN: what no kernel writes is seen
    torch.use_deterministic_algorithms(True, warn_only=True)
    implementation._interpreted = lambda: True
    return Device(target, Path(folder))


def main(target, folder, *names):
    device = prepared(target, folder)
    for name in names:
        print(json.dumps(emulate(device, name)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
