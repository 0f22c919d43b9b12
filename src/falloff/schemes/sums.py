"""The sum of schemes: `T5Bias(8) + ALiBi(8)` is a scheme, whose form is the sum of the forms of its parts."""

from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from falloff.forms import Form, Strip, Sum
from falloff.schemes.base import Scheme
from falloff.schemes.settings import title_of
from falloff.shapes import Float, Int


class SchemeSum(Scheme):
    """The sum of a few schemes and forms, which `+` makes. A sum among its parts counts as its own parts.

    The parts are submodules, called as modules. Two strips become one strip; of any other kind a sum has one form, see
    `falloff.Sum`. A part whose bias depends on content is added as its form, in each call of the model:
    `attention(query, key, value, ALiBi(8) + forgetting(gates))`. A form stays on its device, and is not saved.

    Args:
        parts: at least one, all of the same number of heads.

    Raises:
        ValueError: for parts of different numbers of heads, or a scheme that depends on content. A call raises ValueError
            for two forms of the same kind that are no strips.

    >>> from falloff import ALiBi, T5Bias
    >>> (T5Bias(8) + ALiBi(8)).dense(3, 5).shape
    torch.Size([8, 3, 5])
    """

    parts: nn.ModuleList

    def __init__(self, *parts: Scheme | Form) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts: got none, expected at least one scheme or form")
        flat = [one for part in parts for one in (part.parts if isinstance(part, SchemeSum) else [part])]
        schemes = [_part(part) for part in flat]
        for part in schemes[1:]:
            if part.num_heads != schemes[0].num_heads:
                expected = f"the {schemes[0].num_heads} heads of {schemes[0].name}, which it is added to"
                raise ValueError(f"bias: got {part.num_heads} heads of {part.name}, expected {expected}")
        self.parts = nn.ModuleList(schemes)
        self.num_heads = schemes[0].num_heads
        self.formula = "\n+ ".join(part.formula for part in schemes)
        self.paper = "; ".join(part.paper for part in schemes if part.paper)
        self.reading = "\n+ ".join(part.reading for part in schemes if part.reading)
        self.reach = _farthest([part.reach for part in schemes])
        self.future_reach = _farthest([part.future_reach for part in schemes])
        # Facts of a class elsewhere, here of the parts.
        vars(self)["name"] = " + ".join(title_of(part) for part in schemes)
        vars(self)["toeplitz"] = all(part.toeplitz for part in schemes)
        vars(self)["needs_content"] = any(part.needs_content for part in schemes)

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        """The sum of the parts' biases at integer offsets: (L,) -> (H, L)."""
        return reduce(add, (part.at(offsets) for part in self.parts))  # type: ignore[operator]

    def forward(self, *sizes: Any, dense: bool = False, **more: Any) -> Form | Tensor:
        """As `Scheme.forward`, of parts that are called as modules."""
        made = [part(*sizes, dense=dense, **more) for part in self.parts]
        return reduce(add, made) if dense else _sum_of(made)

    def form(self, *sizes: Any, **more: Any) -> Form:
        """The sum of the parts' forms. Arguments and errors are those of `Scheme.form`."""
        return _sum_of([part.form(*sizes, **more) for part in self.parts])  # type: ignore[operator]

    def dense(self, *sizes: Any, **more: Any) -> Tensor:
        """The sum of the parts' dense biases. Arguments and errors are those of `Scheme.form`."""
        return reduce(add, (part.dense(*sizes, **more) for part in self.parts))  # type: ignore[operator]


class _Given(Scheme):
    """A form as a part of a sum. Unless it is a strip, it fits the states and sizes of one call."""

    def __init__(self, given: Form) -> None:
        super().__init__()
        self.given = given
        self.num_heads = int(given.num_heads)
        self.formula = f"a given form ({given.slot})"
        vars(self)["name"] = given.slot
        vars(self)["toeplitz"] = isinstance(given, Strip)
        vars(self)["needs_content"] = not isinstance(given, Strip)
        if isinstance(given, Strip):
            self.reach = max(given.start + given.values.shape[1] - 1, 0)
            self.future_reach = max(-given.start, 0)

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        if not isinstance(self.given, Strip):
            raise ValueError(f"bias: got a given form ({self.given.slot}), which has no bias by offset, expected a strip")
        values = self.given.values
        return values[:, (offsets - self.given.start).clamp(0, values.shape[1] - 1)]

    def form(self, *_: object, **__: object) -> Form:
        return self.given  # in its own dtype: a conversion would copy the states

    def dense(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        **_: object,
    ) -> Tensor:
        given = self.given if dtype is None else self.given.to(dtype)
        return given.dense(num_queries, num_keys, query_start)


def _part(part: object) -> Scheme:
    if isinstance(part, Form):
        return _Given(part)
    if not isinstance(part, Scheme):
        raise ValueError(f"parts: got {type(part).__name__}, expected a scheme or a form")
    if part.needs_content and not isinstance(part, _Given):
        name = type(part).__name__
        raise ValueError(f"bias: got a {name} without states in a sum, expected its form: what {name} returns for states")
    return part


def _sum_of(forms: list[Form]) -> Form:
    made = Sum(forms)
    return made if len(made.parts) > 1 else made.parts[0]


def _farthest(reaches: list[int | None]) -> int | None:
    known = [reach for reach in reaches if reach is not None]
    return max(known) if len(known) == len(reaches) else None
