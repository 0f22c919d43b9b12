"""One block of threads. They run in step: an instruction is one operation of numpy on a value for each thread.

The modules, in the order in which to read them:

    ptx, isa                    the text of a kernel; the table of instructions
    block                       registers, and the way through a kernel
    arithmetic, conversion, half, warps, products           instructions that compute
    global_memory, shared_memory, copies, warpgroups        what is accessed, and the checks of it
    launch, libcuda.c, device   a grid of blocks; the stand-in for a GPU, behind Triton's own compiler and launcher
    calls, run, sweep, mutants  what is emulated, and the programs
    test_checks                 each check, by a few lines of PTX

What it does not model:
- time; and that threads of a block go on at different speed, except for the races that are checked by barriers;
- stale values: a wgmma without its fence is reported, and still gets what was written last. A fence makes visible what any
  thread wrote before, though by the manual each thread fences its own writes before the barrier;
- wgmma.fence, which orders registers before a wgmma;
- caches, and the order in which blocks see each other's writes: that they touch the same bytes at all is reported;
- what ptxas makes of the PTX: registers, spills, serialised wgmmas (`offline` shows them);
- tensor descriptors, mbarriers, clusters, tensor memory (sm_100), atomics: the emulator stops at what it does not know.
"""

from functools import cache

import numpy as np

from ops.triton.emulator import arithmetic, conversion, copies, global_memory, products, shared_memory, warpgroups, warps
from ops.triton.emulator.isa import INSTRUCTIONS
from ops.triton.emulator.ptx import UNSIGNED, Constant, EmulatorError

KNOWN = (arithmetic, conversion, copies, global_memory, products, shared_memory, warpgroups, warps)
"""The modules that define instructions."""


@cache
def _dtype_of(register):
    """By its name."""
    named = {"%p": np.bool_, "%rs": np.uint16, "%rd": np.uint64, "%fd": np.uint64}
    return named.get(register.rstrip("0123456789"), np.uint32)


class Block:
    """A block of a launch.

    Args:
        launch: what is launched.
        index: its place in the grid, (x, y).
        memory: the GlobalMemory of the launch.
        problems: a Counter of (kind, place in the source).
    """

    def __init__(self, launch, index, memory, problems):
        self.program, self.memory, self.problems = launch.program, memory, problems
        self.parameters = launch.parameters
        self.number = index[0] + launch.grid[0] * index[1]
        self.size = launch.program.threads
        self.warps = self.size // 32
        self.thread = np.arange(self.size, dtype=np.uint32)
        self.lane, self.warp = self.thread % 32, (self.thread // 32).astype(np.int32)
        self.shared = shared_memory.SharedMemory(launch.shared_bytes, problems)
        self.copies = copies.Copies()
        self.products = warpgroups.Products()
        zero = np.zeros(1, np.uint32)
        self.registers = {
            "%tid.x": self.thread,
            "%laneid": self.lane,
            "%ctaid.x": zero + index[0],
            "%ctaid.y": zero + index[1],
            "%nctaid.x": zero + launch.grid[0],
            **dict.fromkeys(("%ctaid.z", "%cluster_ctaid.x", "%cluster_ctarank"), zero),
        }

    def problem(self, kind, instruction, count=1):
        self.problems[kind, instruction.place] += int(count)

    def read(self, operand, dtype):
        """The values of a register, one for each thread or one for all, or of a number in the text."""
        if isinstance(operand, Constant):
            return operand.of(dtype)
        if operand in self.products.writing:
            self.problem("a register is read while a wgmma writes it", self.instruction)
        if operand not in self.registers:
            raise EmulatorError(
                f"{operand} is read and was never written, at {self.instruction.place}: {self.instruction.text}"
            )
        values = self.registers[operand]
        if values.dtype == dtype or values.dtype == np.bool_:
            return values
        unsigned = UNSIGNED[np.dtype(dtype).itemsize]
        return (values if values.dtype == unsigned else values.astype(unsigned)).view(dtype)

    def each(self, operand, dtype):
        """As `read`, one for each thread."""
        values = self.read(operand, dtype)
        return values if len(values) == self.size else np.repeat(values, self.size)

    def write(self, register, values, mask):
        """Set a register where the mask says so. A narrower number is extended by 0."""
        if register == "_":
            return
        dtype = _dtype_of(register)
        if values.dtype != dtype:
            if values.dtype != np.bool_:
                values = values.view(UNSIGNED[values.dtype.itemsize])
            values = values.astype(dtype)
        if register in self.products.writing:
            self.problem("a register is written while a wgmma writes it", self.instruction)
        if mask is not None:
            before = self.registers.get(register)
            if before is None:
                before = np.ones(1, np.bool_) if dtype == np.bool_ else np.array([np.iinfo(dtype).max], dtype)
            values = np.where(mask, values, before)
        self.registers[register] = values

    def address(self, operand):
        """The address of each thread."""
        if operand.base is None:
            return np.full(self.size, operand.offset, np.int64)
        register = self.registers[operand.base]
        return self.each(operand.base, register.dtype).astype(np.int64) + operand.offset

    def threads(self, mask):
        """The numbers of the threads of a mask."""
        return np.arange(self.size) if mask is None else np.nonzero(np.broadcast_to(mask, (self.size,)))[0]

    def run(self):
        """Run to the end. Where threads went apart, those that are furthest behind go first."""
        code, end = self.program.code, len(self.program.code)
        at = 0  # an instruction, of all threads; or one of each
        while True:
            mask, place = None, at
            if not isinstance(at, int):
                place = int(at.min())
                mask = at == place
                if mask.all():
                    at, mask = place, None
            if place == end:
                return
            instruction = self.instruction = code[place]
            if instruction.name in ("bra", "ret", "exit"):
                target = self.program.labels[instruction.operands[0]] if instruction.name == "bra" else end
                at = self._jump(at, place, mask, target)
                continue
            self._execute(instruction, mask)
            at = place + 1 if mask is None else np.where(mask, place + 1, at)

    def _jump(self, at, place, mask, target):
        taken = self._predicate(self.instruction)
        if mask is None and (taken is None or taken.all()):
            return target
        if mask is None and not taken.any():
            return place + 1
        goes = np.where(True if taken is None else taken, target, place + 1)
        return np.where(True if mask is None else mask, goes, at) + np.zeros(self.size, np.int64)

    def _predicate(self, instruction):
        if instruction.predicate is None:
            return None
        values = self.read(instruction.predicate, np.bool_)
        return ~values if instruction.negated else values

    def _execute(self, instruction, mask):
        predicate = self._predicate(instruction)
        if predicate is not None and not (mask is None and predicate.all()):
            mask = np.broadcast_to(predicate if mask is None else predicate & mask, (self.size,))
        function = INSTRUCTIONS.get(instruction.name)
        if function is None:
            raise EmulatorError(f"an instruction that the emulator does not know: {instruction.text}")
        function(self, instruction, mask)
