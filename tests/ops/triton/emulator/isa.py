"""The instructions that are known: a function of (block, instruction, mask) for each first part of a name.

`mask` says which threads run it, a bool for each thread; None: all.
"""

INSTRUCTIONS = {}


def instruction(*names):
    """A decorator: this function executes the instructions of these names."""

    def register(function):
        INSTRUCTIONS.update(dict.fromkeys(names, function))
        return function

    return register
