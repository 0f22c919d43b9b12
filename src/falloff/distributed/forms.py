"""What the dimensions of a form's tensors stand for: by this table a form is cut, sent and gathered."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from falloff.forms import Band, Factored, Form, Potential, Strip, Warp, form_from_tensors
from falloff.ops.checks import refuse


@dataclass(frozen=True)
class Axes:
    """Which dimension of a tensor is that of batch entries, of heads, and of query rows or keys; None if it has none."""

    batch: int | None = None
    heads: int | None = None
    length: int | None = None
    of_keys: bool = False
    """Whether `length` is of keys."""


_ROWS, _KEYS = Axes(0, 1, 2), Axes(0, 1, 2, of_keys=True)
_BY_HEAD, _SHARED = Axes(heads=0), Axes()


def axes_of(form: Form) -> list[Axes]:
    """Those of each of a form's tensors.

    Raises:
        ValueError: for a form that is none of falloff's own.
    """
    found: list[Axes] = []
    for part in form.parts:
        if isinstance(part, Strip):
            found += [_BY_HEAD]
        elif isinstance(part, Band):
            found += [_ROWS]
        elif isinstance(part, Warp):
            multiplier = Axes(length=0) if part.a.dim() == 1 else Axes(batch=0, length=1)
            found += [_SHARED, multiplier, _SHARED, _BY_HEAD, _BY_HEAD]
        elif isinstance(part, Factored):
            states = _ROWS if part.side == "query" else _KEYS
            found += [states, _SHARED if part.table.shape[0] == 1 else _BY_HEAD]
        elif isinstance(part, Potential):
            found += [_ROWS, _KEYS]
        else:
            refuse("bias", type(part).__name__, "Strip, Band, Warp, Factored, Potential or Sum")
    return found


def rebuilt(form: Form, tensors: Sequence[Tensor]) -> Form:
    """The same form with other tensors, in the order of `form.tensors`."""
    return form_from_tensors(form.kind, tensors, form.numbers)


def narrowed(
    form: Form,
    *,
    batch: tuple[int, int] | None = None,
    heads: tuple[int, int] | None = None,
    rows: tuple[int, int] | None = None,
    keys: tuple[int, int] | None = None,
) -> Form:
    """The part of a form for some batch entries, heads, query rows or keys, each given as the first and how many."""
    tensors = []
    for tensor, axes in zip(form.tensors, axes_of(form), strict=True):
        for dim, part in ((axes.batch, batch), (axes.heads, heads), (axes.length, keys if axes.of_keys else rows)):
            if dim is not None and part is not None:
                tensor = tensor.narrow(dim, *part)
        tensors.append(tensor)
    return rebuilt(form, tensors)
