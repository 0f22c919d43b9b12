"""The exchanges of tensors: all-to-all, and all-gather, each with its gradient; and the step of a ring, without.

Written on torch.distributed's public all-to-all and all-gather, which every backend has. Gradients of one tensor that come
from several ranks are added in order of rank, in at least float32: the same bits in each run. Every rank must run the
backward if one does.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def all_to_all(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], group: dist.ProcessGroup) -> list[Tensor]:
    """The tensors that each rank has for this one, of these `shapes`, for one tensor in `parts` for each rank."""
    return list(_AllToAll.apply(group, tuple(map(tuple, shapes)), *parts))  # type: ignore[no-untyped-call]


def all_gather(tensor: Tensor, dim: int, lengths: Sequence[int], group: dist.ProcessGroup) -> list[Tensor]:
    """The tensors of all ranks, which may differ in their length along `dim`."""
    return list(_AllGather.apply(group, dim, tuple(lengths), tensor))  # type: ignore[no-untyped-call]


class Step:
    """Tensors on their way to the rank `by` further in a ring, and those of the rank `by` before, of these `shapes`."""

    def __init__(
        self, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], by: int, group: dist.ProcessGroup
    ) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = [tensor.contiguous() for tensor in tensors]  # kept until they have arrived
        self.received = [tensor.new_empty(shape) for tensor, shape in zip(tensors, shapes, strict=True)]
        self.works = [
            dist.all_to_all_single(
                received.view(-1),
                sent.view(-1),
                [received.numel() if other == (rank - by) % size else 0 for other in range(size)],
                [sent.numel() if other == (rank + by) % size else 0 for other in range(size)],
                group=group,
                async_op=True,
            )
            for sent, received in zip(self.sent, self.received, strict=True)
        ]

    def wait(self) -> list[Tensor]:
        """The tensors that have arrived."""
        for work in self.works:
            work.wait()
        return self.received


def _exchanged(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    sent = torch.cat([part.reshape(-1) for part in parts])
    sizes = [torch.Size(shape).numel() for shape in shapes]
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts], group=group)
    return tuple(part.view(shape) for part, shape in zip(received.split(sizes), shapes, strict=True))


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, group: dist.ProcessGroup, shapes: tuple[tuple[int, ...], ...], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.group, ctx.shapes = group, [part.shape for part in parts]
        return _exchanged(parts, shapes, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_exchanged(grads, ctx.shapes, ctx.group)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, group: dist.ProcessGroup, dim: int, lengths: tuple[int, ...], tensor: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.group, ctx.own = group, tensor.shape
        shapes = [[*tensor.shape[:dim], length, *tensor.shape[dim + 1 :]] for length in lengths]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        longest = max(sizes)  # all-gather takes tensors of one size
        sent = tensor.new_zeros(longest)
        sent[: tensor.numel()] = tensor.reshape(-1)
        received = tensor.new_empty(len(lengths), longest)
        dist.all_gather(list(received.unbind()), sent, group=group)
        return tuple(part[:size].view(shape) for part, size, shape in zip(received, sizes, shapes, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor]:
        shares = _exchanged(grads, [ctx.own] * len(grads), ctx.group)
        total = shares[0].to(torch.promote_types(shares[0].dtype, torch.float32))
        for share in shares[1:]:
            total = total + share
        return None, None, None, total.to(shares[0].dtype)
