"""A launch: all blocks of a grid, one after another in a random order."""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ops.triton.emulator.block import Block
from ops.triton.emulator.global_memory import GlobalMemory
from ops.triton.emulator.ptx import Program


@dataclass(frozen=True)
class Launch:
    program: Program
    parameters: dict
    """Arrays of one number, by name."""
    grid: tuple
    shared_bytes: int
    storages: list
    """torch's, of the tensors that were passed: what the blocks may access."""

    def run(self, most=None):
        """Run it, or at most so many of its blocks. Returns how often each problem, (kind, place), was seen."""
        problems = Counter()
        memory = GlobalMemory([(one.data_ptr(), one.nbytes()) for one in self.storages], problems)
        blocks = [(x, y) for y in range(self.grid[1]) for x in range(self.grid[0])]
        random.Random(0).shuffle(blocks)
        with np.errstate(all="ignore"):
            for index in blocks[:most]:
                Block(self, index, memory, problems).run()
        return problems
