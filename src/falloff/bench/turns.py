"""A turn of a contestant: the function that is timed, or why there is none."""

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[], list[Tensor]]
"""One turn of a contestant: returns the output, and the gradients if the case trains."""


def run_of(forward: Callable[[], Tensor], leaves: list[Tensor], grad_out: Tensor) -> Run:
    """One turn: forward, and backward to the leaves, if any."""

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(bool(leaves)):
            out = forward()
        return [out, *torch.autograd.grad(out, leaves, grad_out)] if leaves else [out]

    return run


def first_line(error: Exception) -> str:
    """Why a contestant takes no part, in one line: a compiler's message may be long.

    >>> first_line(RuntimeError("out of memory\\nand more"))
    'RuntimeError: out of memory'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}"
