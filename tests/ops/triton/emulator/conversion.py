"""Moves and conversions between types."""

import numpy as np

from ops.triton.emulator import half
from ops.triton.emulator.isa import instruction
from ops.triton.emulator.ptx import DTYPES, UNSIGNED, EmulatorError


@instruction("mov")
def _mov(block, ins, mask):
    """Also from one register to several, and back: the first has the low bits."""
    to, source = ins.operands
    if isinstance(to, list):
        bits = block.read(source, UNSIGNED[ins.size])
        part = UNSIGNED[ins.size // len(to)]
        for place, register in enumerate(to):
            block.write(register, (bits >> bits.dtype.type(8 * part().itemsize * place)).astype(part), mask)
    elif isinstance(source, list):
        whole = UNSIGNED[ins.size]
        part = UNSIGNED[ins.size // len(source)]
        bits = np.zeros(1, whole)
        for place, register in enumerate(source):
            bits = bits | (block.read(register, part).astype(whole) << whole(8 * part().itemsize * place))
        block.write(to, bits, mask)
    else:
        block.write(to, block.read(source, ins.dtype), mask)


@instruction("cvta")
def _cvta(block, ins, mask):
    block.write(ins.operands[0], block.read(ins.operands[1], np.uint64), mask)


@instruction("cvt")
def _cvt(block, ins, mask):
    into, source = [part for part in ins.parts if part in DTYPES]
    block.write(ins.operands[0], _converted(block, ins, into, source), mask)


def _converted(block, ins, into, source):
    values = block.read(ins.operands[1], DTYPES[source])
    if into in ("bf16x2", "f16x2"):  # the first operand is the upper half
        low = block.read(ins.operands[2], np.float32)
        return half.pair(*(half.from_float(one, into.removesuffix("x2")) for one in (low, values)))
    if into == "tf32":
        return half.truncated_tf32(
            (values.view(np.uint32) + np.uint32(0x1000 if "rna" in ins.parts else 0)).view(np.float32)
        )
    if source in ("bf16", "f16"):
        if into != "f32":
            raise EmulatorError(f"a conversion that the emulator does not know: {ins.text}")
        return half.to_float(values, source)
    if into in ("bf16", "f16"):
        return half.from_float(values, into)
    if source[0] == "f" and into[0] != "f":
        values = np.trunc(values) if "rzi" in ins.parts else np.rint(values)
    # The register may be wider than the type: a signed number keeps its sign there.
    narrow = into[0] == "s" and ins.operands[0].startswith("%r") and not ins.operands[0].startswith("%rs")
    values = values.astype(DTYPES[into])
    return values.astype(np.int64 if ins.operands[0].startswith("%rd") else np.int32) if narrow else values
