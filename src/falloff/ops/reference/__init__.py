"""The definition: attention with the whole score matrix, in plain differentiable torch.

Slow and O(N M) in memory on purpose; the tests compare every other implementation with it.
"""

import torch
from torch import Tensor

from falloff.ops.call import Call, sum_dtype
from falloff.ops.dropout import keep_mask
from falloff.ops.mask import visible
from falloff.shapes import Float


def attention(
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B G M D"],
    value: Float[Tensor, "B G M V"],
    bias: Float[Tensor, "H N M"] | Float[Tensor, "B H N M"] | None,
    call: Call,
    sink: Float[Tensor, "H 1"] | Float[Tensor, "B H N"] | None = None,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]:
    """softmax(scale * query key^T + bias + mask) value, and the log-sum-exp of each row.

    The sink is a score more in each softmax, without a value.
    """
    batch, heads, num_queries, _ = query.shape
    num_keys, device = key.shape[2], query.device
    q, k, v = (tensor.to(sum_dtype(query)) for tensor in (query, key, value))
    group = heads // key.shape[1]
    if call.key_mask is not None:  # hidden keys may be NaN, and 0 * NaN is NaN
        k, v = (tensor.masked_fill(~call.key_mask[:, None, :, None], 0.0) for tensor in (k, v))
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, M, D), (B, H, M, V)

    scores = call.scale * (q @ k.transpose(-1, -2))  # (B, H, N, M)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    rows, keys = torch.arange(num_queries, device=device), torch.arange(num_keys, device=device)
    seen = visible(
        rows,
        keys,
        query_start=call.query_start,
        causal=call.causal,
        window=call.window,
        key_mask=call.key_mask,
        document_ids=call.document_ids,
    )
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)

    # A row whose scores are all -inf gets weights 0 and log-sum-exp -inf, and no NaN in its gradient.
    row_max = scores.detach().amax(-1, keepdim=True) if num_keys else scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    of_sink = scores.new_tensor(-torch.inf) if sink is None else sink.to(scores.dtype)[..., None]
    row_max = torch.maximum(row_max, of_sink.detach())
    nothing = row_max == -torch.inf
    row_max = row_max.masked_fill(nothing, 0.0)
    weights = torch.exp(scores - row_max)
    row_sum = (weights.sum(-1, keepdim=True) + torch.exp(of_sink - row_max)).masked_fill(nothing, 1.0)
    weights = weights / row_sum
    lse = (row_max + row_sum.log()).masked_fill(nothing, -torch.inf).squeeze(-1)
    if call.seed is not None:
        indices = (torch.arange(size, device=device) for size in (batch, heads, num_queries, num_keys))
        kept = keep_mask(call.seed, call.dropout_p, *indices)
        weights = weights * kept / (1.0 - call.dropout_p if call.dropout_p < 1.0 else 1.0)
    return (weights @ v).to(query.dtype), lse
