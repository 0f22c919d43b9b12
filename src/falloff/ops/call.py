"""One call of attention, as an implementation gets it beside query, key and value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from falloff.forms import Form, form_from_tensors
from falloff.shapes import Bool, Int, Integer


@dataclass(slots=True)
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
    """int64: decides which weights dropout drops. None if dropout_p is 0."""

    SCHEMA: ClassVar[str] = (
        "Tensor[] form_tensors, Tensor? key_mask, Tensor? document_ids, Tensor? seed, str form_kind, SymInt[] form_numbers, "
        "bool causal, float scale, SymInt query_start, SymInt? window, float dropout_p"
    )
    """The arguments of an operator that make up a call, in the order of `flatten` and `unflatten`."""

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors of the call."""
        return (self.key_mask, self.document_ids, self.seed, *(self.form.tensors if self.form is not None else ()))

    def flatten(self) -> tuple[Any, ...]:
        """The call as arguments of an operator, in the order of `SCHEMA`."""
        form = self.form
        kind, tensors, numbers = ("", [], []) if form is None else (form.kind, form.tensors, form.numbers)
        return (
            tensors,
            self.key_mask,
            self.document_ids,
            self.seed,
            kind,
            numbers,
            self.causal,
            self.scale,
            self.query_start,
            self.window,
            self.dropout_p,
        )

    @classmethod
    def unflatten(
        cls,
        form_tensors: Sequence[Tensor],
        key_mask: Tensor | None,
        document_ids: Tensor | None,
        seed: Tensor | None,
        form_kind: str,
        form_numbers: Sequence[int],
        causal: bool,
        scale: float,
        query_start: int,
        window: int | None,
        dropout_p: float,
    ) -> "Call":
        """The inverse of `flatten`.

        Raises:
            ValueError: if kind, tensors and numbers do not make a form.
        """
        form = form_from_tensors(form_kind, form_tensors, form_numbers) if form_kind or form_tensors else None
        return cls(form, causal, scale, query_start, window, key_mask, document_ids, dropout_p, seed)


def empty_output(query: Tensor) -> Tensor:
    """An uninitialized output with the memory order of the query, as in PyTorch's own attention.

    If the heads of a row are adjacent in memory, a model that joins the heads for its output projection need not copy.
    """
    if query.is_contiguous():
        return torch.empty_like(query)
    if query.stride(1) < query.stride(2):
        batch, heads, num_queries, head_size = query.shape
        return query.new_empty(batch, num_queries, heads, head_size).transpose(1, 2)
    return query.new_empty(query.shape)


def empty_lse(query: Tensor) -> Tensor:
    """An uninitialized log-sum-exp (B, H, N)."""
    batch, heads, num_queries, _ = query.shape  # torch takes 1.4 microseconds longer for a slice of a shape
    return query.new_empty(batch, heads, num_queries, dtype=sum_dtype(query))


def sum_dtype(query: Tensor) -> torch.dtype:
    """The dtype in which scores, sums and log-sum-exps are held: at least float32."""
    return torch.float64 if query.dtype == torch.float64 else torch.float32
