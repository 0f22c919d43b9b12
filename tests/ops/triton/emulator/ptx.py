"""The text of a compiled kernel as a list of instructions."""

import copy
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

DTYPES = {
    **dict.fromkeys(("pred",), np.bool_),
    **dict.fromkeys(("b8", "u8"), np.uint8),
    **dict.fromkeys(("b16", "u16", "bf16"), np.uint16),
    **dict.fromkeys(("b32", "u32", "bf16x2", "f16x2", "tf32"), np.uint32),
    **dict.fromkeys(("b64", "u64"), np.uint64),
    "s8": np.int8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "f16": np.uint16,
    "f32": np.float32,
    "f64": np.float64,
}
"""numpy's of PTX's types. Half precision is held as its bits."""

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class EmulatorError(Exception):
    """What the emulator cannot go on after, or does not know."""


class Address(NamedTuple):
    """[base + offset]: base is a register, a parameter of the kernel, or None, where shared memory begins."""

    base: str | None
    offset: int


class Constant:
    """A number in the text: its bits."""

    def __init__(self, bits):
        self.bits, self._arrays = bits, {}

    def of(self, dtype):
        if dtype not in self._arrays:
            size = np.dtype(dtype).itemsize
            bits = np.array([self.bits % 2 ** (8 * size)], UNSIGNED[size])
            self._arrays[dtype] = bits != 0 if dtype == np.bool_ else bits.view(dtype)
        return self._arrays[dtype]


@dataclass
class Instruction:
    """One instruction: `@predicate name.parts operands;`, and the line of Python that it comes from."""

    text: str
    place: str
    predicate: str | None
    negated: bool
    parts: list[str]
    operands: list

    @property
    def name(self):
        return self.parts[0]

    @cached_property
    def type(self):
        """The last type in its name."""
        return next(part for part in reversed(self.parts) if part in DTYPES)

    @cached_property
    def dtype(self):
        return DTYPES[self.type]

    @cached_property
    def size(self):
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


class Program:
    """A kernel: its parameters, as (name, type), the threads of a block, and its code."""

    def __init__(self, text):
        self.text = text
        head, body = text.split("\n{", 1)
        self.name = re.search(r"\.entry (\w+)", head)[1]
        self.parameters = re.findall(r"\.param\s+\.(\w+)(?:\s+\.ptr[^,\n]*?)?\s+(\w+_param_\d+)", head)
        self.parameters = [(name, kind) for kind, name in self.parameters]
        self.threads = int(re.search(r"\.reqntid (\d+)", text)[1])
        self._files = dict(re.findall(r'\.file\s+(\d+) "([^"]+)"', text))
        self.code, self.labels = [], {}
        self._read(body[: body.index("\n}")])

    def _read(self, body):
        place, unfinished = "", ""
        for line in body.splitlines():
            line = line.split("//")[0].strip()
            if line.startswith(".loc"):
                _, file, number, *_ = line.split()
                place = f"{self._files.get(file, file).split('/')[-1]}:{number}"
            elif label := re.fullmatch(r"([$\w]+):", line):
                self.labels[label[1]] = len(self.code)
            else:
                *statements, unfinished = f"{unfinished} {line}".split(";")
                for statement in statements:
                    self._add(statement.lstrip("{} "), place)  # braces around inline assembly

    def _add(self, statement, place):
        if not statement or statement.startswith("."):
            return
        found = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", statement, re.S)
        if found is None:
            raise EmulatorError(f"cannot read {statement!r}")
        operands = [_operand(text) for text in _split(found[4])]
        self.code.append(Instruction(statement, place, found[2], bool(found[1]), found[3].split("."), operands))

    @property
    def targets(self):
        """The places to which jumps go."""
        return {self.labels[instruction.operands[0]] for instruction in self.code if instruction.name == "bra"}

    def without(self, place):
        """The same program without one instruction."""
        twin = copy.copy(self)
        twin.code = [*self.code[:place], *self.code[place + 1 :]]
        twin.labels = {label: at - (at > place) for label, at in self.labels.items()}
        return twin

    def stopping(self, place):
        """The same program with an instruction in this place that nobody knows."""
        twin = copy.copy(self)
        stop = Instruction("stop", self.code[place].place, None, False, ["stop"], [])
        twin.code = [*self.code[:place], stop, *self.code[place + 1 :]]
        return twin


def _split(text):
    """At the commas outside of brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


def _operand(text):
    """A register, label or name as text; a Constant; an Address; {several} or %p1|%p2 as a list."""
    if text[0] == "{":
        return [_operand(part) for part in _split(text[1:-1])]
    if text[0] == "[":
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return Address(None if base == "global_smem" else base, int(offset or "0", 0))
    if "|" in text:
        return text.split("|")
    if text.startswith(("0f", "0d")):
        return Constant(int(text[2:], 16))
    if re.fullmatch(r"-?(0x)?[0-9a-fA-F]+U?", text) and (text[0].isdigit() or text[0] == "-"):
        return Constant(int(text.rstrip("U"), 0))
    if text.startswith("global_smem"):
        return Constant(int(text.partition("+")[2] or "0", 0))
    return text
