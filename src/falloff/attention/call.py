"""What an implementation of attention is asked for, beside query, key and value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.forms import Form
from falloff.shapes import Bool, Int


@dataclass(frozen=True)
class Call:
    """One call of attention, checked and with every default filled in."""

    form: Form | None
    causal: bool
    scale: float
    query_start: int
    window: int | None
    key_mask: Bool[Tensor, "B M"] | None
    document_ids: Int[Tensor, "B N"] | None
    dropout_p: float
    seed: Int[Tensor, ""] | None
    """int64, what decides which weights dropout drops; None where dropout_p is 0."""


def sum_dtype(query: Tensor) -> torch.dtype:
    """The dtype in which scores, sums and log-sum-exps are held: at least float32."""
    return torch.promote_types(query.dtype, torch.float32)
