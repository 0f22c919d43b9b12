"""What the forms share: kind, tensors, numbers, and their checks."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from falloff.notebook import bundle, facts_html
from falloff.offsets import IntLike
from falloff.shapes import Bool


def check(condition: bool | torch.SymBool, argument: str, got: object, expected: str) -> None:
    """Raise ValueError unless the condition holds. Of a tensor, its shape is what was got."""
    if not condition:
        shown = tuple(got.shape) if isinstance(got, Tensor) else repr(got)
        raise ValueError(f"{argument}: got {shown}, expected {expected}")


def check_float_tensor(argument: str, tensor: object) -> None:
    """Raise ValueError for what is no floating point tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{argument}: got {type(tensor).__name__}, expected a tensor")
    if not tensor.is_floating_point():
        raise ValueError(f"{argument}: got dtype {tensor.dtype}, expected a floating point dtype")


def check_device(argument: str, tensor: Tensor, other: str, expected: Tensor) -> None:
    """Raise ValueError for a tensor on another device than one beside it."""
    if tensor.device != expected.device:
        raise ValueError(f"{argument}: got device {tensor.device}, expected {other}'s device {expected.device}")


@dataclass(frozen=True, eq=False)
class Form:
    """What the forms share: kind, tensors and numbers, as operators take them. `form_from_tensors` is the inverse."""

    kind: ClassVar[str]
    tensor_names: ClassVar[tuple[str, ...]]
    number_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, tensors: list[Tensor], numbers: list[int]) -> "Form":
        """The form of these `tensors` and `numbers`."""
        return cls(*tensors, *numbers)

    @property
    def parts(self) -> "tuple[Form, ...]":
        """The forms that are added: those of a `Sum`; else this one."""
        return (self,)

    @property
    def slot(self) -> str:
        """The kind and, where there are two, the side: a sum has at most one form of each."""
        return self.kind

    @property
    def tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.tensor_names]

    @property
    def numbers(self) -> list[int]:
        """The fields of a form that are not tensors, as integers."""
        return [getattr(self, name) for name in self.number_names]

    @property
    def num_heads(self) -> IntLike:
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

    def settled(self) -> "Form":
        """The same form with what kernels ask of its tensors, which waits for their device."""
        return self

    def hiding(self, key_mask: Bool[Tensor, "B M"]) -> "Form":
        """The same form with zeros for what belongs to keys that the mask hides: it may be NaN, and 0 * NaN is NaN."""
        return self

    def __add__(self, other: "Form") -> "Form":
        from falloff.forms.sums import Sum  # which is made of forms

        return Sum([self, other]) if isinstance(other, Form) else NotImplemented

    def _repr_html_(self) -> str:
        """What a notebook shows: what the form is, and its tensors."""
        described = (type(self).__doc__ or "").partition("\n")[0]
        tensors = zip(self.tensor_names, self.tensors, strict=True)
        facts: list[tuple[str, object]] = [
            *((name, f"{tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}") for name, tensor in tensors),
            *zip(self.number_names, self.numbers, strict=True),
        ]
        return facts_html(type(self).__name__, [("", described), ("heads", self.num_heads), *facts])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return bundle(repr(self), self._repr_html_())

    def dense(self, num_queries: int, num_keys: int, query_start: int | None = None) -> Tensor:
        """The bias as a tensor (H, N, M), or (B, H, N, M) if it depends on the batch entry."""
        raise NotImplementedError

    def check_call(self, batch: int, num_queries: int, num_keys: int) -> None:
        """Raise ValueError if this form does not fit the sizes of a call."""
