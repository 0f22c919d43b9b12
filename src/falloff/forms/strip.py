"""Strip: a bias that depends on the offset alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from falloff.forms.base import Form, check, check_float_tensor
from falloff.offsets import IntLike, is_position, offset_matrix
from falloff.shapes import Float


@dataclass(frozen=True, eq=False)
class Strip(Form):
    """A bias that depends on the offset alone: values[h, clamp(offset - start, 0, K - 1)].

    Beyond either end, the value of that end holds: a strip needs values only where the bias changes.

    Args:
        values: (H, K), K >= 1, the bias of head h at offset start + k.
        start: the offset of values[:, 0].

    >>> import torch
    >>> strip = Strip(torch.tensor([[0.0, -1.0, -2.0]]), start=0)
    >>> strip.dense(1, 5)
    tensor([[[-2., -2., -2., -1.,  0.]]])
    """

    values: Float[Tensor, "H K"]
    start: int = 0

    kind: ClassVar[str] = "strip"
    tensor_names: ClassVar[tuple[str, ...]] = ("values",)
    number_names: ClassVar[tuple[str, ...]] = ("start",)

    def __post_init__(self) -> None:
        check_float_tensor("values", self.values)
        check(self.values.dim() == 2 and self.values.shape[1] >= 1, "values", self.values, "shape (H, K) with K >= 1")
        check(is_position(self.start), "start", self.start, "an int")

    @property
    def num_heads(self) -> IntLike:
        return self.values.shape[0]

    def scaled(self, factor: float) -> "Strip":
        return replace(self, values=self.values * factor)

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "H N M"]:
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        return self.values[:, (offsets - self.start).clamp(0, self.values.shape[1] - 1)]
