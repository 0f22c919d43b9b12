"""Factored: a bias that is a product of states of the tokens with a table by offset."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from falloff.forms.band import Band
from falloff.forms.base import Form, check, check_device, check_float_tensor
from falloff.offsets import IntLike, is_position, offset_matrix
from falloff.shapes import Bool, Float

Outside = Literal["zero", "clamp"]
Side = Literal["query", "key"]
OUTSIDE: tuple[Outside, ...] = ("zero", "clamp")
SIDES: tuple[Side, ...] = ("query", "key")


@dataclass(frozen=True, eq=False)
class Factored(Form):
    """A bias that is a product of each token's states with a row of a table, which the offset chooses.

    states[b, h, r] . table[h, offset - start] for side "query", states[b, h, j] . table[h, offset - start] for side "key".
    No tensor of N x K numbers is made: a kernel multiplies the states of a tile with the rows of the table that it meets.

    Args:
        states: (B, H, N, R), of the query rows; for side "key" (B, H, M, R), of the keys.
        table: (H, K, R), or (1, K, R) for all heads; K >= 1. Row k belongs to the offset start + k.
        start: the offset of row 0.
        outside: the bias of an offset outside start .. start + K - 1: "zero", or "clamp" for that of the nearest end.
        side: whose states they are, "query" or "key".

    A row whose states are not finite is NaN. States of keys that a key mask hides may be anything.

    >>> states, table = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    >>> Factored(states, table).dense(1, 4)
    tensor([[[[0., 0., 5., 2.]]]])
    """

    states: Float[Tensor, "B H L R"]
    table: Float[Tensor, "#H K R"]
    start: int = 0
    outside: Outside = "zero"
    side: Side = "query"

    kind: ClassVar[str] = "factored"
    tensor_names: ClassVar[tuple[str, ...]] = ("states", "table")
    number_names: ClassVar[tuple[str, ...]] = ("start", "outside", "side")

    def __post_init__(self) -> None:
        for name in self.tensor_names:
            check_float_tensor(name, getattr(self, name))
        check(self.states.dim() == 4 and self.states.shape[3] >= 1, "states", self.states, "shape (B, H, L, R), R >= 1")
        heads, size = self.states.shape[1], self.states.shape[3]
        fits = self.table.dim() == 3 and self.table.shape[2] == size
        # Not `in (1, heads)`: of symbolic sizes torch.compile does not find equal ones there.
        fits = fits and (self.table.shape[0] == 1 or self.table.shape[0] == heads)
        if not fits or self.table.shape[1] < 1:
            check(False, "table", self.table, f"shape ({heads} or 1, K, {size}), K >= 1")
        check_device("table", self.table, "states", self.states)
        check(is_position(self.start), "start", self.start, "an int")
        check(self.outside in OUTSIDE, "outside", self.outside, "'zero' or 'clamp'")
        check(self.side in SIDES, "side", self.side, "'query' or 'key'")

    @property
    def numbers(self) -> list[int]:
        return [self.start, OUTSIDE.index(self.outside), SIDES.index(self.side)]

    @classmethod
    def of(cls, tensors: list[Tensor], numbers: list[int]) -> "Factored":
        start, outside, side = numbers
        for name, number in (("outside", outside), ("side", side)):
            check(number in (0, 1), name, number, "0 or 1")
        states, table = tensors
        return cls(states, table, start, OUTSIDE[outside], SIDES[side])

    @property
    def slot(self) -> str:
        return f"{self.kind} by {self.side}"

    @property
    def num_heads(self) -> IntLike:
        return self.states.shape[1]

    def scaled(self, factor: float) -> "Factored":
        return replace(self, table=self.table * factor)

    def hiding(self, key_mask: Bool[Tensor, "B M"]) -> "Factored":
        if self.side == "query":
            return self
        return replace(self, states=self.states.masked_fill(~key_mask[:, None, :, None], 0.0))

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        length, of = (num_queries, "query rows") if self.side == "query" else (num_keys, "keys")
        if self.states.shape[0] != batch or self.states.shape[2] != length:
            check(False, "bias", self.states, f"states for batch size {batch} and {length} {of}")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "B H N M"]:
        self.check_call(self.states.shape[0], num_queries, num_keys)
        size = self.table.shape[1]
        index = offset_matrix(num_queries, num_keys, query_start, self.device) - self.start
        inside = (index >= 0) & (index < size)
        index = index.clamp(0, size - 1)
        if self.side == "key":
            index = index.mT
        products = self.states @ self.table.mT  # (B, H, N or M, K)
        bias = products.gather(-1, index.expand(*products.shape[:2], -1, -1))
        if self.side == "key":
            bias = bias.mT
        return bias if self.outside == "clamp" else torch.where(inside, bias, 0.0)

    def to_band(self) -> Band:
        """The same as a band, in O(N (start + K)) memory. It differs in what gets gradients, not in their values.

        Raises:
            ValueError: if it is not zero outside, has a key's states, or starts at an offset below 0.
        """
        check(self.outside == "zero", "outside", self.outside, "'zero' for a band")
        check(self.side == "query", "side", self.side, "'query' for a band")
        check(self.start >= 0, "start", self.start, "an offset of at least 0 for a band")
        values = self.states @ self.table.mT
        return Band(torch.nn.functional.pad(values, (self.start, 0)) if self.start else values)
