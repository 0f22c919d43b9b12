"""The base class of all schemes: a module that defines its bias at any offset, and returns it as a form or as a tensor."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from falloff.forms import Form, Strip
from falloff.notebook import bundle
from falloff.offsets import offset_matrix, offset_range
from falloff.schemes.settings import arguments_of, settings_of
from falloff.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_Self = TypeVar("_Self", bound="Scheme")  # not typing.Self: the tests' checker of annotations does not take it

_SHORT_REACH = 1024


def check_std(std: object) -> None:
    """Refuse a standard deviation that is not a finite number of at least 0."""
    if not isinstance(std, int | float) or isinstance(std, bool) or not 0 <= std < math.inf:
        raise ValueError(f"std: got {std!r}, expected a finite number of at least 0")


def full_precision(device: str) -> AbstractContextManager[object]:
    """A context without autocast, in which large offsets would be rounded to half precision."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def strip_range(lowest: int, highest: int, reach: int | None, future_reach: int | None) -> tuple[int, int]:
    """First and last offset of a strip that serves the offsets `lowest` .. `highest`: it ends where the bias is constant."""
    # A short reach is covered whole whatever N and M are, so that the strips of all calls have one length. A long reach is
    # cut to what the call needs. `sym_max` and `sym_min` keep a symbolic length symbolic: no new compilation per length.
    if reach is not None and future_reach is not None and max(reach, future_reach) <= _SHORT_REACH:
        lowest, highest = -future_reach, reach
    if future_reach is not None:
        lowest = torch.sym_max(lowest, -future_reach)
    if reach is not None:
        highest = torch.sym_min(highest, reach)
    return lowest, torch.sym_max(highest, lowest)


