"""Ulysses: from a stretch of the sequence with all heads to the whole sequence with some heads, and back.

Jacobs et al. 2023, "DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long Sequence Transformer
Models". Each rank computes whole heads by a call as on one process: kernels, masks and positions are unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.distributed.block import Block
from falloff.distributed.collectives import all_gather, all_to_all
from falloff.distributed.forms import Axes, axes_of, rebuilt
from falloff.distributed.job import Job
from falloff.distributed.shards import Layout, even_layout
from falloff.forms import Form


@dataclass(frozen=True)
class Heads:
    """The heads that one rank computes."""

    queries: range
    keys: range
    """The key heads that they attend to. Where there are fewer key heads than ranks, several ranks get the same."""

    def repeats(self, group: int) -> list[int] | None:
        """For each query head its key head among `keys`; None if they share them in order, equally many each."""
        wanted = [head // group - self.keys.start for head in self.queries]
        share, left = divmod(len(self.queries), len(self.keys))
        return None if not left and wanted == [place // share for place in range(len(wanted))] else wanted


def heads_of(num_heads: int, key_heads: int, ranks: int) -> list[Heads]:
    """The heads of each rank. Numbers of heads differ by one at most, or by those that share one key head."""
    group = num_heads // key_heads
    if key_heads >= ranks:
        keys = [run for (run,) in even_layout(key_heads, ranks, "contiguous").runs]
        return [Heads(range(run.start * group, run.stop * group), run) for run in keys]
    queries = [run for (run,) in even_layout(num_heads, ranks, "contiguous").runs]
    return [Heads(run, range(run.start // group, (run.stop - 1) // group + 1)) for run in queries]


def attention(job: Job, query: Tensor, key: Tensor, value: Tensor, form: Form | None) -> tuple[Tensor, Tensor | None]:
    """Output of this rank's rows, and their log-sum-exp if the job needs it."""
    num_heads, key_heads, rank = query.shape[1], key.shape[1], job.ranks.rank
    heads = heads_of(num_heads, key_heads, job.ranks.size)
    own = heads[rank]
    of_queries, of_keys = [one.queries for one in heads], [one.keys for one in heads]
    query = _to_heads(job, query, of_queries, job.rows)
    key, value = (_to_heads(job, tensor, of_keys, job.keys) for tensor in (key, value))
    repeats = own.repeats(num_heads // key_heads)
    if repeats is not None:
        index = torch.tensor(repeats, device=key.device)
        key, value = key.index_select(1, index), value.index_select(1, index)
    form = None if form is None else _form(job, form, of_queries)
    block = Block.of(job, query, key, value, form, head=own.queries.start, row=0, first_key=0)
    out, lse = block.attention()
    return _to_rows(job, out, of_queries), _to_rows(job, lse, of_queries) if job.needs_lse else None


def _to_heads(job: Job, tensor: Tensor, heads: Sequence[range], layout: Layout) -> Tensor:
    """From (B, all heads, this rank's length, ...) to (B, this rank's heads, whole length, ...)."""
    own = len(heads[job.ranks.rank])
    parts = [tensor[:, run.start : run.stop] for run in heads]
    shapes = [(tensor.shape[0], own, length, *tensor.shape[3:]) for length in layout.lengths]
    return layout.whole(all_to_all(parts, shapes, job.ranks.group), 2)


def _to_rows(job: Job, tensor: Tensor, heads: Sequence[range]) -> Tensor:
    """From (B, this rank's heads, N, ...) to (B, all heads, this rank's rows, ...)."""
    parts = [job.rows.of_rank(tensor, 2, rank) for rank in range(job.ranks.size)]
    own = job.rows.lengths[job.ranks.rank]
    shapes = [(tensor.shape[0], len(run), own, *tensor.shape[3:]) for run in heads]
    return torch.cat(all_to_all(parts, shapes, job.ranks.group), 1)


def _form(job: Job, form: Form, heads: Sequence[range]) -> Form:
    """The form of this rank's heads for all rows and keys, from that of all heads for this rank's rows and keys."""
    run = heads[job.ranks.rank]

    def sent(tensor: Tensor, axes: Axes) -> Tensor:
        layout = job.keys if axes.of_keys else job.rows
        if axes.length is not None and axes.heads is not None:
            return _to_heads(job, tensor, heads, layout)
        if axes.length is not None:
            return layout.whole(all_gather(tensor, axes.length, layout.lengths, job.ranks.group), axes.length)
        return tensor if axes.heads is None else tensor.narrow(axes.heads, run.start, len(run))

    return rebuilt(form, [sent(*pair) for pair in zip(form.tensors, axes_of(form), strict=True)])
