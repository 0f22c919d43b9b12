"""What every scheme is: a module that knows its bias at any offset, and gives it as a form or as a dense tensor."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from falloff.forms import Form, Strip
from falloff.offsets import offset_matrix, offset_range
from falloff.schemes.settings import arguments_of, settings_of
from falloff.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_Made = TypeVar("_Made", bound="Scheme")  # not Self, which the checks of shapes in the tests do not take

_SHORT_REACH = 1024


def check_std(std: object) -> None:
    """Refuse a standard deviation that is not a finite number of at least 0."""
    if not isinstance(std, int | float) or isinstance(std, bool) or not 0 <= std < math.inf:
        raise ValueError(f"std: got {std!r}, expected a finite number of at least 0")


def full_precision(device: str) -> AbstractContextManager[object]:
    """Without autocast."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def range_of_strip(lowest: int, highest: int, past: int | None, future: int | None) -> tuple[int, int]:
    """The ends of a strip that serves the offsets `lowest` .. `highest`, by its reach in the past and in the future."""
    # Short reaches are covered whatever N and M are, so that all calls have strips of one length. Long ones cost more
    # than the call may need; `sym_max` and `sym_min` do not ask a compiler which of the two it is, for each length anew.
    if past is not None and future is not None and max(past, future) <= _SHORT_REACH:
        lowest, highest = -future, past
    if future is not None:
        lowest = torch.sym_max(lowest, -future)
    if past is not None:
        highest = torch.sym_min(highest, past)
    return lowest, torch.sym_max(highest, lowest)


