"""The processes that run a comparison together, as `torchrun` or `accelerate launch` started them; usually there is one.

All of them run the same trials in the same order. The main process decides and writes files; what it decides reaches the
others as JSON: they may be on other machines and see other files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

ERRORS = (ValueError, OSError, ImportError)
"""What a user can put right: one process that raises it stops all of them, with one message."""


def count() -> int:
    """The number of processes; 1 without a launcher."""
    return distributed.get_world_size() if _joined() else 1


def launched() -> int:
    """The number of processes that a launcher has started, joined or not.

    Raises:
        ValueError: if the environment has no number there.
    """
    written = os.environ.get("WORLD_SIZE", "1")
    if not written.isdecimal() or int(written) < 1:
        raise ValueError(
            f"WORLD_SIZE: got {written!r} in the environment, expected the number of processes, as torchrun sets it"
        )
    return int(written)


def is_main() -> bool:
    """Whether this is the process that decides and writes."""
    return distributed.get_rank() == 0 if _joined() else os.environ.get("RANK", "0") == "0"


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of a launcher, if there are several, and leave them at the end.

    JSON travels between CPUs by gloo, so that processes can agree before it is known where they train.
    """
    if launched() == 1 or _joined():
        yield
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    yield  # after an error the process ends, and leaving would wait for processes that have failed
    distributed.destroy_process_group()


def on_main(work: Callable[[], T]) -> T:
    """Do `work` on the main process alone.

    Returns:
        On every process, what it returned there; on the others, as JSON gives it back.

    Raises:
        ValueError: on the others, if it failed there, with the same message.
    """
    if count() == 1:
        return work()
    failure: BaseException | None = None
    answer: dict[str, Any] = {}
    if is_main():
        try:
            answer["value"] = result = work()
        except ERRORS as error:
            failure, answer["error"] = error, str(error)
    answer = exchanged(answer)[0]
    if failure is not None:
        raise failure
    if "error" in answer:
        raise ValueError(answer["error"])
    return result if is_main() else answer["value"]


def everywhere(work: Callable[[], T], *, main_first: bool = False) -> T:
    """Do `work` on every process.

    Args:
        main_first: the others begin when the main process is done, and find what it has left in a cache.

    Raises:
        ValueError: on every process, if it failed on one.
    """
    if count() == 1:
        return work()
    if main_first and not is_main():
        exchanged(None)
    failure: BaseException | None = None
    try:
        result = work()
    except ERRORS as error:
        failure = error
    if main_first and is_main():
        exchanged(None)
    messages = exchanged(None if failure is None else str(failure))
    if failure is not None and (is_main() or messages[0] is None):
        raise failure
    for index, message in enumerate(messages):
        if message is not None:
            raise ValueError(message if index == 0 else f"{message} (process {index})")
    return result


def exchanged(content: object) -> list[Any]:
    """What each process gives here, in their order, as JSON gives it back."""
    if count() == 1:
        return [json.loads(json.dumps(content))]
    written = torch.frombuffer(bytearray(json.dumps(content), "ascii"), dtype=torch.uint8)
    sizes = gathered(torch.tensor([len(written)]))
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded[: len(written)] = written
    rows = gathered(padded[None])
    return [json.loads(row[:size].numpy().tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)]


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order, on the CPU; each gives equally many."""
    own = rows.cpu().contiguous()
    if count() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(count())]
    distributed.all_gather(parts, own)
    return torch.cat(parts)


def total(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if count() > 1:
        distributed.all_reduce(values := values.clone())
    return values


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
