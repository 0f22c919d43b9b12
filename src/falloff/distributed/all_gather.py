"""All-gather: each rank gets all keys and values, and computes its own rows. For more ranks than heads.

Dubey et al. 2024, "The Llama 3 Herd of Models", section 3.3.2.
"""

from torch import Tensor

from falloff.distributed.block import Block, joined
from falloff.distributed.collectives import all_gather
from falloff.distributed.forms import axes_of, narrowed, rebuilt
from falloff.distributed.job import Job
from falloff.forms import Form


def attention(job: Job, query: Tensor, key: Tensor, value: Tensor, form: Form | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of this rank's rows."""
    key, value = (_whole(job, tensor, 2) for tensor in (key, value))
    form = None if form is None else _with_all_keys(job, form)
    first, parts = 0, []
    for run in job.rows.runs[job.ranks.rank]:
        count = len(run)
        rows = None if form is None else narrowed(form, rows=(first, count))
        own = query.narrow(2, first, count)
        parts.append(Block.of(job, own, key, value, rows, head=0, row=run.start, first_key=0).attention())
        first += count
    return joined(parts, 2)


def _whole(job: Job, tensor: Tensor, dim: int) -> Tensor:
    return job.keys.whole(all_gather(tensor, dim, job.keys.lengths, job.ranks.group), dim)


def _with_all_keys(job: Job, form: Form) -> Form:
    pairs = zip(form.tensors, axes_of(form), strict=True)
    return rebuilt(
        form,
        [_whole(job, tensor, axes.length) if axes.of_keys and axes.length else tensor for tensor, axes in pairs],
    )
