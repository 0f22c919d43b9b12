"""What of a batch each process has: rows of it, and with context parallel a stretch of each window of these rows.

Of P processes, K that follow one another share windows (`--context-parallel K`). All K have the same rows whole, as tokens
are small; the model keeps its stretch of them from the embedding on. K is 1 by default: then windows are whole.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from falloff.distributed import shard, unshard
from falloff.lab import processes
from falloff.lab.config import Settings

_group: distributed.ProcessGroup | None = None


@contextmanager
def windows_shared(ranks: int) -> Iterator[None]:
    """Have so many processes share each window within the context; the main process's number counts.

    Raises:
        ValueError: if the number of processes is no multiple of it.
    """
    global _group
    ranks = processes.on_main(lambda: ranks)
    if not isinstance(ranks, int) or ranks < 1 or processes.count() % ranks:
        among = f"a divisor of {processes.count()}, the number of processes"
        if processes.count() == 1:
            among = "1 on one process, or that torchrun or accelerate launch starts the command"
        raise ValueError(f"context_parallel: got {ranks!r}, expected {among}")
    if ranks == 1:
        yield
        return
    made, _ = distributed.new_subgroups(ranks)
    _group = made
    try:
        yield
    finally:
        _group = None
    distributed.destroy_process_group(made)  # not after an error: it would wait for processes that have failed


def group() -> distributed.ProcessGroup | None:
    """The processes that share this one's windows; None if it has them whole."""
    return _group


def sequence_ranks() -> int:
    """K, the number of processes that share a window."""
    return 1 if _group is None else distributed.get_world_size(_group)


def data_ranks() -> int:
    """The number of shares of the rows of a batch."""
    return processes.count() // sequence_ranks()


def data_rank() -> int:
    """Which share of the rows is this process's."""
    return 0 if processes.count() == 1 else distributed.get_rank() // sequence_ranks()


def own_rows(batch: Tensor) -> Tensor:
    """This process's share of the rows of a batch. All shares are equally large: the last row may be in several."""
    if data_ranks() == 1:
        return batch
    share = -(-len(batch) // data_ranks())
    first = data_rank() * share
    return batch[torch.arange(first, first + share).clamp(max=len(batch) - 1)]


def own_stretch(rows: Tensor) -> Tensor:
    """This process's stretch of rows (b, N) of whole windows."""
    return rows if _group is None else shard(rows, 1, _group)


def collected(own: Tensor) -> Tensor:
    """The rows (B, N) of all processes, on the CPU, from what each has of them: its stretch of its rows."""
    if _group is None:
        return processes.gathered(own)
    of_all = processes.gathered(unshard(own, 1, _group))
    return of_all.unflatten(0, (data_ranks(), sequence_ranks(), -1))[:, 0].flatten(0, 1)


def check_shares(settings: Settings) -> None:
    """Check that these processes can share a batch of a run, and that each has a device.

    Raises:
        ValueError: naming the setting.
    """
    device = settings.device
    if settings.compile and sequence_ranks() > 1:
        raise ValueError(f"compile: got True with context_parallel {sequence_ranks()}, expected False")
    if settings.batch_size % data_ranks():
        number = "the number of processes" + (f" / context_parallel {sequence_ranks()}" if sequence_ranks() > 1 else "")
        raise ValueError(f"batch_size: got {settings.batch_size}, expected a multiple of {data_ranks()}, {number}")
    if processes.count() == 1 or not device.startswith("cuda"):
        return
    if device != "cuda":
        raise ValueError(
            f"device: got {device!r} for {processes.count()} processes, expected 'cuda' or 'cpu': each takes a GPU of its "
            "own"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > torch.cuda.device_count():
        raise ValueError(
            f"device: got {device!r} for {here} processes on this machine, which has {torch.cuda.device_count()} CUDA "
            "devices, expected at most one process for each"
        )
