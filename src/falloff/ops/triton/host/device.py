"""The properties of a device, queried once, and what the installed Triton gets wrong on it."""

import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from falloff.ops.triton.tiles import LARGE

_HOPPER = 90
_FENCED = (3, 7, 1)  # the first Triton whose pipelined loops have the fence, for loads that no branch of the loop precedes


class Device(NamedTuple):
    """target: "cuda", an architecture of AMD's such as "gfx942", or "interpreter". capability: 90 for NVIDIA's 9.0, else 0.
    shared_memory: bytes that one program may use.
    """

    target: str
    capability: int
    shared_memory: int

    def input_precision(self, dtype: torch.dtype) -> str:
        """Triton's input_precision of a product: TF32 for float32 if PyTorch's settings allow it and the device has it."""
        allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "tf32" if allowed and self.target in ("cuda", "gfx942") else "ieee"

    def copies_ahead(self) -> bool:
        """Whether loads may be copied to shared memory while earlier tiles are worked on: num_stages above 1.

        Hopper's matrix products of warpgroups read shared memory through a proxy of their own, and what an asynchronous copy
        wrote is theirs to read only behind a fence (fence.proxy.async). Older versions of Triton leave it out. With one
        stage nothing is copied asynchronously, and all versions from 3.6 on set the fences.
        """
        return self.capability != _HOPPER or _triton_version() >= _FENCED


def device_of(tensor: Tensor) -> Device:
    """The device of a tensor, which must be the current one: see `on_device`."""
    return _ask(tensor.get_device())


@cache
def _ask(index: int) -> Device:
    if triton.knobs.runtime.interpret:
        return Device("interpreter", 0, LARGE)
    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    properties = driver.utils.get_device_properties(driver.get_current_device())
    cuda = target.backend == "cuda"
    return Device("cuda" if cuda else str(target.arch), int(target.arch) if cuda else 0, properties["max_shared_mem"])


@cache
def _triton_version() -> tuple[int, ...]:
    return version(triton.__version__)


def version(text: str) -> tuple[int, ...]:
    """The numbers of a version: (3, 10, 0) for "3.10.0+git1234"."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the device of a tensor the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
