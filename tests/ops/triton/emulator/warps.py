"""What the threads of a warp do together."""

import numpy as np

from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import EmulatorError


def _whole_warps(ins, mask):
    if mask is not None:
        raise EmulatorError(f"{ins.text} at {ins.place}: only some threads reach it")


@instruction("shfl")
def _shuffle(block, ins, mask):
    """Each thread gets the register of another lane; beyond the warp, its own."""
    _whole_warps(ins, mask)
    to, source, by, *_ = ins.operands
    lane, by = block.lane.astype(np.int64), block.each(by, np.uint32).astype(np.int64)
    other = {"bfly": lane ^ by, "idx": by & 31, "down": lane + by, "up": lane - by}[ins.parts[2]]
    other = np.where((other < 0) | (other > 31), lane, other)
    block.write(
        to[0] if isinstance(to, list) else to, block.each(source, np.uint32)[block.thread - block.lane + other], mask
    )


@instruction("redux")
def _reduce(block, ins, mask):
    _whole_warps(ins, mask)
    reduce = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[ins.parts[2]].reduce
    values = block.each(ins.operands[1], ins.dtype).reshape(block.warps, 32)
    block.write(ins.operands[0], np.repeat(reduce(values, axis=1, dtype=ins.dtype), 32), mask)


@instruction("elect")
def _elect(block, ins, mask):
    leader, elected = ins.operands[0]
    block.write(leader, np.zeros(1, np.uint32), mask)
    block.write(elected, block.lane == 0, mask)


@instruction("membar", "griddepcontrol")
def _nothing(block, ins, mask):
    """Of no effect here: blocks run one after another."""
