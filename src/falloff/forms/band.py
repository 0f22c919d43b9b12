"""Band: a bias with its own values for each query row."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from falloff.forms.base import Form, check, check_float_tensor
from falloff.offsets import IntLike, offset_matrix
from falloff.shapes import Float


@dataclass(frozen=True, eq=False)
class Band(Form):
    """A bias with its own values for each query row, within a fixed extent: values[b, h, r, offset], else 0.

    Args:
        values: (B, H, N, E), E >= 1, the bias of query row r at offset n, 0 <= n < E.

    >>> Band(torch.tensor([[[[5.0, 3.0]]]])).dense(1, 4)
    tensor([[[[0., 0., 3., 5.]]]])
    """

    values: Float[Tensor, "B H N E"]

    kind: ClassVar[str] = "band"
    tensor_names: ClassVar[tuple[str, ...]] = ("values",)

    def __post_init__(self) -> None:
        check_float_tensor("values", self.values)
        check(
            self.values.dim() == 4 and self.values.shape[3] >= 1,
            "values",
            self.values,
            "shape (B, H, N, E) with E >= 1",
        )

    @property
    def num_heads(self) -> IntLike:
        return self.values.shape[1]

    def scaled(self, factor: float) -> "Band":
        return replace(self, values=self.values * factor)

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        # The message is built only on failure: torch.compile makes a length in a message a constant.
        if self.values.shape[0] != batch or self.values.shape[2] != num_queries:
            check(False, "bias", self.values, f"a band for batch size {batch} and {num_queries} query rows")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "B H N M"]:
        self.check_call(self.values.shape[0], num_queries, num_keys)
        extent = self.values.shape[3]
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        index = offsets.clamp(0, extent - 1).expand(*self.values.shape[:2], -1, -1)
        inside = (offsets >= 0) & (offsets < extent)
        return torch.where(inside, self.values.gather(-1, index), 0.0)
