"""What a scheme keeps between calls: constants, and whole forms where nothing needs a gradient and nothing changed."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from falloff.eager import is_eager
from falloff.forms import Form, Strip
from falloff.offsets import offset_range
from falloff.schemes.base import Scheme, full_precision, range_of_strip
from falloff.shapes import Float, Int

_MOST_ENTRIES = 8
_MOST_NUMBERS = 2**22  # 16 MB of float32 for each scheme: a strip of 32 heads at 128k keys
_FEW_QUERIES = 16  # generation, a token or a few drafted ones at a time
_STEP = 128  # tokens of generation that one form serves
_METHODS = frozenset(("at", "form", "bucket", "threshold"))


class KeptScheme(Scheme):
    """A scheme that keeps what does not change. A subclass splits `at` in two: `_constants`, then `_bias` from them.

    Constants are a function of offsets, settings and dtype. A form depends on `_sources` too, the tensors that it is made
    from. It is kept with a copy of each, and handed out again while they are equal: `parameter.data.copy_(average)`, a view
    or another process can write to a parameter without moving its version counter. They are compared on the CPU alone, for a
    GPU would have to be waited for. There a form is made from its constants, in a few launches.

    What is kept is no buffer: loading a model by way of the device meta would leave it as garbage. Copies and pickles do
    without it, and setting an attribute drops it.
    """

    keeps: ClassVar[tuple[str, ...]] = ()
    """The parameters that the bias depends on. Only the class that states them keeps anything: a subclass may redefine what
    it likes, and is asked each time."""

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        """The bias of every head at integer offsets: (L,) -> (H, L)."""
        return self._bias(self._constants(offsets))

    def _constants(self, offsets: Tensor) -> Any:
        """What no parameter's value changes of the bias at these offsets: a tensor (L,), or a tuple of it and others."""
        raise NotImplementedError

    def _bias(self, constants: Any) -> Tensor:
        """The bias (H, L) from `_constants`."""
        raise NotImplementedError

    def _sources(self) -> Sequence[Tensor | None]:
        """All tensors that the bias depends on; None for one that something else stands in for."""
        return [self._parameters.get(name) for name in self.keeps]

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
        """As `Scheme.forward`. The form may be one that an earlier call was handed: `form` makes one to write to."""
        if not dense and self._may_keep() and (place := place_of(self._device(device))) is not None:
            sources, sizes = self._sources(), (num_queries, num_keys, query_start)
            if _can_compare(sources, place):
                form = self._kept_form(sizes, text_start, place, dtype or self._dtype(), sources)  # type: ignore[arg-type]
                if form is not None:
                    return form
        return super().forward(
            num_queries, num_keys, query_start, text_start=text_start, device=device, dtype=dtype, dense=dense
        )

    def _kept_form(
        self,
        sizes: tuple[int, int, int | None],
        text_start: Tensor | int | None,
        place: "Place",
        dtype: torch.dtype,
        sources: Sequence[Tensor],
    ) -> Form | None:
        """The form of a call, kept from an earlier one or for later ones; None where it is not worth it."""
        lowest, highest = range_to_keep(*sizes, self.reach, self.future_reach)
        key = ("strip", place, dtype, lowest, highest)
        return self._once(key, lambda: self._strip(lowest, highest, place.device, dtype), sources)

    def _strip(self, lowest: int, highest: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Strip:
        if not self._may_keep():
            return super()._strip(lowest, highest, device, dtype)
        device = self._device(device)
        with full_precision(torch.device(device).type):
            values = self._bias(self._constants_between(lowest, highest, device))
        return Strip(values.to(dtype or self._dtype()).contiguous(), lowest)

    def _constants_between(self, lowest: int, highest: int, device: torch.device | str) -> Any:
        """The constants of the offsets `lowest` .. `highest`."""

        def make() -> Any:
            return self._constants(torch.arange(lowest, highest + 1, device=device))

        place = place_of(device) if self._may_keep() else None
        return make() if place is None else self._once(("constants", place, self._dtype(), lowest, highest), make)

    def _may_keep(self) -> bool:
        """Not where tensors have no values, or may have a tangent, which would be lost; nor where a method is redefined."""
        if not is_eager() or forward_ad._current_level >= 0:
            return False
        return "keeps" in vars(type(self)) and _METHODS.isdisjoint(self.__dict__)

    def _once(self, key: Hashable, make: Callable[[], Any], sources: Sequence[Tensor] = ()) -> Any:
        """What is kept under this key and was made from tensors equal to `sources`; else what `make` makes."""
        kept = self.__dict__.get("_kept")  # found before a setting is read: what another thread sets meanwhile drops it
        if kept is None:
            kept = self.__dict__["_kept"] = Kept()
        entry = kept.entries.get(key)
        if entry is not None and entry.holds(sources):
            return entry.made
        # Not in inference mode: a later backward may need it. The copies come first: what another thread writes to a source
        # after that makes them differ.
        with torch.inference_mode(False), torch.no_grad():
            copies = [source.clone() for source in sources]
            made = make()
        parts = made.tensors if isinstance(made, Form) else made if isinstance(made, tuple) else (made,)
        kept.add(key, Entry(made, [(part, part._version) for part in parts], copies))
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__.pop("_kept", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


class Entry(NamedTuple):
    """What is kept, its tensors and their versions, and copies of the tensors that it was made from."""

    made: Any
    tensors: list[tuple[Tensor, int]]
    copies: list[Tensor]

    def holds(self, sources: Sequence[Tensor]) -> bool:
        """Whether it would be made alike from these, and nobody has written to what was handed out."""
        for tensor, version in self.tensors:
            if tensor._version != version or tensor.requires_grad:
                return False
        for copy, source in zip(self.copies, sources):  # noqa: B905  `strict` costs as much as the loop
            if copy.dtype != source.dtype or not torch.equal(copy, source):
                return False
        return True

    @property
    def size(self) -> int:
        return sum(tensor.numel() for tensor, _ in self.tensors) + sum(copy.numel() for copy in self.copies)


class Kept:
    """A few entries, the newest first. They are replaced as a whole: threads see those of before or of after."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, Entry] = {}

    def add(self, key: Hashable, new: Entry) -> None:
        numbers = new.size
        if numbers > _MOST_NUMBERS:
            return
        entries = {key: new}
        for other, older in self.entries.items():
            numbers += older.size
            if other != key and numbers <= _MOST_NUMBERS and len(entries) < _MOST_ENTRIES:
                entries[other] = older
        self.entries = entries


class Place(NamedTuple):
    """A device, and on GPUs the stream: memory made on one stream is neither ready nor safe to free on another."""

    device: torch.device
    stream: int


_CPU = Place(torch.device("cpu"), 0)


def place_of(device: torch.device | str) -> Place | None:
    """Where tensors on a device may be kept, or None: not while a CUDA graph records, which owns what is made meanwhile."""
    device = torch.device(device)
    if device.type == "cpu":
        return _CPU
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return Place(torch.device("cuda", index), torch.cuda.current_stream(index).cuda_stream)


def _can_compare(sources: Sequence[Tensor | None], place: Place) -> bool:
    """Whether all are plain tensors with memory on the CPU, and none needs a gradient."""
    learns = torch.is_grad_enabled()
    for source in sources:
        if type(source) is not nn.Parameter and type(source) is not Tensor:
            return False
        if not source.is_cpu or place is not _CPU or (learns and source.requires_grad):
            return False
        if source.untyped_storage().nbytes() == 0:  # FSDP frees memory between uses
            return False
    return True


@lru_cache(maxsize=256, typed=True)
def range_to_keep(
    num_queries: int, num_keys: int, query_start: int | None, reach: int | None, future_reach: int | None
) -> tuple[int, int]:
    """The first and last offset of a strip that is kept: for a few queries some more, so that it lasts for some tokens."""
    lowest, highest = offset_range(num_queries, num_keys, query_start)
    if num_queries <= _FEW_QUERIES:
        highest += -(highest + 1) % _STEP
    return range_of_strip(lowest, highest, reach, future_reach)
