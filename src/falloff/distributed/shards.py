"""Which positions of a sequence each rank holds, and tensors cut by it.

In order "contiguous" each rank holds one run of positions, in order of rank; the runs may differ in length. In order
"zigzag" a sequence is cut into twice as many runs as there are ranks, and rank r holds the runs r and 2 K - 1 - r of 0 ..
2 K - 1: under a causal mask all ranks then have as much to do as each other (Llama 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from falloff.distributed.agreement import agree
from falloff.distributed.collectives import all_gather
from falloff.distributed.forms import Axes, axes_of, rebuilt
from falloff.distributed.groups import ranks_of
from falloff.forms import Form
from falloff.offsets import check_count
from falloff.ops.checks import refuse
from falloff.shapes import Int

ORDERS = ("contiguous", "zigzag")


@dataclass(frozen=True)
class Layout:
    """The runs of positions that each rank holds."""

    runs: tuple[tuple[range, ...], ...]

    @property
    def length(self) -> int:
        """Of the whole sequence."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """How many positions each rank holds."""
        return [sum(map(len, runs)) for runs in self.runs]

    def of_rank(self, tensor: Tensor, dim: int, rank: int) -> Tensor:
        """What a rank holds of a tensor of the whole sequence."""
        return cut(tensor, dim, self.runs[rank])

    def whole(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        """The tensor of the whole sequence from those of all ranks."""
        pieces: list[tuple[int, Tensor]] = []
        for part, runs in zip(parts, self.runs, strict=True):
            pieces += [(run.start, piece) for run, piece in zip(runs, part.split([*map(len, runs)], dim), strict=True)]
        return torch.cat([piece for _, piece in sorted(pieces, key=lambda pair: pair[0])], dim)


def cut(tensor: Tensor, dim: int, runs: Sequence[range]) -> Tensor:
    """The tensor at these runs of positions, one after the other."""
    pieces = [tensor.narrow(dim, run.start, len(run)) for run in runs]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def check_order(order: object) -> None:
    """Refuse an order of another name."""
    if order not in ORDERS:
        refuse("order", repr(order), "one of " + ", ".join(map(repr, ORDERS)))


def even_layout(length: int, ranks: int, order: str) -> Layout:
    """The layout in which runs differ by one position at most, the longer ones first."""
    count = ranks if order == "contiguous" else 2 * ranks
    short, longer = divmod(length, count)
    starts = [number * short + min(number, longer) for number in range(count + 1)]
    runs = [range(*pair) for pair in pairwise(starts)]
    if order == "contiguous":
        return Layout(tuple((run,) for run in runs))
    return Layout(tuple((runs[rank], runs[count - 1 - rank]) for rank in range(ranks)))


def layout_of(argument: str, lengths: Sequence[int], order: str) -> Layout:
    """The layout of stretches of these lengths.

    Raises:
        ValueError: in order "zigzag", for other lengths than those that `shard` gives.
    """
    if order == "zigzag":
        layout = even_layout(sum(lengths), len(lengths), order)
        if layout.lengths != list(lengths):
            got = f"stretches of {', '.join(map(str, lengths))} positions on the ranks"
            refuse(argument, got, f"{', '.join(map(str, layout.lengths))}, as shard(..., order='zigzag') cuts them")
        return layout
    starts = [sum(lengths[:rank]) for rank in range(len(lengths))]
    return Layout(tuple((range(start, start + length),) for start, length in zip(starts, lengths, strict=True)))


def shard(tensor: Tensor, dim: int, group: object = None, order: str = "contiguous") -> Tensor:
    """This rank's stretch of a tensor of a whole sequence, which all ranks have. Stretches differ by one position at most.

    Args:
        tensor: of the whole sequence along `dim`; its values on other ranks are not looked at.
        dim: the dimension of positions.
        group: a process group, one dimension of a `DeviceMesh`, or None for the default group.
        order: "contiguous", or "zigzag", in which rank r of K holds runs r and 2 K - 1 - r of 2 K.

    Raises:
        ValueError: without a process group, or for another order.

    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> shard(torch.arange(5), 0, order="zigzag")
    tensor([0, 1, 2, 3, 4])
    >>> dist.destroy_process_group()
    """
    ranks = ranks_of(group)
    check_order(order)
    _check_dim(tensor, dim)
    return even_layout(tensor.shape[dim], ranks.size, order).of_rank(tensor, dim, ranks.rank)


def shard_form(form: Form, group: object = None, order: str = "contiguous") -> Form:
    """This rank's stretch of a form of the whole sequence: what belongs to rows or keys is cut, all else stays whole.

    Arguments and errors are those of `shard`. Such a form is the bias of `falloff.distributed.attention`.

    >>> import torch.distributed as dist
    >>> from falloff import ForgettingBias
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> shard_form(ForgettingBias(2)(torch.randn(1, 2, 5))).key.shape
    torch.Size([1, 2, 5])
    >>> dist.destroy_process_group()
    """
    ranks = ranks_of(group)
    check_order(order)
    return form_of_rank(form, ranks.rank, lambda axes, length: even_layout(length, ranks.size, order))


def form_of_rank(form: Form, rank: int, layout: Callable[[Axes, int], Layout]) -> Form:
    """What a rank holds of a form of the whole sequence. `layout`: of rows or keys, so many, as the axes say."""
    tensors = [
        tensor if axes.length is None else layout(axes, tensor.shape[axes.length]).of_rank(tensor, axes.length, rank)
        for tensor, axes in zip(form.tensors, axes_of(form), strict=True)
    ]
    return rebuilt(form, tensors)


def unshard(tensor: Tensor, dim: int, group: object = None, order: str = "contiguous") -> Tensor:
    """The tensor of the whole sequence, on every rank, from each rank's stretch of it. It has a gradient.

    The gradient of a stretch is the sum over all ranks of the gradients of it: right for a loss that is the sum of the
    ranks' losses. Every rank must take part, in the backward too.

    Args:
        tensor: this rank's stretch along `dim`; in order "contiguous" of any length.
        dim, group, order: as in `shard`, which it undoes.

    Raises:
        ValueError: on every rank, if tensors differ in more than the length, or lengths do not fit the order.

    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> unshard(torch.arange(5), 0)
    tensor([0, 1, 2, 3, 4])
    >>> dist.destroy_process_group()
    """
    ranks = ranks_of(group)
    facts, numbers, error = {}, [0], None
    try:
        check_order(order)
        _check_dim(tensor, dim)
        dim = dim % tensor.dim()
        others = [size for place, size in enumerate(tensor.shape) if place != dim]
        grad = tensor.requires_grad and torch.is_grad_enabled()
        facts = {"order": order, "tensor": [str(tensor.dtype), tensor.device.type, dim, others], "requires_grad": grad}
        numbers = [tensor.shape[dim]]
    except ValueError as caught:
        error = caught
    lengths = [length for (length,) in agree(ranks, facts, numbers, error)]
    layout = layout_of("tensor", lengths, order)
    return layout.whole(all_gather(tensor, dim, lengths, ranks.group), dim)


def positions(
    length: int, group: object = None, order: str = "contiguous", device: torch.device | str | None = None
) -> Int[Tensor, " N"]:
    """The positions of the tokens that this rank holds of a sequence of this length, as `shard` cuts it.

    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> positions(4)
    tensor([0, 1, 2, 3])
    >>> dist.destroy_process_group()
    """
    check_count("length", length, 0)
    return shard(torch.arange(length, device=device), 0, group, order)


def _check_dim(tensor: object, dim: object) -> None:
    if not isinstance(tensor, Tensor):
        refuse("tensor", type(tensor).__name__, "a tensor")
    if not isinstance(dim, int) or isinstance(dim, bool) or not -tensor.dim() <= dim < tensor.dim():
        refuse("dim", repr(dim), f"a dimension of a tensor of shape {tuple(tensor.shape)}")