class Scheme(nn.Module):
    """A relative positional bias. A scheme of your own is a subclass with one method, `at`.

    `at(offsets)` takes integer offsets (query position - key position; positive: the key lies in the past), shape (L,),
    and returns the bias of every head at them, shape (H, L). Everything else follows from `at`: the form for the kernels,
    the dense bias, `falloff.attention(query, key, value, bias)`, `falloff.hf.swap`, `plot` and `show`.

    **Calling a scheme returns its form.** `falloff.attention` calls it as a module, so that hooks and wrappers (PEFT, FSDP,
    offloading) see the call. If the bias depends on positions, `attention` calls the scheme with the sizes of the
    attention: see `forward`. If it depends on the content of the tokens, the model calls the scheme with its states, and
    passes the form: `attention(query, key, value, mixture(state))`. `attention` also takes a module that is no `Scheme`, if
    it can be called like one.

    >>> class Inverse(Scheme):
    ...     '''1 / (1 + distance), the same for both heads.'''
    ...
    ...     def at(self, offsets):
    ...         return (1 / (1 + offsets.abs())).expand(2, -1)
    >>> Inverse().dense(1, 3)[0]
    tensor([[0.3333, 0.5000, 1.0000]])
    """

    name: ClassVar[str]
    """The name of this scheme on the command line; by default the name of its class."""
    formula: str = "at(offset)"
    paper: str = ""
    reading: str = ""
    """The bias in words: how it treats distance. If a setting changes it or `formula`, the constructor sets both on the
    instance."""
    needs_content: ClassVar[bool] = False
    """Whether the bias depends on the content of the tokens: a model calls the scheme with its states; without states, the
    scheme has no bias. Its constructor must set `num_heads`."""
    largest_settings: ClassVar[dict[str, int]] = {}
    """The largest value that a command takes for a setting. A larger one would run for minutes or take gigabytes."""
    always: ClassVar[tuple[str, ...]] = ()
    """Which of the properties monotone, bounded, sign_symmetric, reach and beyond (of `falloff.views.Properties`) come out
    the same for every value of the parameters, by the formula alone. `explain` says so."""
    toeplitz: ClassVar[bool] = True
    """Whether the bias depends on the offset alone. If not, the scheme overrides `form` and `dense`."""

    reach: int | None = None
    """The offset from which the bias of keys in the past no longer changes; None if it never stops changing."""
    future_reach: int | None = None
    """The same for keys in the future, as a distance: 0 if all of them have the bias of offset 0."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __new__(cls: type[_Self], *arguments: Any, **named: Any) -> _Self:
        scheme = super().__new__(cls)
        # For `settings_of`: a scheme need not store its arguments as attributes.
        vars(scheme)["_made_with"] = arguments_of(cls, arguments, named)
        return scheme

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        """The settings for a model trained at this length, if the defaults do not fit: `falloff compare` uses them."""
        return {}

    @property
    def kind(self) -> Literal["learned", "heuristic"]:
        """'learned' if the bias has parameters that are trained, 'heuristic' if it is fixed."""
        return "learned" if any(parameter.requires_grad for parameter in self.parameters()) else "heuristic"

    @cached_property
    def num_heads(self) -> int:
        """H, the number of heads: what the constructor has set, or else that of the bias at one offset.

        Raises:
            NotImplementedError: if the bias depends on content and the constructor has set no `num_heads`.
            RuntimeError: if `at` raises an AttributeError.
            ValueError: if `at` does not return a tensor of shape (H, L).
        """
        if self.needs_content:
            raise NotImplementedError(f"{type(self).__name__} must set num_heads: its bias is unknown without states")
        try:
            with torch.no_grad():
                return self._values_at(torch.zeros(1, dtype=torch.long, device=self._device(None)), None).shape[0]
        except AttributeError as error:  # nn.Module would say instead that there is no num_heads
            raise RuntimeError(f"{type(self).__name__}.at: {error}").with_traceback(error.__traceback__) from error

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        """The bias of every head at integer offsets: (L,) -> (H, L). The scheme's published definition."""
        raise NotImplementedError(f"{type(self).__name__} must define at(offsets) -> (num_heads, len(offsets))")

    def forward(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: Int[Tensor, "B N"] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        dense: bool = False,
    ) -> Form | Tensor:
        """The result of `form`, or of `dense` if `dense` is True; hooks see this call. For the arguments see `form`.

        Raises:
            ValueError: if `device` is not the device of the parameters, or as `form` and `at` do.

        >>> from falloff import ALiBi
        >>> ALiBi(2)(3, 5).dense(3, 5).shape
        torch.Size([2, 3, 5])
        """
        own = next((parameter.device for parameter in self.parameters()), None)
        wanted = None if device is None else torch.device(device)
        if own and wanted and (wanted.type != own.type or wanted.index not in (None, own.index)):
            raise ValueError(f"bias: got device {own}, expected query's device {wanted}")
        build = self.dense if dense else self.form
        return build(num_queries, num_keys, query_start, text_start=text_start, device=device, dtype=dtype)

    def form(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: Int[Tensor, "B N"] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Form:
        """The few tensors from which a kernel computes the bias of N queries and M keys.

        Args:
            num_queries, num_keys: N and M, at least 0.
            query_start: position of the first query, counted from the first key; M - N by default.
            text_start: (B, N), the key at which the text of each query row starts, if padding or packed documents shift
                it; or one number for all rows, below 0 if the text starts before the first key. Toeplitz schemes ignore it.
            device: where the form is made; by default the device of the parameters, or the CPU if there are none.
            dtype: of the tensors of the form. By default float64 if a parameter has it (without parameters: if it is
                torch's default), else float32. falloff's schemes compute in at least float32 in any case.

        Returns:
            A `Strip`, or for schemes that are not Toeplitz a `Band` or `Warp`.

        Raises:
            ValueError: for an N, M or `query_start` out of range, or if `at` does not return a tensor of shape (H, L).
        """
        lowest, highest = strip_range(*offset_range(num_queries, num_keys, query_start), self.reach, self.future_reach)
        return self._strip(lowest, highest, device, dtype)

    def dense(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: Int[Tensor, "B N"] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The whole bias (H, N, M), or (B, H, N, M) if it depends on the batch entry.

        It is computed from the definition, without the form. Arguments and errors are those of `form`.
        """
        offsets = offset_matrix(num_queries, num_keys, query_start, self._device(device))
        values = self._values_at(offsets.flatten(), dtype)
        return values.view(values.shape[0], *offsets.shape)

    def __add__(self, other: "Scheme | Form") -> "Scheme":
        """The sum of this bias and another, a scheme."""
        from falloff.schemes.sums import SchemeSum  # which is made of schemes

        return SchemeSum(self, other) if isinstance(other, Scheme | Form) else NotImplemented

    def __radd__(self, other: Form) -> "Scheme":
        from falloff.schemes.sums import SchemeSum

        return SchemeSum(other, self) if isinstance(other, Form) else NotImplemented

    def plot(self, length: int = 256) -> "Figure":
        """The bias of every head by offset, as a matplotlib figure (extra `plot`).

        Offsets run from 0 to length - 1, and as far below 0 if keys in the future have a bias of their own.

        Raises:
            ValueError: for a length outside 1 .. 2^20, or a bias that depends on content.
            ImportError: without matplotlib.
        """
        from falloff import views  # at the call, not above: views import schemes

        return views.plot_curves(self, length)

    def show(self, length: int = 8, head: int = 0) -> "Figure":
        """The grid of `length` queries and keys, each cell with its bucket or value, as a matplotlib figure.

        Keys in the future are shown only if the scheme is bidirectional.

        Raises:
            ValueError: for a length or head out of range, or a bias that is not finite or depends on content.
            ImportError: without matplotlib.
        """
        from falloff import views

        return views.grid_figure(views.bias_grid(self, length, head=head))

    def _repr_html_(self) -> str:
        """What a notebook shows: formula, parameters, and the grid of the first head."""
        from falloff import views

        return views.scheme_html(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return bundle(repr(self), self._repr_html_())

    def _strip(self, lowest: int, highest: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Strip:
        """The bias of the offsets `lowest` .. `highest`."""
        offsets = torch.arange(lowest, highest + 1, device=self._device(device))
        # No view of a parameter, such as a transposed gather: FSDP warns of modules that return one.
        return Strip(self._values_at(offsets, dtype).contiguous(), lowest)

    def _values_at(self, offsets: Tensor, dtype: torch.dtype | None) -> Tensor:
        with full_precision(offsets.device.type):
            values = self.at(offsets)
        if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != offsets.shape[0]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{type(self).__name__}.at: got {got} for {offsets.shape[0]} offsets, expected a tensor of shape "
                f"(num_heads, {offsets.shape[0]})"
            )
        return values.to(dtype or self._dtype())

    def _device(self, device: torch.device | str | None) -> torch.device | str:
        if device is not None:
            return device
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def _dtype(self) -> torch.dtype:
        dtypes = [parameter.dtype for parameter in self.parameters()] or [torch.get_default_dtype()]
        return torch.float64 if torch.float64 in dtypes else torch.float32

    def _upcast(self, parameter: Tensor) -> Tensor:
        """A parameter in at least float32, in which a bias is computed whatever the dtype of the model is."""
        return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()

    def extra_repr(self) -> str:
        heads = {key: value for key, value in vars(self).items() if key == "num_heads"}  # not computed for this
        return ", ".join(f"{key}={value!r}" for key, value in {**heads, **settings_of(self)}.items())
