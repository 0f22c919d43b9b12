"""wgmma, Hopper's product of four warps: it reads shared memory and writes registers behind the back of the threads."""

import re
from typing import NamedTuple

import numpy as np

from ops.triton.emulator import half
from ops.triton.emulator.isa import instruction
from ops.triton.emulator.products import matrix
from ops.triton.emulator.ptx import Constant, EmulatorError


class Products:
    """Those in flight: committed groups and the open one, each the registers written and the bytes read."""

    def __init__(self):
        self.groups, self.open = [], ([], [])
        self.writing = frozenset()

    def note_writing(self):
        self.writing = frozenset(register for registers, _ in [*self.groups, self.open] for register in registers)


@instruction("wgmma")
def _wgmma(block, ins, mask):
    products = block.products
    if ins.parts[1] == "commit_group":
        products.groups.append(products.open)
        products.open = ([], [])
    elif ins.parts[1] == "wait_group":
        while len(products.groups) > ins.operands[-1].bits:
            _, reads = products.groups.pop(0)
            for places, warpgroup in reads:
                block.shared.product_ends(places, warpgroup)
    elif ins.parts[1] == "mma_async":
        _start(block, ins)
    products.note_writing()


class Matrix(NamedTuple):
    """An operand in shared memory, of rows x depth numbers: the register that holds its descriptor."""

    descriptor: str
    rows: int
    depth: int
    kind: str
    transposed: bool

    @property
    def size(self):
        """Bytes of a number."""
        return 4 if self.kind == "tf32" else 2


def matrices(ins):
    """A, or None if it is in registers, and B."""
    _, left, right, _, *flags = ins.operands
    columns, depth = map(int, re.search(r"m64n(\d+)k(\d+)", ins.text).groups())
    of_registers = isinstance(left, list)
    if not of_registers and len(flags) == 4:
        transposed = [flag.bits for flag in flags[2:]]
    else:
        transposed = [0, flags[2].bits if len(flags) > 2 else 0]
    a = None if of_registers else Matrix(left, 64, depth, ins.parts[-1], transposed[0])
    return a, Matrix(right, columns, depth, ins.parts[-1], transposed[1])


def _start(block, ins):
    """D = A B^T, + D if `accumulate`: A is 64 x K, of shared memory or registers, B N x K of shared memory."""
    to, left, _, accumulate, *flags = ins.operands
    a, b = matrices(ins)
    columns = b.rows
    sign = _sign(flags[0]) * _sign(flags[1])
    groups = block.warps // 4
    if a is None:
        rows = matrix(block, left, b.kind).reshape(groups, 64, b.depth)
    else:
        rows = [_fetch(block, a, group) for group in range(groups)]
    others = [_fetch(block, b, group) for group in range(groups)]
    product = sign * np.stack([x.astype(np.float64) @ y.astype(np.float64).T for x, y in zip(rows, others, strict=True)])
    # As of mma, one beside the other: a warp has 16 rows.
    product = product.reshape(block.warps, 2, 8, columns // 8, 4, 2)
    adds = block.read(accumulate, np.bool_).all() if not isinstance(accumulate, Constant) else accumulate.bits != 0
    for place, register in enumerate(to):
        part = product[:, place % 4 // 2, :, place // 4, :, place % 2].reshape(block.size)
        if adds:  # also what a wgmma in flight writes: the hardware puts these in order
            part = part + block.registers[register].view(np.float32)
        block.registers[register] = part.astype(np.float32).view(np.uint32)
    block.products.open[0].extend(to)


def _sign(flag):
    return -1 if flag.bits % 2**32 == 2**32 - 1 else 1


def _fetch(block, operand, group):
    """(rows, depth) of a matrix in shared memory."""
    ins = block.instruction
    descriptors = block.each(operand.descriptor, np.uint64)[128 * group : 128 * group + 128]
    if (descriptors != descriptors[0]).any():
        raise EmulatorError(f"the descriptors of a warpgroup differ at {ins.place}")
    places = (addresses(int(descriptors[0]), operand).reshape(-1, 1) + np.arange(operand.size)).ravel()
    data = block.shared.read_by_product(places, group, ins)
    block.products.open[1].append((places, group))
    if operand.kind == "tf32":
        values = half.truncated_tf32(data.view(np.float32))
    else:
        values = half.to_float(data.view(np.uint16), operand.kind)
    return values.reshape(operand.rows, operand.depth)


def addresses(descriptor, operand):
    """Where each number of a matrix begins, by its descriptor: atoms of 8 swizzled rows of 128, 64 or 32 bytes.

    Bits 0 .. 13 hold the address of the matrix, 16 .. 29 the distance of atoms along the contiguous dimension, 32 .. 45 that
    along the other, all in units of 16 bytes; 49 .. 51 an offset; 62 and 63 the swizzle.
    """
    start, along, across = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62)
    if width is None or (descriptor >> 49) & 7:
        raise EmulatorError(f"a descriptor that the emulator does not know: {descriptor:#x}")
    size = operand.size
    row, column = np.arange(operand.rows)[:, None], np.arange(operand.depth)[None, :]
    if operand.transposed:
        per_atom = width // size
        places = start + row // per_atom * along + column // 8 * across + column % 8 * width + row % per_atom * size
    else:
        if operand.depth * size > width:
            raise EmulatorError("a wgmma deeper than an atom")
        places = start + row // 8 * across + row % 8 * width + column * size
    return places ^ (((places >> 7) & (width // 16 - 1)) << 4)
