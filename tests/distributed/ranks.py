"""What the ranks of a group do in the tests, and how what they find is brought together."""

import torch
import torch.distributed as dist

from falloff import attention
from falloff import distributed as context_parallel
from ops.conformance.budget import DROPOUT_SEED, Budget

# Relative to the largest number of a result, in float64.
CLOSE = 1e-11


def together(own, layout, dim):
    """A result of the whole call: the shares added up, or the stretches side by side."""
    if layout is None:
        own = own.detach().clone()
        dist.all_reduce(own)
        return own
    shapes = [[*own.shape[:dim], length, *own.shape[dim + 1 :]] for length in layout.lengths]
    parts = [own.new_empty(shape) for shape in shapes]
    for rank, part in enumerate(parts):
        if rank == dist.get_rank():
            part.copy_(own.detach())
        dist.broadcast(part, rank)
    return layout.whole(parts, dim)


def results_of(case, whole, sent):
    """Output, log-sum-exp and all gradients of a call that the ranks share."""
    inputs, bias, settings, leaves = case.cut(whole, dist.get_rank())
    torch.manual_seed(DROPOUT_SEED + 1000 * dist.get_rank())  # the seed of rank 0 counts
    out, lse = context_parallel.attention(
        *inputs, bias, method=case.method, order=case.order, impl=case.impl, return_lse=True, **settings
    )
    rows = case.layouts[0]
    sent = [rows.of_rank(grad, 2, dist.get_rank()).to(made.dtype) for grad, made in zip(sent, (out, lse), strict=True)]
    wanted = [own for own, _, _ in leaves]
    grads = torch.autograd.grad((out, lse), wanted, sent, allow_unused=True, materialize_grads=True)
    made = [together(tensor, rows, 2) for tensor in (out, lse)]
    return [*made, *(together(grad, *how) for grad, (_, *how) in zip(grads, leaves, strict=True))]


def hold_exactly(case):
    """Against one process, in float64."""
    whole = case.whole()
    rows, (heads, _) = case.layouts[0].length, case.heads
    torch.manual_seed(1)
    sent = [torch.randn(2, heads, rows, 6, dtype=torch.float64), torch.randn(2, heads, rows, dtype=torch.float64)]
    got = results_of(case, whole, sent)
    if dist.get_rank() == 0:
        torch.manual_seed(DROPOUT_SEED)
        out, lse = attention(*whole.inputs, whole.bias, impl=case.impl, return_lse=True, **whole.settings)
        sink = [whole.settings["sink"]] if "sink" in whole.settings else []
        leaves = [*whole.inputs, *whole.leaves, *sink]
        grads = torch.autograd.grad((out, lse), leaves, sent, allow_unused=True, materialize_grads=True)
        assert len(got) == 2 + len(leaves)
        for number, (one, other) in enumerate(zip(got, (out, lse, *grads), strict=True)):
            finite = other.isfinite()
            assert torch.equal(one[~finite], other[~finite]), f"result {number}: not finite elsewhere"
            size = other[finite].abs().max().item() if finite.any() else 0.0
            off = (one - other)[finite].abs().max().item() if finite.any() else 0.0
            assert off <= CLOSE * max(size, 1.0), f"result {number}: off by {off:.3g} of {size:.3g}"


def hold_within_budget(case):
    """Against the definition, within the error budgets of the conformance tests."""
    whole = case.whole()
    budget = Budget(whole)
    got = results_of(case, whole, budget.sent)
    if dist.get_rank() == 0:
        budget.hold(got)


def refused(call):
    """The message of the ValueError that `call` raises on every rank."""
    message = "no error"
    try:
        call()
    except ValueError as error:
        message = str(error)
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, message)
    return found
