"""What an implementation of attention is asked for, beside query, key and value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.forms import Form
from falloff.shapes import Bool, Int, Integer


@dataclass(frozen=True)
class Call:
    """One call of attention, checked and with every default filled in."""

    form: Form | None
    causal: bool
    scale: float
    query_start: int
    window: int | None
    key_mask: Bool[Tensor, "B M"] | None
    document_ids: Integer[Tensor, "B N"] | None
    dropout_p: float
    seed: Int[Tensor, ""] | None
    """int64, what decides which weights dropout drops; None where dropout_p is 0."""


def empty_output(query: Tensor) -> Tensor:
    """What attention writes into: as PyTorch's own, with the heads of a row side by side where the query has them so.

    A model that joins the heads of each row for its next matrix then copies nothing.
    """
    batch, heads, num_queries, head_size = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, num_queries, heads, head_size).transpose(1, 2)
    return query.new_empty(query.shape)


def sum_dtype(query: Tensor) -> torch.dtype:
    """The dtype in which scores, sums and log-sum-exps are held: at least float32."""
    return torch.promote_types(query.dtype, torch.float32)
