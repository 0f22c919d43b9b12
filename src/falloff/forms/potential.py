"""Potential: a number for each query row and one for each key."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from falloff.forms.base import Form, check, check_device, check_float_tensor
from falloff.offsets import IntLike
from falloff.shapes import Bool, Float


@dataclass(frozen=True, eq=False)
class Potential(Form):
    """A bias that is a sum of one number for each query row and one for each key: row[b, h, r] + key[b, h, j].

    The forgetting transformer's bias is c[r] - c[j], where c is the running sum of log gates: row = c, key = -c. The sum is
    formed in the precision of the scores before it meets one, so that large potentials lose nothing but their own rounding.

    Args:
        row: (B, H, N). It moves all scores of a row alike, so it changes no weight, but the log-sum-exp.
        key: (B, H, M).

    >>> import torch
    >>> c = torch.tensor([[[0.0, -1.0, -3.0]]])
    >>> Potential(c, -c).dense(3, 3)[0, 0].tril()
    tensor([[ 0.,  0.,  0.],
            [-1.,  0.,  0.],
            [-3., -2.,  0.]])
    """

    row: Float[Tensor, "B H N"]
    key: Float[Tensor, "B H M"]

    kind: ClassVar[str] = "potential"
    tensor_names: ClassVar[tuple[str, ...]] = ("row", "key")

    def __post_init__(self) -> None:
        for name in self.tensor_names:
            check_float_tensor(name, getattr(self, name))
        check(self.row.dim() == 3, "row", self.row, "shape (B, H, N)")
        if self.key.dim() != 3 or self.key.shape[:2] != self.row.shape[:2]:
            check(False, "key", self.key, f"shape ({self.row.shape[0]}, {self.row.shape[1]}, M)")
        check_device("key", self.key, "row", self.row)

    @property
    def num_heads(self) -> IntLike:
        return self.row.shape[1]

    def scaled(self, factor: float) -> "Potential":
        return replace(self, row=self.row * factor, key=self.key * factor)

    def hiding(self, key_mask: Bool[Tensor, "B M"]) -> "Potential":
        return replace(self, key=self.key.masked_fill(~key_mask[:, None], 0.0))

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        if self.row.shape[0] != batch or self.row.shape[2] != num_queries:
            check(False, "bias", self.row, f"a row potential for batch size {batch} and {num_queries} query rows")
        if self.key.shape[2] != num_keys:
            check(False, "bias", self.key, f"a key potential for {num_keys} keys")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "B H N M"]:
        self.check_call(self.row.shape[0], num_queries, num_keys)
        return self.row[..., :, None] + self.key[..., None, :]
