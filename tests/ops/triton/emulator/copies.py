"""cp.async: copies from global to shared memory that have ended for sure only after their wait."""

import numpy as np

from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import EmulatorError


class Copies:
    """Those in flight: committed groups, and the open one. Threads run in step, so all have the same groups."""

    def __init__(self):
        self.groups, self.open = [], []


@instruction("cp")
def _cp(block, ins, mask):
    if ins.parts[1] != "async":
        raise EmulatorError(f"an instruction that the emulator does not know: {ins.text}")
    if ins.parts[2] == "commit_group":
        block.copies.groups.append(block.copies.open)
        block.copies.open = []
    elif ins.parts[2] in ("wait_group", "wait_all"):
        _wait(block, ins.operands[0].bits if ins.operands else 0)
    else:
        _start(block, ins, block.threads(mask))


def _start(block, ins, threads):
    """Bytes are read now and arrive at the wait. `count` of them are copied, the others are 0."""
    to, source, size, *count = ins.operands
    size = size.bits
    count = block.each(count[0], np.uint32)[threads] if count else np.full(len(threads), size)
    if not np.isin(count, (0, size)).all():
        raise EmulatorError(f"a copy of a part of its bytes at {ins.place}")
    data = np.zeros((len(threads), size), np.uint8)
    data[count > 0] = block.memory.read(block.address(source)[threads][count > 0], size, block.number, ins)
    addresses, warps, shared = block.address(to)[threads], block.warp[threads], block.shared
    places = shared.places(addresses, size, ins)
    if shared.copied_into[places].any():
        shared.problem("the destination of a cp.async is copied into again before its wait", ins)
    if shared.by_others(shared.last_write[places], warps[:, None]):
        shared.problem("race: a warp writes what another wrote, and no barrier is between", ins)
    shared.before_write(places, warps[:, None], ins)
    shared.copied_into[places] = True
    block.copies.open.append((addresses, data, warps, ins))


def _wait(block, most):
    """Until at most so many groups are in flight: the bytes count as written now, by the warp that copied them."""
    groups = block.copies.groups
    while len(groups) > most:
        for addresses, data, warps, ins in groups.pop(0):
            block.shared.copied_into[block.shared.places(addresses, data.shape[1], ins)] = False
            block.shared.write(addresses, data, warps, ins)
