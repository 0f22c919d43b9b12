"""Sum: a few forms, whose biases are added."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.forms.base import Form, check
from falloff.forms.strip import Strip
from falloff.offsets import IntLike
from falloff.shapes import Bool

ORDER = ("strip", "band", "warp", "factored by query", "factored by key", "potential")
"""In which the forms of a sum are held: one of each at most."""
_MOST = 2**31  # values of the strip that two strips make


@dataclass(frozen=True, eq=False)
class Sum(Form):
    """The sum of a few forms, at most one of each kind, and of `Factored` one for each side. Strips are added to one strip.

    Args:
        forms: at least one form, each of the same number of heads. A `Sum` among them counts as its own forms.

    >>> strip = Strip(torch.tensor([[0.0, -1.0]]))
    >>> Sum([strip, Strip(torch.tensor([[10.0, 20.0]]), start=1)]).dense(1, 4)
    tensor([[[19., 19.,  9., 10.]]])
    """

    forms: Sequence[Form]

    def __post_init__(self) -> None:
        check(isinstance(self.forms, Sequence) and len(self.forms) > 0, "forms", self.forms, "a list of forms")
        found: dict[str, Form] = {}
        for form in self.forms:
            check(isinstance(form, Form), "forms", form, "Strip, Band, Warp, Factored, Potential or Sum")
            for part in form.parts:
                known = found.get(part.slot)
                if isinstance(known, Strip) and isinstance(part, Strip):
                    part = _added(known, part)
                elif known is not None:
                    check(False, "forms", [part.slot, part.slot], "at most one form of each kind and side")
                found[part.slot] = part
        parts = tuple(sorted(found.values(), key=lambda part: ORDER.index(part.slot)))
        for part in parts[1:]:
            if part.num_heads != parts[0].num_heads:
                check(False, part.slot, part.num_heads, f"the {parts[0].num_heads} heads of the {parts[0].slot}")
            if part.device != parts[0].device:
                raise ValueError(
                    f"{part.slot}: got device {part.device}, expected that of the {parts[0].slot}, {parts[0].device}"
                )
        object.__setattr__(self, "forms", parts)

    @property
    def parts(self) -> tuple[Form, ...]:
        return tuple(self.forms)

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "+".join(part.kind for part in self.forms)

    @property
    def slot(self) -> str:
        return " + ".join(part.slot for part in self.forms)

    @property
    def tensor_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{part.slot}: {name}" for part in self.forms for name in part.tensor_names)

    @property
    def number_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{part.slot}: {name}" for part in self.forms for name in part.number_names)

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for part in self.forms for tensor in part.tensors]

    @property
    def numbers(self) -> list[int]:
        return [number for part in self.forms for number in part.numbers]

    @property
    def num_heads(self) -> IntLike:
        return self.forms[0].num_heads

    @property
    def device(self) -> torch.device:
        return self.forms[0].device

    def to(self, dtype: torch.dtype) -> "Sum":
        return Sum([part.to(dtype) for part in self.forms])

    def scaled(self, factor: float) -> "Sum":
        return Sum([part.scaled(factor) for part in self.forms])

    def settled(self) -> "Sum":
        return Sum([part.settled() for part in self.forms])

    def hiding(self, key_mask: Bool[Tensor, "B M"]) -> "Sum":
        return Sum([part.hiding(key_mask) for part in self.forms])

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        for part in self.forms:
            part.check_call(batch, num_queries, num_keys)

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Tensor:
        first, *others = (part.dense(num_queries, num_keys, query_start) for part in self.forms)
        for other in others:
            first = first + other
        return first


def _added(one: Strip, other: Strip) -> Strip:
    """One strip from the lower start of two to the higher end, outside of which both keep their values."""
    start = torch.sym_min(one.start, other.start)
    stop = torch.sym_max(one.start + one.values.shape[1], other.start + other.values.shape[1])
    check(one.num_heads == other.num_heads, "values", other.values, f"{one.num_heads} heads, as the other strip has")
    check(stop - start <= _MOST, "forms", (one.start, other.start), f"starts of strips within {_MOST} of each other")
    offsets = torch.arange(start, stop, device=one.device)
    values = [strip.values[:, (offsets - strip.start).clamp(0, strip.values.shape[1] - 1)] for strip in (one, other)]
    return Strip(values[0] + values[1], start)
