"""What all ranks must agree on, compared before any of them waits for tensors: an error is raised on all, and none hangs."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from falloff.distributed.groups import Ranks
from falloff.ops.checks import refuse


def agree(ranks: Ranks, facts: Mapping[str, object], numbers: Sequence[int], error: Exception | None) -> list[list[int]]:
    """The `numbers` of every rank, if all ranks state the same facts and none has an error.

    One exchange of a few integers. Only after a disagreement is there a second one, of what each rank states.

    Args:
        facts: by the name of the argument that they belong to; what JSON holds.
        numbers: of this rank, as many on every rank.
        error: why this rank cannot take part.

    Raises:
        ValueError: the same on every rank, if they disagree, or with the error of the first rank that has one.
    """
    text = json.dumps({"error": str(error)} if error else facts).encode()
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
    told = gathered(ranks, torch.tensor([error is not None, digest, len(text), *numbers], dtype=torch.int64)).tolist()
    if any(failed for failed, *_ in told) or any(other[1] != told[0][1] for other in told):
        _refuse(ranks, text, [length for _, _, length, *_ in told], error)
    return [own for _, _, _, *own in told]


def gathered(ranks: Ranks, own: Tensor) -> Tensor:
    """A small tensor of every rank, of one shape: (ranks, *shape), on the CPU."""
    own = own.to(ranks.device)
    parts = own.new_empty(ranks.size, *own.shape)
    dist.all_gather(list(parts.unbind()), own, group=ranks.group)
    return parts.cpu()


def _refuse(ranks: Ranks, text: bytes, lengths: list[int], error: Exception | None) -> None:
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    parts = [bytes(part[:length].tolist()) for part, length in zip(gathered(ranks, padded), lengths, strict=True)]
    stated = [json.loads(part) for part in parts]
    for rank, facts in enumerate(stated):
        if "error" in facts:
            message = facts["error"] if rank == ranks.rank else f"{facts['error']} (raised on rank {rank} of the group)"
            raise ValueError(message) from error
    first = stated[0]
    for rank, facts in enumerate(stated):
        for name in (*first, *facts):
            if facts.get(name) != first.get(name):
                got = f"{first.get(name)} on rank 0 and {facts.get(name)} on rank {rank} of the group"
                refuse(name, got, "the same on all ranks")
