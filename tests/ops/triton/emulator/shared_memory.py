"""Shared memory of a block, and for each byte what has to happen before it may be read or written.

A phase is the time between two barriers. A warp that reads what another wrote in the same phase, or writes what another read
or wrote, is in a race. cp.async writes behind the back of the threads until its wait; a wgmma reads through another proxy,
which sees what threads and cp.async wrote only after fence.proxy.async.
"""

import numpy as np

from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import EmulatorError

SEVERAL = 255
"""In place of a warp's number."""


class SharedMemory:
    def __init__(self, size, problems):
        self.size, self.problems = size, problems
        self.data = np.full(size, 255, np.uint8)
        self.written, self.copied_into, self.unfenced = (np.zeros(size, np.bool_) for _ in range(3))
        self.product_reads = np.zeros(size, np.int16)  # of wgmmas in flight
        self.phase = 1
        self.last_write, self.last_read = (np.zeros(size, np.int32) for _ in range(2))  # 256 * phase + warp

    def places(self, addresses, size, ins):
        """(accesses, bytes)"""
        if len(addresses) and (addresses.min() < 0 or addresses.max() + size > self.size):
            raise EmulatorError(
                f"shared memory ends at {self.size}, and {ins.text} at {ins.place} goes to {addresses.max() + size}"
            )
        if (addresses % size).any():
            self.problem("a misaligned access of shared memory", ins)
        return addresses[:, None] + np.arange(size)

    def problem(self, kind, ins):
        self.problems[kind, ins.place] += 1

    def by_others(self, tags, warps):
        """Whether in this phase a warp other than these did it."""
        return ((tags >= 256 * self.phase) & (tags != 256 * self.phase + warps)).any()

    def read(self, addresses, size, warps, ins):
        places, warps = self.places(addresses, size, ins), warps[:, None]
        if self.copied_into[places].any():
            self.problem("the destination of a cp.async is read before its wait", ins)
        if not self.written[places].all():
            self.problem("shared memory is read before it is written", ins)
        if self.by_others(self.last_write[places], warps):
            self.problem("race: a warp reads what another wrote, and no barrier is between", ins)
        self.reads(places, warps)
        return self.data[places]

    def reads(self, places, warps):
        """Keep who reads, for races."""
        before, own = self.last_read[places], 256 * self.phase + warps
        self.last_read[places] = np.where((before < 256 * self.phase) | (before == own), own, 256 * self.phase + SEVERAL)

    def write(self, addresses, data, warps, ins):
        places, warps = self.places(addresses, data.shape[1], ins), warps[:, None]
        if self.copied_into[places].any():
            self.problem("the destination of a cp.async is written before its wait", ins)
        if self.by_others(self.last_write[places], warps):
            self.problem("race: a warp writes what another wrote, and no barrier is between", ins)
        self.before_write(places, warps, ins)
        self.data[places] = data
        self.written[places] = self.unfenced[places] = True
        self.last_write[places] = 256 * self.phase + warps

    def before_write(self, places, warps, ins):
        """What may still read these bytes."""
        if self.by_others(self.last_read[places], warps):
            self.problem("race: a warp writes what another read, and no barrier is between", ins)
        if self.product_reads[places].any():
            self.problem("shared memory is written while a wgmma in flight reads it", ins)

    def read_by_product(self, places, warpgroup, ins):
        """A wgmma begins to read."""
        if places.min() < 0 or places.max() >= self.size:
            raise EmulatorError(f"a wgmma reads beyond shared memory at {ins.place}")
        if self.copied_into[places].any():
            self.problem("a wgmma reads the destination of a cp.async before its wait", ins)
        if not self.written[places].all():
            self.problem("a wgmma reads shared memory that was not written", ins)
        if self.unfenced[places].any():
            self.problem("a wgmma reads what no fence.proxy.async has made visible", ins)
        if (self.last_write[places] >= 256 * self.phase).any():
            self.problem("race: a wgmma reads what was written, and no barrier is between", ins)
        self.product_reads[places] += 1
        return self.data[places]

    def product_ends(self, places, warpgroup):
        self.product_reads[places] -= 1
        self.reads(places, np.int32(4 * warpgroup))


@instruction("bar", "barrier")
def _barrier(block, ins, mask):
    if ins.parts[1] == "warp":
        return
    if mask is not None:
        raise EmulatorError(f"a barrier that only some threads reach, at {ins.place}")
    block.shared.phase += 1


@instruction("fence")
def _fence(block, ins, mask):
    if ins.parts[1:3] == ["proxy", "async"]:
        block.shared.unfenced[:] = False
