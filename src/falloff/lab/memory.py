"""Peak memory, measured by tracking torch's allocations, not by the operating system."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

MB = 1_000_000
"""Bytes in a megabyte."""


@contextmanager
def enough_for(what: str) -> Iterator[None]:
    """Say in one line that memory did not suffice for a training, on a GPU or on the CPU.

    Raises:
        ValueError: instead of torch's error; on the CPU, torch has no class of its own for it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"memory: got too little for {what} ({reason}), expected enough: a smaller model or shorter windows need less, "
            "and so does a batch in parts (accumulate)"
        ) from None


def peak_allocated(function: Callable[[], object]) -> int:
    """The peak of the bytes that torch held on the CPU during `function()`, beyond those held before.

    All allocations and releases by torch's allocator count, in order of time, also those inside an operator. Memory that was
    allocated before and is released during the call is not tracked: it counts as held to the end.

    Args:
        function: called once, without arguments; its result is dropped.

    Returns:
        Bytes, at least 0.

    >>> def three_to_one():
    ...     large = torch.empty(3_000_000)  # 12 MB
    ...     del large
    ...     return torch.empty(1_000_000)
    >>> peak_allocated(three_to_one)
    12000000
    """
    # The profiler prints each start and stop to stderr at a level above that of errors.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    gc.collect()  # a garbage collection during the call would make the peak depend on what ran before
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            function()
    finally:
        if collecting:
            gc.enable()
    assert profile.kineto_results is not None
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    events = [event for event in events if event.device_type() == torch.profiler.DeviceType.CPU]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def held_bytes(*holders: nn.Module | torch.optim.Optimizer | Tensor) -> int:
    """The bytes of all tensors of modules (parameters, buffers), of optimizer states and of tensors, each storage once."""
    tensors: list[Any] = []
    for holder in holders:
        if isinstance(holder, nn.Module):
            tensors += [*holder.parameters(), *holder.buffers()]
        elif isinstance(holder, Tensor):
            tensors.append(holder)
        else:
            tensors += [value for state in holder.state.values() for value in state.values()]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
        if isinstance(tensor, Tensor)
    }
    return sum(storages.values())


def peak_held(
    function: Callable[[], object], device: torch.device, *holders: nn.Module | torch.optim.Optimizer | Tensor
) -> int:
    """The peak of the bytes that tensors held on a device during `function()`, including those held before.

    On a GPU this is from torch's allocator. On the CPU it is `peak_allocated` plus the bytes that the `holders` held before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device)
    before = held_bytes(*holders)
    return before + peak_allocated(function)
