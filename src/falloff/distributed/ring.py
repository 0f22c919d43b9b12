"""Ring: keys and values go round from rank to rank, and no rank ever holds all of them. For keys that do not fit.

Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite Context"; Brandon et al. 2023, "Striped
Attention", on orders that balance a causal mask.

Every rank computes its rows against one rank's keys after another, and merges the outputs by their log-sum-exps:

    lse = log(sum over parts s of exp(lse_s)),  out = sum over parts s of w_s * out_s,  w_s = exp(lse_s - lse)

The backward goes round again. It computes each part once more, sends back to it

    d out_s = w_s * d out,  d lse_s = w_s * (rowsum(d out * (out_s - out)) + d lse)

and passes the gradients of keys and values on with them, to which every rank adds its share. At the end they are sent home.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from falloff.distributed.block import Block, joined
from falloff.distributed.collectives import Step
from falloff.distributed.forms import axes_of, narrowed
from falloff.distributed.job import Job
from falloff.forms import Form, form_from_tensors
from falloff.ops.call import sum_dtype

Result = tuple[Tensor, Tensor]


def attention(job: Job, query: Tensor, key: Tensor, value: Tensor, form: Form | None) -> Result:
    """Output and log-sum-exp of this rank's rows."""
    if form is None:
        kind, tensors = _Kind("", (), (False, True, True)), []
    else:
        goes = (False, True, True, *(axes.of_keys for axes in axes_of(form)))
        kind, tensors = _Kind(form.kind, tuple(form.numbers), goes), form.tensors
    return _Ring.apply(job, kind, query, key, value, *tensors)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Kind:
    """What beside its tensors makes a form, and which of query, key, value and these tensors go round with the keys."""

    form: str
    numbers: tuple[int, ...]
    goes: tuple[bool, ...]

    def split(self, all_of: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What stays with the rows, and what goes round."""
        pairs = list(zip(all_of, self.goes, strict=True))
        return [one for one, goes in pairs if not goes], [one for one, goes in pairs if goes]

    def joined(self, stays: Sequence[Tensor], goes: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `split`."""
        staying, going = iter(stays), iter(goes)
        return [next(going if goes_round else staying) for goes_round in self.goes]


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, kind: _Kind, *tensors: Tensor) -> Result:
        query, _, value = tensors[:3]
        stays, goes = kind.split(tensors)
        lse = query.new_full(query.shape[:3], -torch.inf, dtype=sum_dtype(query))
        out = lse.new_zeros(*lse.shape, value.shape[3])
        last = _last_step(job)
        for step in range(last + 1):
            # The next keys are on their way while these are attended to.
            following = _passed_on(job, goes, step) if step < last else None
            part = _part(job, kind, kind.joined(stays, goes), _owner(job, step))
            if part is not None:
                out, lse = _merged((out, lse), part)
            if following is not None:
                goes = following.wait()
        out = out.to(query.dtype)
        ctx.job, ctx.kind = job, kind
        ctx.save_for_backward(*tensors, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        job, kind = ctx.job, ctx.kind
        *tensors, out, lse = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        grad_out = grad_out.to(lse.dtype)
        stays, goes = kind.split(tensors)
        needs = [*kind.split(needed)[0], *kind.split(needed)[1]]
        of_staying, of_going = kind.split([torch.zeros_like(tensor, dtype=_grad_dtype(tensor)) for tensor in tensors])
        shapes = [tensor.shape for tensor in goes]
        last = _last_step(job)
        for step in range(last + 1):
            following = _passed_on(job, goes, step) if step < last else None
            with torch.enable_grad():
                leaves = [one.detach().requires_grad_(need) for one, need in zip((*stays, *goes), needs, strict=True)]
                here, there = leaves[: len(stays)], leaves[len(stays) :]
                part = _part(job, kind, kind.joined(here, there), _owner(job, step))
            if part is not None:
                sent = _sent_to_part(part, (out, lse), grad_out, grad_lse)
                _add_gradients(part, sent, leaves, [*of_staying, *of_going])
            if following is not None:
                of_going = _passed_on(job, of_going, step).wait()
                goes = following.wait()
        if last > 0:
            of_going = Step(of_going, shapes, -last, job.ranks.group).wait()
        grads = zip(kind.joined(of_staying, of_going), tensors, needed, strict=True)
        return None, None, *(grad.to(tensor.dtype) if need else None for grad, tensor, need in grads)


def _owner(job: Job, step: int) -> int:
    """The rank whose keys are here at a step."""
    return (job.ranks.rank - step) % job.ranks.size


def _passed_on(job: Job, goes: Sequence[Tensor], step: int) -> Step:
    """What is here at a step on its way to the next rank."""
    length = job.keys.lengths[_owner(job, step + 1)]
    # All of these have keys as their third dimension.
    shapes = [(*tensor.shape[:2], length, *tensor.shape[3:]) for tensor in goes]
    return Step(goes, shapes, 1, job.ranks.group)


def _last_step(job: Job) -> int:
    """The last step at which the keys that are somewhere matter to the rows there."""
    size = job.ranks.size
    # From the end: without a window the very last one matters, and a thousand ranks need not look at a million pairs.
    matters = (
        step
        for step in reversed(range(size))
        for rank in range(size)
        if any(_seen(job, rows, keys) for rows in job.rows.runs[rank] for keys in job.keys.runs[(rank - step) % size])
    )
    return next(matters, 0)


def _seen(job: Job, rows: range, keys: range) -> bool:
    """Whether causal mask and window leave anything of these rows and keys."""
    if not rows or not keys:
        return False
    nearest = job.query_start + rows.start - (keys.stop - 1)
    farthest = job.query_start + rows.stop - 1 - keys.start
    return not (job.causal and farthest < 0) and not (job.window is not None and nearest >= job.window)


def _part(job: Job, kind: _Kind, tensors: Sequence[Tensor], owner: int) -> Result | None:
    """This rank's rows against the keys of `owner`; None if masks hide all of them."""
    query, key, value, *of_form = tensors
    form = form_from_tensors(kind.form, of_form, kind.numbers) if of_form else None
    batch, heads = query.shape[:2]
    row, done, any_seen = 0, [], False
    for rows in job.rows.runs[job.ranks.rank]:
        first, merged = 0, None
        for keys in job.keys.runs[owner]:
            if _seen(job, rows, keys):
                part = None if form is None else narrowed(form, rows=(row, len(rows)), keys=(first, len(keys)))
                q = query.narrow(2, row, len(rows))
                k, v = (tensor.narrow(2, first, len(keys)) for tensor in (key, value))
                block = Block.of(job, q, k, v, part, head=0, row=rows.start, first_key=keys.start)
                out, lse = block.attention()
                merged = (out.to(lse.dtype), lse) if merged is None else _merged(merged, (out, lse))
                any_seen = True
            first += len(keys)
        if merged is None:
            lse = query.new_full((batch, heads, len(rows)), -torch.inf, dtype=sum_dtype(query))
            merged = lse.new_zeros(*lse.shape, value.shape[3]), lse
        done.append(merged)
        row += len(rows)
    return joined(done, 2) if any_seen else None


def _merged(one: Result, other: Result) -> Result:
    """Output and log-sum-exp of the keys of both. The gradient of a row that sees nothing is zero, not NaN."""
    nothing = (one[1] == -torch.inf) & (other[1] == -torch.inf)
    lses = [lse.masked_fill(nothing, 0.0) for _, lse in (one, other)]
    lse = torch.logaddexp(*lses)
    shares = [torch.exp(own - lse)[..., None] for own in lses]
    out = shares[0] * one[0].to(lse.dtype) + shares[1] * other[0].to(lse.dtype)
    return out, lse.masked_fill(nothing, -torch.inf)


def _sent_to_part(part: Result, merged: Result, grad_out: Tensor, grad_lse: Tensor) -> Result:
    """The gradients of a part's output and log-sum-exp, from those of the whole."""
    (part_out, part_lse), (out, lse) = (tuple(tensor.detach() for tensor in pair) for pair in (part, merged))
    weight = torch.exp(part_lse - lse.masked_fill(lse == -torch.inf, 0.0))  # 0 of a row that sees nothing
    of_lse = (grad_out * (part_out.to(lse.dtype) - out.to(lse.dtype))).sum(-1) + grad_lse
    return (weight[..., None] * grad_out).to(part_out.dtype), weight * of_lse


def _add_gradients(part: Result, sent: Result, leaves: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
    wanted = [(leaf, total) for leaf, total in zip(leaves, sums, strict=True) if leaf.requires_grad]
    grads = torch.autograd.grad(part, [leaf for leaf, _ in wanted], sent, allow_unused=True)
    for (_, total), grad in zip(wanted, grads, strict=True):
        if grad is not None:
            total += grad


def _grad_dtype(tensor: Tensor) -> torch.dtype:
    """In which shares of a gradient are added."""
    return torch.promote_types(tensor.dtype, torch.float32)
