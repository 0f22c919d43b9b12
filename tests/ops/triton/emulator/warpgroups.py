"""wgmma, Hopper's product of four warps: it reads shared memory and writes registers behind the back of the threads."""

import re

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


def _start(block, ins):
    """D = A B^T, + D if `accumulate`: A is 64 x K, of shared memory or registers, B N x K of shared memory."""
    to, left, right, accumulate, *flags = ins.operands
    kind = ins.parts[-1]
    columns, depth = map(int, re.search(r"m64n(\d+)k(\d+)", ins.text).groups())
    of_registers = isinstance(left, list)
    if not of_registers and len(flags) == 4:
        transposed = [flag.bits for flag in flags[2:]]
    else:
        transposed = [0, flags[2].bits if len(flags) > 2 else 0]
    sign = _sign(flags[0]) * _sign(flags[1])
    groups = block.warps // 4
    if of_registers:
        rows = matrix(block, left, kind).reshape(groups, 64, depth)
    else:
        rows = [_fetch(block, left, group, 64, depth, kind, transposed[0]) for group in range(groups)]
    others = [_fetch(block, right, group, columns, depth, kind, transposed[1]) for group in range(groups)]
    product = sign * np.stack([a.astype(np.float64) @ b.astype(np.float64).T for a, b in zip(rows, others, strict=True)])
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


def _fetch(block, descriptor, group, rows, depth, kind, transposed):
    """(rows, depth) of a matrix in shared memory."""
    ins = block.instruction
    descriptors = block.each(descriptor, np.uint64)[128 * group : 128 * group + 128]
    if (descriptors != descriptors[0]).any():
        raise EmulatorError(f"the descriptors of a warpgroup differ at {ins.place}")
    size = 4 if kind == "tf32" else 2
    first = _addresses(int(descriptors[0]), rows, depth, size, transposed)
    places = (first.reshape(-1, 1) + np.arange(size)).ravel()
    data = block.shared.read_by_product(places, group, ins)
    block.products.open[1].append((places, group))
    values = half.truncated_tf32(data.view(np.float32)) if kind == "tf32" else half.to_float(data.view(np.uint16), kind)
    return values.reshape(rows, depth)


def _addresses(descriptor, rows, depth, size, transposed):
    """Where each number of a matrix begins, by its descriptor: atoms of 8 swizzled rows of 128, 64 or 32 bytes.

    Bits 0 .. 13 hold the address of the matrix, 16 .. 29 the distance of atoms along the contiguous dimension, 32 .. 45 that
    along the other, all in units of 16 bytes; 49 .. 51 an offset; 62 and 63 the swizzle.
    """
    start, along, across = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62)
    if width is None or (descriptor >> 49) & 7:
        raise EmulatorError(f"a descriptor that the emulator does not know: {descriptor:#x}")
    row, column = np.arange(rows)[:, None], np.arange(depth)[None, :]
    if transposed:
        per_atom = width // size
        addresses = start + row // per_atom * along + column // 8 * across + column % 8 * width + row % per_atom * size
    else:
        if depth * size > width:
            raise EmulatorError("a wgmma deeper than an atom")
        addresses = start + row // 8 * across + row % 8 * width + column * size
    return addresses ^ (((addresses >> 7) & (width // 16 - 1)) << 4)
