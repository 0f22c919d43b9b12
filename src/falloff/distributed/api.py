"""`falloff.distributed.attention`: check the arguments, agree with the other ranks, call a method."""

from dataclasses import replace
from typing import Literal, overload

import torch
from torch import Tensor, nn

from falloff.distributed import all_gather, ring, ulysses
from falloff.distributed.agreement import agree
from falloff.distributed.arguments import check_heads, checked_bias, facts_of, rises
from falloff.distributed.collectives import all_gather as gather
from falloff.distributed.groups import Ranks, ranks_of
from falloff.distributed.job import Job
from falloff.distributed.shards import Layout, check_order, form_of_rank, layout_of
from falloff.forms import Form, Sum, Warp
from falloff.offsets import check_query_start, first_query_position
from falloff.ops.api import autocasted, built_by, with_sink
from falloff.ops.arguments import (
    check_settings,
    check_sink,
    check_tensors,
    checked_document_ids,
    checked_key_mask,
)
from falloff.ops.checks import refuse
from falloff.ops.dropout import new_seed
from falloff.ops.mask import text_start
from falloff.shapes import Bool, Float, Integer

METHODS = {"ulysses": ulysses.attention, "all-gather": all_gather.attention, "ring": ring.attention}


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None = None,
    *,
    group: object = None,
    method: str = "auto",
    order: str = "contiguous",
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    sink: Tensor | None = None,
    return_lse: Literal[False] = False,
    impl: str = "auto",
) -> Tensor: ...
@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None = None,
    *,
    group: object = None,
    method: str = "auto",
    order: str = "contiguous",
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    sink: Tensor | None = None,
    return_lse: Literal[True],
    impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def attention(
    query: Float[Tensor, "B H n D"],
    key: Float[Tensor, "B G m D"],
    value: Float[Tensor, "B G m V"],
    bias: nn.Module | Form | None = None,
    *,
    group: object = None,
    method: str = "auto",
    order: str = "contiguous",
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "#B m"] | Integer[Tensor, "#B m"] | None = None,
    document_ids: Integer[Tensor, "#B n"] | None = None,
    dropout_p: float = 0.0,
    sink: Float[Tensor, " H"] | Float[Tensor, "B H n"] | None = None,
    return_lse: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention over a sequence of which each rank of a group holds a stretch: context parallel, with a bias.

    weights = softmax(scale * query key^T + bias_scale * bias + mask) of the whole sequence; the result is this rank's rows
    of weights @ value. Positions, masks, documents and dropout are those of `falloff.attention` on one process.

    Args:
        query, key, value: this rank's stretch, (B, H, n, D), (B, G, m, D) and (B, G, m, V). Stretches may differ in length,
            and be empty.
        bias: a scheme, which is called for the whole sequence; a form of this rank's rows and keys, see below; or None.
        group: a process group, one dimension of a `DeviceMesh`, or None for the default group.
        method: "ulysses", "all-gather" or "ring"; "auto" for Ulysses if there are at least as many heads as ranks, else
            all-gather. Ulysses exchanges a stretch of all heads for all of the sequence of some heads. All-gather fetches
            all keys and values to each rank. In a ring they go round, and no rank ever holds all of them: for lengths whose
            keys do not fit.
        order: which positions a rank holds: "contiguous", in order of rank, or "zigzag", as `shard` cuts them: under a
            causal mask, all-gather and ring then give each rank as much to do.
        causal, scale, bias_scale, window, impl: as in `falloff.attention`.
        query_start: position of the first query of all, counted from the first key of all; M - N by default, where N and M
            are the lengths of the whole sequence.
        key_mask: (B, m) or (1, m), of this rank's keys.
        document_ids: (B, n) or (1, n), of this rank's tokens. A document may go on on the next rank.
        dropout_p: as in `falloff.attention`, with the seed that rank 0 of the group draws: the weights are dropped that one
            process with its generator drops. Not in a ring. In all-gather, each head is then a call of its own.
        sink: (H,), the same on each rank, or (B, H, n) of this rank's rows.
        return_lse: whether to return the log-sum-exp of each row too. It has a gradient.

    Returns:
        (B, H, n, V) of this rank's rows; with `return_lse` also (B, H, n), as `falloff.attention` does.

    In a form, tensors by row are those of this rank's rows, tensors by key those of its keys: `Band`'s values, `Warp`'s a,
    states of `Factored`, `Potential`. All else (`Strip`'s values, tables, g, knots, slope and intercept) is the same on
    every rank, and serves the whole sequence. `shard_form` cuts a form of the whole sequence so.

    Gradients of what a rank alone holds (query, key, value, states, ...) are whole. Those of what all ranks have (parameters
    of a scheme, tables, a sink (H,)) are this rank's share: the sum over ranks is the gradient of the sum of the ranks'
    losses, and DDP or FSDP reduces them with all other parameters. Gradients are the same bits in each run. All ranks must
    run the backward if one does; there is no second derivative.

    All ranks must pass the same settings, and forms with the same whole tensors. Before any of them waits for tensors, they
    compare shapes and settings in one exchange of a few integers.

    Raises:
        ValueError: on every rank, for an argument on any of them that does not fit, naming it, what was got and what is
            expected; for settings that differ between ranks; for Ulysses with more ranks than heads; for dropout in a ring.
            On this rank alone for a `group` that it does not belong to.

    Papers: Jacobs et al. 2023, "DeepSpeed Ulysses"; Dubey et al. 2024, "The Llama 3 Herd of Models" (all-gather, zigzag);
    Liu et al. 2023, "Ring Attention with Blockwise Transformers"; Brandon et al. 2023, "Striped Attention".

    >>> import torch.distributed as dist
    >>> from falloff import ALiBi
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # one process that is all ranks
    >>> query, key, value = (torch.randn(2, 8, 5, 16) for _ in range(3))
    >>> attention(query, key, value, ALiBi(8), causal=True).shape
    torch.Size([2, 8, 5, 16])
    >>> dist.destroy_process_group()
    """
    ranks = ranks_of(group)
    facts: dict[str, object] = {}
    numbers, error = [0] * 4, None
    try:
        check_tensors(query, key, value)
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            if hasattr(tensor, "to_local"):
                refuse(name, "a DTensor", f"this rank's stretch, a plain tensor: {name}.to_local()")
        check_settings(causal, scale, bias_scale, window, dropout_p, return_lse, impl)
        check_query_start(query_start)
        check_order(order)
        if method != "auto" and method not in METHODS:
            refuse("method", repr(method), "'auto' or one of " + ", ".join(map(repr, METHODS)))
        key_mask = checked_key_mask(query, key, key_mask)
        document_ids = checked_document_ids(query, key, document_ids, query_start)
        check_sink(query, sink)
        query, key, value = autocasted(query, key, value)
        bias = checked_bias(bias, query, key)
        facts = facts_of(query, key, value, bias, key_mask, document_ids, sink)
        facts |= {"method": method, "order": order, "causal": causal, "scale": scale, "bias_scale": bias_scale}
        facts |= {"query_start": query_start, "window": window, "dropout_p": dropout_p}
        facts |= {"return_lse": return_lse, "impl": impl}
        seed = int(new_seed(query.device)) if dropout_p > 0 else 0
        numbers = [query.shape[2], key.shape[2], seed, rises(bias)]
    except ValueError as caught:
        error = caught
    told = agree(ranks, facts, numbers, error)
    rows, keys = (layout_of(name, [own[place] for own in told], order) for place, name in enumerate(("query", "key")))
    name = _chosen(method, ranks, query.shape[1], dropout_p)
    start = first_query_position(rows.length, keys.length, query_start)
    masks = (_of_all(key_mask, keys, ranks), _of_all(document_ids, rows, ranks))
    job = Job(
        rows=rows,
        keys=keys,
        ranks=ranks,
        causal=causal,
        scale=scale,
        bias_scale=bias_scale,
        query_start=start,
        window=window,
        key_mask=masks[0],
        document_ids=masks[1],
        dropout_p=dropout_p,
        seed=torch.tensor(told[0][2], device=query.device) if dropout_p > 0 else None,
        needs_lse=return_lse or sink is not None,
        impl=impl,
    )
    form = _local_form(job, bias, query, all(own[3] for own in told))
    out, lse = METHODS[name](job, query, key, value, form)
    if sink is not None:
        assert lse is not None
        out, lse = with_sink(out, lse, sink)
    if not return_lse:
        return out
    assert lse is not None
    return out, lse


def _chosen(method: str, ranks: Ranks, heads: int, dropout_p: float) -> str:
    if method == "auto":
        return "ulysses" if ranks.size <= heads else "all-gather"
    if method == "ulysses" and ranks.size > heads:
        refuse("method", f"'ulysses' on {ranks.size} ranks", f"'all-gather' or 'ring' for more ranks than the {heads} heads")
    if method == "ring" and dropout_p > 0:
        refuse("dropout_p", dropout_p, "0 in a ring, or method='ulysses' or 'all-gather': dropout counts all keys of a row")
    return method


def _of_all(mask: Tensor | None, layout: Layout, ranks: Ranks) -> Tensor | None:
    """A mask of the whole sequence from those of all ranks: every method has it, as it is small."""
    return None if mask is None else layout.whole(gather(mask, 1, layout.lengths, ranks.group), 1)


def _local_form(job: Job, bias: nn.Module | Form | None, query: Tensor, all_rise: bool) -> Form | None:
    """The form of this rank's rows and keys. A kernel is chosen alike on all ranks: by whether warps rise on all."""
    if isinstance(bias, nn.Module):
        rows, keys = job.rows.length, job.keys.length
        toeplitz = getattr(bias, "toeplitz", False)
        start = None if toeplitz else text_start(rows, job.key_mask, job.document_ids)
        built = built_by(bias, query, rows, keys, job.query_start, start, dense=False)
        assert isinstance(built, Form)
        check_heads(built, query)
        return form_of_rank(built, job.ranks.rank, lambda axes, _: job.keys if axes.of_keys else job.rows)
    if bias is None or all_rise:
        return bias
    parts = [replace(part, rising=False) if isinstance(part, Warp) else part for part in bias.parts]
    return Sum(parts) if len(parts) > 1 else parts[0]
