"""The gradients: each q tile visits its kv tiles, with the weights recomputed from the log-sum-exp."""

from collections.abc import Sequence

import torch
from torch import Tensor

from falloff.ops.blockwise.bias import at_tile, tile_biases
from falloff.ops.blockwise.scores import dropout_factors, scores
from falloff.ops.blockwise.tile import by_head, kv_tiles, q_tiles, read_keys, read_rows, write_rows
from falloff.ops.call import Call, sum_dtype


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    call: Call,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
    """The gradients of query, key, value and the form's tensors, only those that `needs` asks for.

    delta = rowsum(dO * O) - dLSE, dS = P * (dP - delta).
    """
    dtypes = (query.dtype, sum_dtype(query), sum_dtype(query))  # a row of the query is written once, the others are sums
    grad_query, grad_key, grad_value = (
        torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format) if need else None
        for tensor, dtype, need in zip((query, key, value), dtypes, needs[:3], strict=True)
    )
    biases = tile_biases(query, key, call)
    nothing = lse == -torch.inf
    lse = lse.masked_fill(nothing, torch.inf)  # a row that saw nothing has weights exp(-inf) = 0
    if grad_lse is not None:  # what comes back for such a row may be anything, also NaN
        grad_lse = grad_lse.masked_fill(nothing, 0.0)
    for q_tile in q_tiles(query, key, call):
        q, d_out = read_rows(query, q_tile) * call.scale, read_rows(grad_out, q_tile)  # (b, g, h / g * n, D)
        delta = (d_out * read_rows(out, q_tile)).sum(-1, keepdim=True)  # (b, g, h / g * n, 1)
        if grad_lse is not None:
            delta -= read_rows(grad_lse[..., None], q_tile)
        row_lse = read_rows(lse[..., None], q_tile)
        dq = torch.zeros_like(q)
        for tile in kv_tiles(q_tile):
            keys = (tile.batch, tile.groups, tile.keys)
            k = read_keys(key, tile, call)  # (b, g, m, D)
            of_tile = at_tile(biases, tile)
            p = scores(q, k, of_tile, tile, call).sub_(row_lse).exp_()  # (b, g, h / g * n, m)
            factors = dropout_factors(tile, call, p.dtype)
            if grad_value is not None:
                grad_value[keys] += (p if factors is None else p * factors).mT @ d_out
            if not (needs[0] or needs[1] or needs[3]):
                continue
            dp = d_out @ read_keys(value, tile, call).mT  # (b, g, h / g * n, m)
            if factors is not None:
                dp *= factors
            ds = dp.sub_(delta).mul_(p)
            for bias in of_tile if needs[3] else ():
                bias.accumulate(by_head(ds, tile)[..., bias.keys])
            if grad_query is not None:
                dq += ds @ k
            if grad_key is not None:
                grad_key[keys] += ds.mT @ q
        if grad_query is not None:
            write_rows(grad_query, q_tile, dq * call.scale)
    if call.key_mask is not None:  # a row that is NaN has weights of NaN, also for what it does not see
        for grad in (grad_key, grad_value):
            if grad is not None:
                grad.masked_fill_(~call.key_mask[:, None, :, None], 0.0)
    return (
        grad_query,
        None if grad_key is None else grad_key.to(key.dtype),
        None if grad_value is None else grad_value.to(value.dtype),
        [grad for bias in biases for grad in bias.gradients()] if needs[3] else None,
    )
