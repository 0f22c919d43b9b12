"""Integers, bits and float32: what a register gets from others of its type."""

import numpy as np

from ops.triton.emulator import half
from ops.triton.emulator.isa import INSTRUCTIONS, instruction
from ops.triton.emulator.ptx import EmulatorError

U32, U64, I64, F32, F64 = np.uint32, np.uint64, np.int64, np.float32, np.float64
HALVES = ("bf16", "f16", "bf16x2", "f16x2")
WIDE = {"s16": np.int32, "u16": U32, "s32": I64, "u32": U64}


def _of_halves(block, operands, kind, function, mask):
    """On bfloat16 or float16, or on two in 32 bits: in float32, rounded once."""
    if kind not in HALVES:
        raise EmulatorError(f"{kind} is neither bfloat16 nor float16: {block.instruction.text}")
    to, *operands = operands
    if kind.endswith("x2"):
        pairs = [block.read(operand, U32) for operand in operands]
        kind = kind.removesuffix("x2")
        parts = [[half.to_float(part(one), kind) for one in pairs] for part in (half.low, half.high)]
        low, high = (half.from_float(function(*numbers), kind) for numbers in parts)
        block.write(to, half.pair(low, high), mask)
    else:
        numbers = [half.to_float(block.read(operand, np.uint16), kind) for operand in operands]
        block.write(to, half.from_float(function(*numbers), kind), mask)


def _plain(name, function):
    """An instruction whose result has the type of its operands."""

    def execute(block, ins, mask):
        if ins.type in HALVES:
            _of_halves(block, ins.operands, ins.type, function, mask)
            return
        to, *operands = ins.operands
        block.write(to, function(*(block.read(operand, ins.dtype) for operand in operands)), mask)

    INSTRUCTIONS[name] = execute


for _name, _function in {
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "abs": np.abs,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.bitwise_not,
    "sqrt": np.sqrt,
    "rcp": lambda x: F32(1) / x,
    "rsqrt": lambda x: F32(1) / np.sqrt(x),
    "lg2": np.log2,
}.items():
    _plain(_name, _function)


@instruction("ex2")
def _ex2(block, ins, mask):
    x = block.read(ins.operands[1], F32)
    block.write(ins.operands[0], half.flushed(np.exp2(half.flushed(x))) if "ftz" in ins.parts else np.exp2(x), mask)


@instruction("mul", "mad")
def _mul(block, ins, mask):
    to, *operands = ins.operands
    if ins.type[0] in "fb":
        if ins.type in ("f32", "f64"):
            block.write(to, np.multiply(*(block.read(operand, ins.dtype) for operand in operands)), mask)
        else:
            _of_halves(block, ins.operands, ins.type, np.multiply, mask)
        return
    wide = WIDE.get(ins.type)
    x, y = (block.read(operand, ins.dtype) for operand in operands[:2])
    if "wide" in ins.parts:
        product = x.astype(wide) * y.astype(wide)
    elif "hi" in ins.parts:
        product = ((x.astype(wide) * y.astype(wide)) >> wide(32)).astype(ins.dtype)
    else:
        product = x * y
    block.write(to, product + block.read(operands[2], product.dtype) if ins.name == "mad" else product, mask)


@instruction("fma")
def _fma(block, ins, mask):
    to, *operands = ins.operands
    if ins.type == "f64":
        x, y, z = (block.read(operand, F64).astype(np.longdouble) for operand in operands)
        block.write(to, (x * y + z).astype(F64), mask)
        return
    if ins.type != "f32":
        _of_halves(block, ins.operands, ins.type, lambda x, y, z: x.astype(F64) * y + z, mask)
        return
    x, y, z = (block.read(operand, F32) for operand in operands)
    if "ftz" in ins.parts:
        x, y, z = half.flushed(x), half.flushed(y), half.flushed(z)
    total = (x.astype(F64) * y + z).astype(F32)
    block.write(to, half.flushed(total) if "ftz" in ins.parts else total, mask)


@instruction("div", "rem")
def _div(block, ins, mask):
    x, y = (block.read(operand, ins.dtype) for operand in ins.operands[1:])
    if ins.type[0] == "f":
        result = x / y
    else:
        y = np.where(y == 0, y.dtype.type(1), y)  # of a divergent thread that throws the result away
        rest = np.fmod(x, y)
        result = rest if ins.name == "rem" else (x - rest) // y
    block.write(ins.operands[0], result, mask)


@instruction("min", "max")
def _min_max(block, ins, mask):
    least = ins.name == "min"
    choose = (np.fmin if least else np.fmax) if ins.type[0] == "f" else (np.minimum if least else np.maximum)
    if "NaN" in ins.parts:
        choose = np.minimum if least else np.maximum
    to, first, *others = ins.operands
    result = block.read(first, ins.dtype)
    for other in others:
        result = choose(result, block.read(other, ins.dtype))
    block.write(to, np.maximum(result, ins.dtype(0)) if "relu" in ins.parts else result, mask)


