"""Products of a warp, and the moves of 8 x 8 matrices between registers and shared memory."""

import re

import numpy as np

from ops.triton.emulator import half
from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import EmulatorError


def matrix(block, registers, kind):
    """(warps, 16, K) of the four registers that a thread holds of the first operand of a product."""
    top_left, bottom_left, top_right, bottom_right = fragments(block, registers, kind)
    left, right = np.concatenate([top_left, bottom_left], 1), np.concatenate([top_right, bottom_right], 1)
    return np.concatenate([left, right], 2)


def fragments(block, registers, kind):
    """(warps, 8, 8) of halves, or (warps, 8, 4) of TF32, for each register: four threads hold a row."""
    values = [block.each(register, np.uint32) for register in registers]
    if kind == "tf32":
        return [half.truncated_tf32(one.view(np.float32)).reshape(block.warps, 8, 4) for one in values]
    return [half.to_float(one.view(np.uint16), kind).reshape(block.warps, 8, 8) for one in values]


@instruction("mma")
def _mma(block, ins, mask):
    """D = A B^T + C with A 16 x K and B 8 x K."""
    to, left, right, add = ins.operands
    shape, kind = ins.parts[3], ins.parts[-3]
    if (shape, kind) not in (("m16n8k16", "bf16"), ("m16n8k16", "f16"), ("m16n8k8", "tf32")) or mask is not None:
        raise EmulatorError(f"a product that the emulator does not know: {ins.text}")
    left = matrix(block, left, kind)
    right = np.concatenate(fragments(block, right, kind), 2)
    product = left.astype(np.float64) @ right.astype(np.float64).transpose(0, 2, 1)  # (warps, 16, 8)
    # A thread holds two neighbours of a row, and the two that lie 8 rows below.
    product = product.reshape(block.warps, 2, 8, 4, 2)
    for place, (register, other) in enumerate(zip(to, add, strict=True)):
        part = product[:, place // 2, :, :, place % 2].reshape(block.size)
        block.write(register, (part + block.each(other, np.float32)).astype(np.float32), mask)


def _rows(block, operand, count):
    """The addresses of 8 rows of `count` matrices, which the lanes 0 .. 8 * count - 1 of each warp hold; and the warps."""
    addresses = block.address(operand).reshape(block.warps, 32)[:, : 8 * count]
    return addresses.ravel(), np.repeat(np.arange(block.warps, dtype=np.int32), 8 * count)


def _count(ins):
    return int(re.search(r"\.x(\d)", ins.text)[1])


@instruction("ldmatrix")
def _load_matrices(block, ins, mask):
    to, source = ins.operands
    to = to if isinstance(to, list) else [to]
    addresses, warps = _rows(block, source, _count(ins))
    halves = block.shared.read(addresses, 16, warps, ins).view(np.uint16).reshape(block.warps, len(to), 8, 8)
    if "trans" in ins.parts:
        halves = halves.transpose(0, 1, 3, 2)
    words = np.ascontiguousarray(halves).view(np.uint32).reshape(block.warps, len(to), 32)
    for place, register in enumerate(to):
        block.write(register, words[:, place].reshape(block.size), mask)


@instruction("stmatrix")
def _store_matrices(block, ins, mask):
    to, source = ins.operands
    source = source if isinstance(source, list) else [source]
    addresses, warps = _rows(block, to, _count(ins))
    words = np.stack([block.each(register, np.uint32).reshape(block.warps, 32) for register in source], 1)
    halves = words.view(np.uint16).reshape(block.warps, len(source), 8, 8)
    if "trans" in ins.parts:
        halves = halves.transpose(0, 1, 3, 2)
    rows = np.ascontiguousarray(halves).view(np.uint8).reshape(-1, 16)
    block.shared.write(addresses, rows, warps, ins)
