"""Global memory: the storages of the tensors that a launch was given, and which blocks read and wrote each byte."""

import ctypes

import numpy as np

from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import UNSIGNED

NOBODY, SEVERAL = -1, -2


class GlobalMemory:
    """What a launch may access.

    Args:
        storages: (address, bytes) of each.
        problems: a Counter of (kind, place in the source).
    """

    def __init__(self, storages, problems):
        self.problems = problems
        storages = sorted(storage for storage in storages if storage[1])
        self.starts, sizes = (np.array([storage[i] for storage in storages], np.int64) for i in (0, 1))
        self.ends = self.starts + sizes
        self.origin = int(self.starts[0])
        # All of the address space from the first byte to the last, of which only the storages are touched.
        span = int(self.ends[-1]) - self.origin
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(self.origin))
        self.shift = np.cumsum(sizes) - sizes - self.starts  # from an address to its place in the two below
        self.reader, self.writer = (np.full(sizes.sum(), NOBODY, np.int32) for _ in range(2))

    def within(self, addresses, size, ins, what):
        """Which of the accesses lie within a storage, and the number of the storage."""
        storage = np.searchsorted(self.starts, addresses, side="right") - 1
        inside = (storage >= 0) & (addresses + size <= self.ends[storage])
        if not inside.all():
            self.problems[f"out of bounds: a global {what}", ins.place] += int((~inside).sum())
        if (addresses % size).any():
            self.problems[f"a misaligned global {what}", ins.place] += int((addresses % size != 0).sum())
        return inside, storage

    def read(self, addresses, size, number, ins):
        """(accesses, bytes) for the block of this number. What lies out of bounds reads as 255."""
        result = np.full((len(addresses), size), 255, np.uint8)
        inside, storage = self.within(addresses, size, ins, "read")
        places = addresses[inside, None] + np.arange(size)
        result[inside] = self.bytes[places - self.origin]
        places += self.shift[storage[inside], None]
        self._race(self.writer[places], number, "a block reads what another block wrote", ins)
        before = self.reader[places]
        self.reader[places] = np.where((before == NOBODY) | (before == number), number, SEVERAL)
        return result

    def write(self, addresses, data, number, ins):
        inside, storage = self.within(addresses, data.shape[1], ins, "write")
        places = addresses[inside, None] + np.arange(data.shape[1])
        self.bytes[places - self.origin] = data[inside]
        places += self.shift[storage[inside], None]
        self._race(self.writer[places], number, "a block writes what another block wrote", ins)
        self._race(self.reader[places], number, "a block writes what another block read", ins)
        self.writer[places] = number

    def _race(self, blocks, number, kind, ins):
        others = (blocks != NOBODY) & (blocks != number)
        if others.any():
            self.problems[f"race: {kind}", ins.place] += int(others.sum())


@instruction("ld")
def _load(block, ins, mask):
    to, source = ins.operands
    if "param" in ins.parts:
        block.write(to, block.parameters[source.base], mask)
        return
    to = to if isinstance(to, list) else [to]
    threads, size = block.threads(mask), ins.size * len(to)
    addresses = block.address(source)[threads]
    data = np.zeros((block.size, size), np.uint8)
    if "global" in ins.parts:
        data[threads] = block.memory.read(addresses, size, block.number, ins)
    else:
        data[threads] = block.shared.read(addresses, size, block.warp[threads], ins)
    for register, values in zip(to, np.ascontiguousarray(data.view(UNSIGNED[ins.size]).T), strict=True):
        if ins.type in ("s8", "s16"):
            values = values.view(ins.dtype).astype(np.int32)
        block.write(register, values, mask)


@instruction("st")
def _store(block, ins, mask):
    to, source = ins.operands
    source = source if isinstance(source, list) else [source]
    values = np.stack([block.each(operand, UNSIGNED[ins.size]) for operand in source], 1).view(np.uint8)
    threads = block.threads(mask)
    addresses = block.address(to)[threads]
    if "global" in ins.parts:
        block.memory.write(addresses, values[threads], block.number, ins)
    else:
        block.shared.write(addresses, values[threads], block.warp[threads], ins)
