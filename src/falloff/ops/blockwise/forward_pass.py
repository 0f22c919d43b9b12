"""The output and the log-sum-exp: each q tile visits its kv tiles with running softmax statistics."""

import torch
from torch import Tensor

from falloff.ops.blockwise.bias import at_tile, tile_biases
from falloff.ops.blockwise.scores import dropout_factors, scores
from falloff.ops.blockwise.tile import kv_tiles, q_tiles, read_keys, read_rows, write_rows
from falloff.ops.call import Call, empty_lse, empty_output


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp of each row (B, H, N)."""
    out = empty_output(query).zero_()
    lse = empty_lse(query).fill_(-torch.inf)
    biases = tile_biases(query, key, call)
    for q_tile in q_tiles(query, key, call):
        q = read_rows(query, q_tile) * call.scale  # (b, g, h / g * n, D)
        row_max = q.new_full((*q.shape[:3], 1), -torch.inf)
        row_sum, o = torch.zeros_like(row_max), torch.zeros_like(q)
        for tile in kv_tiles(q_tile):
            s = scores(q, read_keys(key, tile, call), at_tile(biases, tile), tile, call)  # (b, g, h / g * n, m)
            new_max = torch.maximum(row_max, s.amax(-1, keepdim=True))
            # Of a row that has seen nothing but -inf, the maximum counts as 0: exp(-inf - 0) = 0, not NaN.
            finite_max = new_max.masked_fill(new_max == -torch.inf, 0.0)
            p = s.sub_(finite_max).exp_()
            rescale = torch.exp(row_max - finite_max)
            row_sum = row_sum * rescale + p.sum(-1, keepdim=True)
            factors = dropout_factors(tile, call, p.dtype)
            if factors is not None:
                p *= factors
            o = o.mul_(rescale).add_(p @ read_keys(value, tile, call))
            row_max = new_max
        write_rows(out, q_tile, o / row_sum.masked_fill(row_max == -torch.inf, 1.0))
        write_rows(lse[..., None], q_tile, row_max + row_sum.log())
    return out, lse
