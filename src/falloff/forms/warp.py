"""Warp: a piecewise linear function of a warped offset."""

from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from falloff.forms.base import Form, check, check_device, check_float_tensor
from falloff.offsets import IntLike, offset_matrix
from falloff.shapes import Float


@dataclass(frozen=True, eq=False)
class Warp(Form):
    """A piecewise linear function of a warped offset: x = g[abs(offset)] * a[r], then slope[h, s] * x + intercept[h, s].

    s is the number of knots below x (a knot belongs to the segment on its left). The knots get no gradient: the function is
    continuous there, so moving a knot changes no value to first order.

    Args:
        g: (K,), the warped distance by abs(offset); beyond K - 1 the last value holds.
        a: (N,) or (B, N), the multiplier of each query row.
        knots: (S - 1,), rising.
        slope, intercept: (H, S), the line of each segment; finite (masks hide keys, a warp does not).
        rising: whether g is finite and never falls, and a is finite and not negative, which the CPU kernels need. If None,
            `attention` reads g and a to find out, which it cannot under torch.compile. A wrong True gives wrong numbers, and
            no access outside memory.

    >>> g, a = torch.arange(4.0), torch.ones(2)
    >>> Warp(g, a, torch.tensor([1.5]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.5]])).dense(2, 4)
    tensor([[[1.5000, 1.0000, 0.0000, 1.0000],
             [1.5000, 1.5000, 1.0000, 0.0000]]])
    """

    g: Float[Tensor, " K"]
    a: Float[Tensor, "*B N"]
    knots: Float[Tensor, " S1"]
    slope: Float[Tensor, "H S"]
    intercept: Float[Tensor, "H S"]
    rising: bool | None = None

    kind: ClassVar[str] = "warp"
    tensor_names: ClassVar[tuple[str, ...]] = ("g", "a", "knots", "slope", "intercept")
    number_names: ClassVar[tuple[str, ...]] = ("rising",)

    def __post_init__(self) -> None:
        for name in self.tensor_names:
            check_float_tensor(name, getattr(self, name))
        check(self.g.dim() == 1 and self.g.shape[0] >= 1, "g", self.g, "shape (K,) with K >= 1")
        check(self.a.dim() in (1, 2), "a", self.a, "shape (N,) or (B, N)")
        check(self.knots.dim() == 1, "knots", self.knots, "shape (S - 1,)")
        segments = self.knots.shape[0] + 1
        for name in ("slope", "intercept"):
            tensor = getattr(self, name)
            check(tensor.dim() == 2 and tensor.shape[1] == segments, name, tensor, f"shape (H, {segments})")
        check(self.slope.shape == self.intercept.shape, "intercept", self.intercept, "the shape of slope")
        for name in self.tensor_names:
            check_device(name, getattr(self, name), "g", self.g)
        if self.rising not in (None, True, False):
            check(False, "rising", self.rising, "True, False or None")

    @property
    def numbers(self) -> list[int]:
        return [-1 if self.rising is None else int(self.rising)]

    @classmethod
    def of(cls, tensors: list[Tensor], numbers: list[int]) -> "Warp":
        (rising,) = numbers
        g, a, knots, slope, intercept = tensors
        return cls(g, a, knots, slope, intercept, None if rising < 0 else rising > 0)

    @property
    def num_heads(self) -> IntLike:
        return self.slope.shape[0]

    def of_rows(self, first: int, count: int) -> "Warp":
        """The warp of `count` query rows from row `first` on."""
        part = copy(self)  # not `replace`, which would check all tensors again: a fifth of a short call
        object.__setattr__(part, "a", self.a.narrow(-1, first, count))
        return part

    def settled(self) -> "Warp":
        """The same with `rising` computed from its tensors if it is None, which waits for their device."""
        if self.rising is not None:
            return self
        rises = (self.g.diff() >= 0).all() & self.g.isfinite().all() & ((self.a >= 0) & self.a.isfinite()).all()
        return replace(self, rising=bool(rises))

    def scaled(self, factor: float) -> "Warp":
        return replace(self, slope=self.slope * factor, intercept=self.intercept * factor)

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        if self.a.shape[-1] != num_queries or (self.a.dim() == 2 and self.a.shape[0] != batch):
            check(False, "bias", self.a, f"a warp whose a has shape ({num_queries},) or ({batch}, {num_queries})")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "*B H N M"]:
        self.check_call(self.a.shape[0], num_queries, num_keys)
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        x = self.g[offsets.abs().clamp(max=self.g.shape[0] - 1)] * self.a[..., None]
        segment = torch.bucketize(x.detach(), self.knots.detach().contiguous())
        bias = self.slope[:, segment] * x + self.intercept[:, segment]
        return bias if self.a.dim() == 1 else bias.transpose(0, 1)
