"""Does the emulator see what is missing? It runs kernels with one synchronising instruction taken out.

python -m ops.triton.emulator.mutants TARGET FOLDER CALL [BLOCKS] prints one JSON object for each: kernel, instruction, place
in the source, whether a block came there, and what was seen. It runs all blocks of a launch, or so many. Not all are seen: a
second fence or barrier with nothing to order in between changes nothing.
"""

import json
import sys
from dataclasses import replace

from ops.triton.emulator.ptx import EmulatorError
from ops.triton.emulator.run import emulate, prepared

SYNCHRONISING = ("bar.sync", "cp.async.wait_group", "fence.proxy.async", "wgmma.wait_group")


def mutants(launch):
    """The launch without one instruction, for each of them; and with one that stops, in its place."""
    for place, instruction in enumerate(launch.program.code):
        if instruction.text.startswith(SYNCHRONISING):
            without, stopping = launch.program.without(place), launch.program.stopping(place)
            yield instruction, replace(launch, program=without), replace(launch, program=stopping)


def seen(launch, most):
    """What the emulator says of a launch, or of so many of its blocks."""
    try:
        return sorted(kind for kind, _ in launch.run(most))
    except EmulatorError as error:
        return [str(error)]


def main(target, folder, call, most=None):
    device = prepared(target, folder)
    emulate(device, call)
    assert not device.problems, device.problems
    most = most and int(most)
    for launch in {launch.program.name: launch for launch in device.launches}.values():
        for instruction, without, stopping in mutants(launch):
            found = seen(without, most)
            report = {
                "kernel": launch.program.name,
                "instruction": instruction.text.split()[0],
                "place": instruction.place,
                "reached": bool(found or seen(stopping, most)),
                "seen": found,
            }
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
