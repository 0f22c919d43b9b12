"""The properties of a device, queried once."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from falloff.ops.triton.tiles import LARGE


class Device(NamedTuple):
    """target: "cuda", an architecture of AMD's, or "interpreter". shared_memory: bytes that one program may use."""

    target: str
    shared_memory: int

    def input_precision(self, dtype: torch.dtype) -> str:
        """Triton's input_precision of a product: TF32 for float32 if PyTorch's settings allow it and the device has it."""
        allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "tf32" if allowed and self.target in ("cuda", "gfx942") else "ieee"


def device_of(tensor: Tensor) -> Device:
    """The device of a tensor, which must be the current one: see `on_device`."""
    return _ask(tensor.get_device())


@cache
def _ask(index: int) -> Device:
    if triton.knobs.runtime.interpret:
        return Device("interpreter", LARGE)
    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    properties = driver.utils.get_device_properties(driver.get_current_device())
    return Device("cuda" if target.backend == "cuda" else str(target.arch), properties["max_shared_mem"])


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the device of a tensor the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
