"""Which products of a warpgroup may read what a thread stored, or cp.async copied, with no proxy fence in between.

A product reads shared memory by another road (the asynchronous proxy) than it is written. A copy counts as written from the
wait that ends it. Every path through a kernel counts, and a product reads what was written if their ranges of addresses
overlap. The emulator knows the addresses, and follows the path of one call.
"""

from ops.triton.emulator.ptx import Program
from ops.triton.emulator.warpgroups import addresses, matrices
from ops.triton.ranges import ranges

_ANYWHERE = (0, 2**20)
_GROUPS = 32  # of copies on their way, which are told apart
_OF_A_DESCRIPTOR = 14  # the bits that hold an address, in units of 16 bytes


def unfenced(ptx):
    """The places of these products in the code of a kernel."""
    if "wgmma.mma_async" not in ptx:  # another GPU's, whose instructions the emulator may not know
        return []
    program = Program(ptx)
    known = ranges(program, ("cp", "st", "stmatrix", "wgmma"))
    written = {
        place: _written(program.code[place], known[place])
        for place in known
        if _copies(program.code[place]) or _stores(program.code[place])
    }
    found = set()
    for place, dirty in _products(program):
        spans = [_read(matrix, known[place]) for matrix in matrices(program.code[place]) if matrix is not None]
        if any(low < written[write][1] and written[write][0] < high for write in dirty for low, high in spans):
            found.add(place)
    return sorted(found)


def _copies(instruction):
    return instruction.text.startswith(("cp.async.ca", "cp.async.cg"))


def _multiplies(instruction):
    return instruction.text.startswith("wgmma.mma_async")


def _stores(instruction):
    return instruction.text.startswith(("st.shared", "stmatrix"))


def _written(instruction, known):
    """The bytes that a copy or a store may write: from .. up to."""
    to, source, *rest = instruction.operands
    low, high = (0, 0) if to.base is None else known[to.base] or _ANYWHERE
    if _copies(instruction):
        size = rest[0].bits
    elif instruction.name == "stmatrix":
        size = 16
    else:
        size = instruction.size * (len(source) if isinstance(source, list) else 1)
    return low + to.offset, high + to.offset + size


def _read(matrix, known):
    """The bytes that a product may read of an operand: from .. up to."""
    low, high = known[matrix.descriptor] or _ANYWHERE
    if low < 0 or low >> _OF_A_DESCRIPTOR != high >> _OF_A_DESCRIPTOR:
        return _ANYWHERE
    places = addresses(low, matrix)
    return places.min() & -128, (places.max() | 127) + 1 + 16 * (high - low)  # rows of 128 bytes are swizzled within


def _products(program):
    """Along every path, each product with the writes, by their places, that no fence follows before it.

    On the way, `dirty` are those, and `groups` the copies on their way: one set for each group, the open one last.
    """
    begins = program.targets
    seen, todo = set(), [(0, frozenset(), (frozenset(),))]
    while todo:
        state = first, dirty, groups = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        for place, instruction in enumerate(program.code[first:], first):
            if place in begins and place != first:
                todo.append((place, dirty, groups))
                break
            if _copies(instruction):
                groups = (*groups[:-1], groups[-1] | {place})
            elif _stores(instruction):
                dirty |= {place}
            elif instruction.text.startswith("cp.async.commit_group"):
                groups = (*groups, frozenset())
                if len(groups) > _GROUPS:
                    groups = (groups[0] | groups[1], *groups[2:])
            elif instruction.text.startswith("cp.async.wait_all"):
                dirty, groups = dirty.union(*groups), (frozenset(),)
            elif instruction.text.startswith("cp.async.wait_group"):
                ended = max(len(groups) - 1 - instruction.operands[0].bits, 0)
                dirty, groups = dirty.union(*groups[:ended]), groups[ended:]
            elif instruction.text.startswith("fence.proxy.async"):
                dirty = frozenset()
            elif _multiplies(instruction):
                yield place, dirty
            elif instruction.name == "bra":
                todo.append((program.labels[instruction.operands[0]], dirty, groups))
            if instruction.name in ("bra", "ret", "exit") and instruction.predicate is None:
                break