class Scheme(nn.Module):
    """A relative positional bias. A scheme of your own is a subclass with one method, `at`.

    `at(offsets)` takes integer offsets (query position - key position; positive: the key lies in the past), shape (L,),
    and returns the bias of every head at them, shape (H, L). Everything else follows from it: `form` for the kernels,
    `dense` for looking at it, `falloff.attention(query, key, value, bias)`, `falloff.hf.swap`, `plot` and `show`.

    **Calling a scheme gives its form**, and `falloff.attention` calls it, as any module of a model is called: what wraps
    modules (PEFT, FSDP, offloading, hooks) sees the call. A scheme that depends on positions is called with the sizes of
    the attention, see `forward`; one that depends on what the tokens say is called by the model with its states, and
    `attention` takes what came out: `attention(query, key, value, mixture(state))`, and counts the heads of the form. A
    module that is no scheme will do for `attention` too, if it can be called like one.

    >>> class Inverse(Scheme):
    ...     '''1 / (1 + distance), the same for both heads.'''
    ...
    ...     def at(self, offsets):
    ...         return (1 / (1 + offsets.abs())).expand(2, -1)
    >>> Inverse().dense(1, 3)[0]
    tensor([[0.3333, 0.5000, 1.0000]])
    """

    name: ClassVar[str]
    """The word for this scheme on the command line; the name of its class where it has none."""
    formula: str = "at(offset)"
    paper: str = ""
    reading: str = ""
    """The bias in words: how it treats distance. Where a setting changes it, the instance has its own, as of `formula`."""
    needs_content: ClassVar[bool] = False
    """Whether the bias depends on what the tokens say: a model calls the scheme with its states, and without one there is
    nothing to see. Such a scheme keeps its `num_heads`."""
    largest_settings: ClassVar[dict[str, int]] = {}
    """The largest value that a command takes for a setting: beyond, it would run for minutes or take gigabytes."""
    toeplitz: ClassVar[bool] = True
    """Whether the bias depends on the offset alone. Where it does not, `form` and `dense` take `text_start`."""

    reach: int | None = None
    """The offset from which the bias of keys in the past no longer changes; None: it never stops changing."""
    future_reach: int | None = None
    """Likewise for keys in the future, as a distance: 0 means that all of them have the bias of offset 0."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __new__(cls: type[_Made], *arguments: Any, **named: Any) -> _Made:
        scheme = super().__new__(cls)
        # What `settings_of` tells of it: kept here, so that no scheme has to keep its arguments for that.
        vars(scheme)["_made_with"] = arguments_of(cls, arguments, named)
        return scheme

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        """The settings that fit a model trained at a length, where the defaults do not: `falloff compare` takes them."""
        return {}

    @property
    def kind(self) -> Literal["learned", "heuristic"]:
        """'learned' where the bias has parameters that training moves, 'heuristic' where it is fixed."""
        return "learned" if any(parameter.requires_grad for parameter in self.parameters()) else "heuristic"

    @cached_property
    def num_heads(self) -> int:
        """How many heads the bias has: what the scheme keeps under this name, or else seen at one offset.

        Raises:
            NotImplementedError: for a scheme that depends on content and keeps no number.
        """
        if self.needs_content:
            raise NotImplementedError(f"{type(self).__name__} must set num_heads: without a model its bias is not known")
        try:
            with torch.no_grad():
                return self._values_at(torch.zeros(1, dtype=torch.long, device=self._device(None)), None).shape[0]
        except AttributeError as error:  # torch would say instead that there is no num_heads
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
        """`form`, or `dense` where that is asked for, as a call that hooks can see.

        Raises:
            ValueError: for a device that is not the parameters'.

        >>> from falloff import ALiBi
        >>> ALiBi(2)(3, 5).dense(3, 5).shape
        torch.Size([2, 3, 5])
        """
        own = next((parameter.device for parameter in self.parameters()), None)
        asked = None if device is None else torch.device(device)
        if own and asked and (asked.type != own.type or asked.index not in (None, own.index)):
            raise ValueError(f"bias: got device {own}, expected query's device {asked}")
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
        """The compact tensors that a kernel needs for a call of N queries and M keys.

        Args:
            num_queries, num_keys: N and M.
            query_start: position of the first query, counted from the first key; M - N by default.
            text_start: (B, N), the key at which the text of each query row starts, where padding or packed documents
                shift it; or one number for all, below 0 where the keys begin amid a text. Only schemes that are not
                Toeplitz look at it.
            device, dtype: where and in what precision to compute; by default those of the parameters, or the CPU and
                torch's default dtype where there are none. Never below float32.

        Returns:
            A `Strip`, or for schemes that are not Toeplitz a `Band` or `Warp`.
        """
        lowest, highest = range_of_strip(*offset_range(num_queries, num_keys, query_start), self.reach, self.future_reach)
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
        """The whole bias (H, N, M), or (B, H, N, M), from the definition and not by way of the form; as for `form`."""
        offsets = offset_matrix(num_queries, num_keys, query_start, self._device(device))
        values = self._values_at(offsets.flatten(), dtype)
        return values.view(values.shape[0], *offsets.shape)

    def plot(self, length: int = 256) -> "Figure":
        """The bias of every head by offset, as a matplotlib figure (extra `plot`).

        Offsets run from 0 to length - 1, and as far below 0 where keys in the future have a bias of their own.
        """
        from falloff import views  # views stand on schemes: only a call of these two methods reaches back to them

        return views.plot_curves(self, length)

    def show(self, length: int = 8, head: int = 0) -> "Figure":
        """The causal grid of `length` positions, each cell with its bucket or value, as a matplotlib figure."""
        from falloff import views

        return views.grid_figure(views.bias_grid(self, length, head=head))

    def _strip(self, lowest: int, highest: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Strip:
        """The bias of the offsets `lowest` .. `highest`."""
        offsets = torch.arange(lowest, highest + 1, device=self._device(device))
        # No view of a parameter, such as a transposed gather: FSDP warns of modules that return one.
        return Strip(self._values_at(offsets, dtype).contiguous(), lowest)

    def _values_at(self, offsets: Tensor, dtype: torch.dtype | None) -> Tensor:
        with full_precision(offsets.device.type):  # offsets do not survive half precision
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

    def _raised(self, parameter: Tensor) -> Tensor:
        """A parameter in at least float32: a bias is computed in full precision whatever the model's dtype is."""
        return parameter if parameter.dtype in (torch.float32, torch.float64) else parameter.float()

    def extra_repr(self) -> str:
        heads = {key: value for key, value in vars(self).items() if key == "num_heads"}  # not computed for this
        return ", ".join(f"{key}={value!r}" for key, value in {**heads, **settings_of(self)}.items())