@instruction("shl", "shr")
def _shift(block, ins, mask):
    """Beyond the width, all bits are gone; of a signed number all become its sign."""
    x, by = block.read(ins.operands[1], ins.dtype), block.read(ins.operands[2], U32)
    bits = 8 * ins.size
    shift = np.left_shift if ins.name == "shl" else np.right_shift
    result = shift(x, np.minimum(by, U32(bits - 1)).astype(ins.dtype))
    signed = ins.name == "shr" and ins.type[0] == "s"
    block.write(ins.operands[0], result if signed else np.where(by >= bits, ins.dtype(0), result), mask)


@instruction("shf")
def _funnel(block, ins, mask):
    """32 bits of 64, high and low."""
    low, high, by = (block.read(operand, U32) for operand in ins.operands[1:])
    by = (by & U32(31) if "wrap" in ins.parts else np.minimum(by, U32(32))).astype(U64)
    both = (high.astype(U64) << U64(32)) | low
    result = (both << by) >> U64(32) if "l" in ins.parts else both >> by
    block.write(ins.operands[0], result.astype(U32), mask)


@instruction("bfe")
def _extract(block, ins, mask):
    x, first, count = (block.read(operand, U32) for operand in ins.operands[1:])
    bits = (x >> first) & ((U32(1) << count) - U32(1))
    if ins.type == "s32":
        sign = U32(1) << (count - U32(1))
        bits = (bits ^ sign) - sign
    block.write(ins.operands[0], bits, mask)


@instruction("bfi")
def _insert(block, ins, mask):
    bits, into, first, count = (block.read(operand, U32) for operand in ins.operands[1:])
    place = ((U32(1) << count) - U32(1)) << first
    block.write(ins.operands[0], (into & ~place) | ((bits << first) & place), mask)


@instruction("prmt")
def _permute(block, ins, mask):
    """Any four of eight bytes; 8 added to a byte's number repeats its sign."""
    low, high, selector = np.broadcast_arrays(*(block.read(operand, U32) for operand in ins.operands[1:]))
    both = (high.astype(U64) << U64(32)) | low
    result = np.zeros(both.shape, U32)
    for place in range(4):
        chosen = (selector >> U32(4 * place)) & U32(15)
        byte = ((both >> ((chosen & U32(7)).astype(U64) * U64(8))) & U64(0xFF)).astype(U32)
        byte = np.where(chosen & U32(8), np.where(byte & U32(0x80), U32(0xFF), U32(0)), byte)
        result |= byte << U32(8 * place)
    block.write(ins.operands[0], result, mask)


@instruction("lop3")
def _logic_of_three(block, ins, mask):
    """The bits of the last operand are the result for each of the eight combinations."""
    to, *operands, table = ins.operands
    x, y, z = (block.read(operand, U32) for operand in operands)
    result = np.zeros(1, U32)
    for case in range(8):
        if table.bits >> case & 1:
            result = result | ((x if case & 4 else ~x) & (y if case & 2 else ~y) & (z if case & 1 else ~z))
    block.write(to, result, mask)


@instruction("selp")
def _select(block, ins, mask):
    to, yes, no, condition = ins.operands
    chosen = np.where(block.read(condition, np.bool_), block.read(yes, ins.dtype), block.read(no, ins.dtype))
    block.write(to, chosen, mask)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    **dict.fromkeys(("lt", "lo"), np.less),
    **dict.fromkeys(("le", "ls"), np.less_equal),
    **dict.fromkeys(("gt", "hi"), np.greater),
    **dict.fromkeys(("ge", "hs"), np.greater_equal),
}


@instruction("setp")
def _compare(block, ins, mask):
    """A comparison with NaN is false, one whose name ends in u true."""
    to, *operands = ins.operands
    comparison = ins.parts[1]
    x, y = (block.read(operand, ins.dtype) for operand in operands[:2])
    unordered = np.isnan(x) | np.isnan(y) if ins.type[0] == "f" else np.zeros(1, np.bool_)
    if comparison in ("nan", "num"):
        result = unordered if comparison == "nan" else ~unordered
    elif comparison in COMPARISONS:
        result = COMPARISONS[comparison](x, y) & ~unordered
    else:
        result = COMPARISONS[comparison[:-1]](x, y) | unordered
    if len(operands) == 3:
        other = block.read(operands[2].lstrip("!"), np.bool_)
        combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[ins.parts[2]]
        result = combine(result, ~other if operands[2][0] == "!" else other)
    both = to if isinstance(to, list) else [to]
    for register, values in zip(both, (result, ~result), strict=False):
        block.write(register, values, mask)
