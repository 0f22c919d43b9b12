"""A turn: what a contestant is timed for, or why it has none."""

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[], list[Tensor]]
"""One turn of a contestant: the output, and the gradients where the case trains."""


def run_of(forward: Callable[[], Tensor], leaves: list[Tensor], grad_out: Tensor) -> Run:
    """One turn: forward, and backward to the leaves if there are any."""

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(bool(leaves)):
            out = forward()
        return [out, *torch.autograd.grad(out, leaves, grad_out)] if leaves else [out]

    return run


def first_line(error: Exception) -> str:
    """Why a contestant takes no part, short: a compiler may say a lot.

    >>> first_line(RuntimeError("out of memory\\nand more"))
    'RuntimeError: out of memory'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}"
