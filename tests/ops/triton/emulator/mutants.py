"""Does the emulator see what is missing? It runs kernels with one synchronising instruction taken out.

python -m ops.triton.emulator.mutants TARGET FOLDER CALL prints one JSON object for each: kernel, instruction, place in the
source, and what was seen.
"""

import json
import sys
from dataclasses import replace

from ops.triton.emulator.ptx import EmulatorError
from ops.triton.emulator.run import emulate, prepared

SYNCHRONISING = ("bar.sync", "cp.async.wait_group", "fence.proxy.async", "wgmma.wait_group")


def mutants(launch):
    """Each is one block, without one instruction."""
    for place, instruction in enumerate(launch.program.code):
        if instruction.text.startswith(SYNCHRONISING):
            yield instruction, replace(launch, program=launch.program.without(place))


def seen(mutant):
    """What the emulator says of it."""
    try:
        return sorted(kind for kind, _ in mutant.run(most=1))
    except EmulatorError as error:
        return [str(error)]


def main(target, folder, call):
    device = prepared(target, folder)
    emulate(device, call)
    assert not device.problems, device.problems
    for launch in {launch.program.name: launch for launch in device.launches}.values():
        for instruction, mutant in mutants(launch):
            words = {"kernel": launch.program.name, "instruction": instruction.text, "place": instruction.place}
            print(json.dumps(words | {"seen": seen(mutant)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
