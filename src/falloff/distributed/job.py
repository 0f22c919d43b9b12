"""The settings of one call of attention over a group of ranks, checked and agreed on: what a method gets beside tensors."""

from dataclasses import dataclass

from torch import Tensor

from falloff.distributed.groups import Ranks
from falloff.distributed.shards import Layout
from falloff.shapes import Bool, Int, Integer


@dataclass(frozen=True)
class Job:
    """Settings and masks of the whole call, the same on every rank."""

    rows: Layout
    keys: Layout
    ranks: Ranks
    causal: bool
    scale: float | None
    bias_scale: float
    query_start: int
    """Position of the first query of all, counted from the first key of all."""
    window: int | None
    key_mask: Bool[Tensor, "B M"] | None
    document_ids: Integer[Tensor, "B N"] | None
    dropout_p: float
    seed: Int[Tensor, ""] | None
    needs_lse: bool
    impl: str
