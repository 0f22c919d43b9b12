"""The least and the greatest number that a register of a kernel may hold: enough for addresses of shared memory.

Shared memory begins at 0, as in the emulator. A range may be too wide, ANY at worst, and never too narrow.
"""

from ops.triton.emulator.ptx import DTYPES, Address, Constant

ANY = (-(2**64), 2**64)
_ROUNDS = 8  # a register whose range still grows then, such as a counter without a bound, may hold ANY number


def ranges(program, names):
    """By place in the code, for the instructions of these names: the ranges of their registers, by name.

    A register that was written before the block of instructions may hold what is written to it anywhere.
    """
    begins, anywhere, unbounded = program.targets, {"%tid.x": (0, program.threads - 1)}, set()
    while True:
        for _ in range(_ROUNDS):
            found, changed, block = {}, set(), _Block(anywhere)
            for place, instruction in enumerate(program.code):
                if place in begins:
                    block = _Block(anywhere)
                if instruction.name in names:
                    found[place] = {name: block.range(name) for name in _registers(instruction.operands)}
                for name, value in block.run(instruction).items():
                    total = ANY if name in unbounded else _union(value, anywhere.get(name, value))
                    if anywhere.get(name) != total:
                        changed.add(name)
                        anywhere[name] = total
            if not changed:
                return found
        unbounded |= changed


def _registers(operands):
    for operand in operands:
        if isinstance(operand, list):
            yield from _registers(operand)
        elif isinstance(operand, Address):
            yield str(operand.base)
        elif isinstance(operand, str):
            yield operand


def _union(*ranges):
    return min(low for low, _ in ranges), max(high for _, high in ranges)


class _Block:
    """The registers along a block of instructions."""

    def __init__(self, anywhere):
        self.anywhere, self.here = anywhere, {}
        self.compared = {}  # by predicate: a comparison, its register and its constant

    def range(self, operand):
        """None: nothing that is written to it was met yet."""
        if isinstance(operand, Constant):
            return operand.bits, operand.bits
        if not isinstance(operand, str) or not operand.startswith(("%r", "%tid.x")):
            return ANY
        return self.here.get(operand, self.anywhere.get(operand))

    def run(self, instruction):
        """The registers that an instruction writes, and their ranges."""
        written = {name for name in _registers(instruction.operands[:1]) if name.startswith("%")}
        self.compared = {at: what for at, what in self.compared.items() if not written & {at, what[1]}}
        if instruction.name in ("st", "stmatrix", "cp", "bra"):
            return {}
        operands = instruction.operands[1:]
        if (
            instruction.name == "setp"
            and instruction.predicate is None
            and isinstance(operands[1], Constant)
            and instruction.type in ("s32", "s64")
        ):
            self.compared[instruction.operands[0]] = (instruction.parts[1], operands[0], operands[1].bits)
        if instruction.name == "selp":
            given = [self._where(operands[0], operands[2], True), self._where(operands[1], operands[2], False)]
        else:
            given = [self.range(operand) for operand in operands]
        if None in given:
            return {}
        numbers = {name for name in written if name.startswith("%r")}
        value = _result(instruction, given) if len(numbers) == 1 else ANY
        for name in numbers:
            before = self.range(name) if instruction.predicate else None
            self.here[name] = _union(value, before) if before else value
        return {name: self.here[name] for name in numbers}

    def _where(self, operand, predicate, true):
        """The range of an operand where a predicate is true, or where it is not."""
        comparison, register, limit = self.compared.get(predicate, (None, None, None))
        if self.range(operand) is None or register != operand:
            return self.range(operand)
        low, high = self.range(operand)
        if high > 2**31 - 1:  # negative, for the comparison
            return low, high
        below, above = (low, min(high, limit - 1)), (max(low, limit + 1), high)
        at_most, at_least = (low, min(high, limit)), (max(low, limit), high)
        sides = {"lt": (below, at_least), "le": (at_most, above), "gt": (above, at_most), "ge": (at_least, below)}
        return sides[comparison][not true] if comparison in sides else (low, high)


def _result(instruction, given):
    """The range of the number that an instruction computes from others."""
    types = [part for part in instruction.parts if part in DTYPES]
    if instruction.name not in _RESULTS or not types or not {*types} <= _INTEGERS or "hi" in instruction.parts:
        return ANY
    if types[0].startswith("u") and min(low for low, _ in given) < 0:
        return ANY
    if instruction.name == "bfe" and types[0].startswith("s"):  # the highest bit of those that are taken is a sign
        return ANY
    size = 64 if "64" in types[0] or "wide" in instruction.parts else 32
    low, high = _RESULTS[instruction.name](*given)
    return (low, high) if -(2 ** (size - 1)) <= low <= high < 2**size else ANY


_INTEGERS = {"b32", "s32", "u32", "b64", "s64", "u64"}


def _product(x, y):
    ends = [one * other for one in x for other in y]
    return min(ends), max(ends)


def _sum(x, y):
    return x[0] + y[0], x[1] + y[1]


def _bits(x, y, *_):
    """Of bits of either: as many as the longer has."""
    high = max(x[1], y[1])
    return (0, 2 ** high.bit_length() - 1) if min(x[0], y[0]) >= 0 else ANY


def _or(x, y):
    lowest = y[0] & -y[0]
    return _sum(x, y) if y[0] == y[1] and x[0] >= 0 and x[1] < lowest else _bits(x, y)


def _and(x, y):
    if y[0] == y[1] and y[0] & (y[0] + 1) == 0 and x[0] >= 0 and x[1] <= y[0]:
        return x  # all that a mask of low bits leaves
    positive = [high for low, high in (x, y) if low >= 0]
    return (0, min(positive)) if positive else ANY


def _shr(x, count, *_):
    return (x[0] >> count[0], x[1] >> count[0]) if x[0] >= 0 and count[0] == count[1] else ANY


_RESULTS = {
    "mov": lambda x: x,
    "cvt": lambda x: x,
    "shfl": lambda x, *_: x,
    "selp": _union,
    "add": _sum,
    "sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "mul": _product,
    "mad": lambda x, y, z: _sum(_product(x, y), z),
    "min": lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "max": lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "shl": lambda x, count: _product(x, (1 << count[0],) * 2) if 0 <= count[0] == count[1] < 64 else ANY,
    "shr": _shr,
    "bfe": lambda x, place, count: _and(_shr(x, place), ((1 << count[0]) - 1,) * 2) if count[0] == count[1] else ANY,
    "and": _and,
    "or": _or,
    "xor": _bits,
}
"""By the first part of an instruction's name."""
