"""The three forms: the few tensors that a scheme passes to a kernel.

The bias of query row r (at position query_start + r) and key j, whose offset is n = query_start + r - j:

| form | tensors | bias |
|---|---|---|
| `Strip` | values (H, K), start | values[h, clamp(n - start, 0, K - 1)] |
| `Band` | values (B, H, N, E) | values[b, h, r, n] if 0 <= n < E, else 0 |
| `Warp` | g (K,), a (N,) or (B, N), knots (S-1,), slope and intercept (H, S) | x = g[abs(n)] * a[r], |
| | | slope[h, s] * x + intercept[h, s] in the segment s of x |

A form knows nothing of its scheme, and a kernel knows nothing of a bias but its form. `dense` defines each form, in O(N M)
memory: the tests compare the kernels with it.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from falloff.offsets import is_position, offset_matrix
from falloff.shapes import Float


def _check(condition: bool | torch.SymBool, argument: str, got: object, expected: str) -> None:
    if not condition:
        shown = tuple(got.shape) if isinstance(got, Tensor) else repr(got)
        raise ValueError(f"{argument}: got {shown}, expected {expected}")


def _check_float_tensor(argument: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{argument}: got {type(tensor).__name__}, expected a tensor")
    if not tensor.is_floating_point():
        raise ValueError(f"{argument}: got dtype {tensor.dtype}, expected a floating point dtype")


@dataclass(frozen=True, eq=False)
class Form:
    """What the forms share: kind, tensors and numbers, as operators take them. `form_from_tensors` is the inverse."""

    kind: ClassVar[str]
    tensor_names: ClassVar[tuple[str, ...]]
    number_names: ClassVar[tuple[str, ...]] = ()

    @property
    def tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.tensor_names]

    @property
    def numbers(self) -> list[int]:
        """The fields of a form that are not tensors, as integers."""
        return [getattr(self, name) for name in self.number_names]

    @property
    def num_heads(self) -> int:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        first: Tensor = getattr(self, self.tensor_names[0])
        return first.device

    def to(self, dtype: torch.dtype) -> "Form":
        """The form with its tensors in this dtype."""
        return replace(self, **{name: getattr(self, name).to(dtype) for name in self.tensor_names})

    def scaled(self, factor: float) -> "Form":
        """The form of `factor` times this bias, multiplied in the dtype of its tensors."""
        raise NotImplementedError

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Tensor:
        """The bias as a tensor (H, N, M), or (B, H, N, M) if it depends on the batch entry."""
        raise NotImplementedError

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        """Raise ValueError if this form does not fit the sizes of a call."""


@dataclass(frozen=True, eq=False)
class Strip(Form):
    """A bias that depends on the offset alone: values[h, clamp(offset - start, 0, K - 1)].

    Beyond either end, the value of that end holds: a strip needs values only where the bias changes.

    Args:
        values: (H, K), K >= 1, the bias of head h at offset start + k.
        start: the offset of values[:, 0].

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
        _check_float_tensor("values", self.values)
        _check(self.values.dim() == 2 and self.values.shape[1] >= 1, "values", self.values, "shape (H, K) with K >= 1")
        _check(is_position(self.start), "start", self.start, "an int")

    @property
    def num_heads(self) -> int:
        return self.values.shape[0]

    def scaled(self, factor: float) -> "Strip":
        return replace(self, values=self.values * factor)

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "H N M"]:
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        return self.values[:, (offsets - self.start).clamp(0, self.values.shape[1] - 1)]


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
        _check_float_tensor("values", self.values)
        _check(
            self.values.dim() == 4 and self.values.shape[3] >= 1,
            "values",
            self.values,
            "shape (B, H, N, E) with E >= 1",
        )

    @property
    def num_heads(self) -> int:
        return self.values.shape[1]

    def scaled(self, factor: float) -> "Band":
        return replace(self, values=self.values * factor)

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        # The message is built only on failure: torch.compile makes a length in a message a constant.
        if self.values.shape[0] != batch or self.values.shape[2] != num_queries:
            _check(False, "bias", self.values, f"a band for batch size {batch} and {num_queries} query rows")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "B H N M"]:
        self.check_call(self.values.shape[0], num_queries, num_keys)
        extent = self.values.shape[3]
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        index = offsets.clamp(0, extent - 1).expand(*self.values.shape[:2], -1, -1)
        inside = (offsets >= 0) & (offsets < extent)
        return torch.where(inside, self.values.gather(-1, index), 0.0)


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
            _check_float_tensor(name, getattr(self, name))
        _check(self.g.dim() == 1 and self.g.shape[0] >= 1, "g", self.g, "shape (K,) with K >= 1")
        _check(self.a.dim() in (1, 2), "a", self.a, "shape (N,) or (B, N)")
        _check(self.knots.dim() == 1, "knots", self.knots, "shape (S - 1,)")
        segments = self.knots.shape[0] + 1
        for name in ("slope", "intercept"):
            tensor = getattr(self, name)
            _check(tensor.dim() == 2 and tensor.shape[1] == segments, name, tensor, f"shape (H, {segments})")
        _check(self.slope.shape == self.intercept.shape, "intercept", self.intercept, "the shape of slope")
        for name in self.tensor_names:
            if getattr(self, name).device != self.g.device:
                raise ValueError(f"{name}: got device {getattr(self, name).device}, expected g's device {self.g.device}")

        if self.rising not in (None, True, False):
            _check(False, "rising", self.rising, "True, False or None")

    @property
    def numbers(self) -> list[int]:
        return [-1 if self.rising is None else int(self.rising)]

    @property
    def num_heads(self) -> int:
        return self.slope.shape[0]

    def of_rows(self, first: int, count: int) -> "Warp":
        """The warp of `count` query rows from row `first` on."""
        part = copy(self)  # not `replace`, which would check all tensors again: a fifth of a short call
        object.__setattr__(part, "a", self.a.narrow(-1, first, count))
        return part

    def with_rising(self) -> "Warp":
        """The same with `rising` computed from its tensors, which waits for their device."""
        rises = (self.g.diff() >= 0).all() & self.g.isfinite().all() & ((self.a >= 0) & self.a.isfinite()).all()
        return replace(self, rising=bool(rises))

    def scaled(self, factor: float) -> "Warp":
        return replace(self, slope=self.slope * factor, intercept=self.intercept * factor)

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        if self.a.shape[-1] != num_queries or (self.a.dim() == 2 and self.a.shape[0] != batch):
            _check(False, "bias", self.a, f"a warp whose a has shape ({num_queries},) or ({batch}, {num_queries})")

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Float[Tensor, "*B H N M"]:
        self.check_call(self.a.shape[0], num_queries, num_keys)
        offsets = offset_matrix(num_queries, num_keys, query_start, self.device)
        x = self.g[offsets.abs().clamp(max=self.g.shape[0] - 1)] * self.a[..., None]
        segment = torch.bucketize(x.detach(), self.knots.detach().contiguous())
        bias = self.slope[:, segment] * x + self.intercept[:, segment]
        return bias if self.a.dim() == 1 else bias.transpose(0, 1)


FORMS: dict[str, type[Strip] | type[Band] | type[Warp]] = {form.kind: form for form in (Strip, Band, Warp)}


def form_from_tensors(kind: str, tensors: Sequence[Tensor], numbers: Sequence[int]) -> Form:
    """The form with this `kind`, these `tensors` and these `numbers`, as an operator takes them.

    Raises:
        ValueError: if they do not fit the kind.
    """
    form = FORMS.get(kind)
    if form is None and kind == "":
        raise ValueError(f"form_tensors: got {len(tensors)} tensors, expected none for form_kind ''")
    if form is None:
        raise ValueError(f"form_kind: got {kind!r}, expected '' or one of {', '.join(map(repr, FORMS))}")
    if len(tensors) != len(form.tensor_names):
        expected = f"{len(form.tensor_names)} for form_kind {kind!r}: {', '.join(form.tensor_names)}"
        raise ValueError(f"form_tensors: got {len(tensors)} tensors, expected {expected}")
    if len(numbers) != len(form.number_names):
        raise ValueError(f"form_numbers: got {len(numbers)}, expected {len(form.number_names)} for form_kind {kind!r}")
    if form is Strip:
        return Strip(tensors[0], numbers[0])
    if form is Band:
        return Band(tensors[0])
    g, a, knots, slope, intercept = tensors
    return Warp(g, a, knots, slope, intercept, None if numbers[0] < 0 else numbers[0] > 0)
