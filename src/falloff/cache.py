"""A cache of results that were computed from tensors, as long as these tensors keep their values and need no gradient."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from falloff.forms import Form

MOST_ENTRIES = 8
MOST_NUMBERS = 2**22  # of each cache, of its copies, and of a form that it remembers: a strip of 32 heads at 128k keys


class Entry(NamedTuple):
    """A cached result, and its tensors with their versions."""

    result: Any
    tensors: list[tuple[Tensor, int]]

    @classmethod
    def of(cls, result: Any) -> "Entry":
        parts = result.tensors if isinstance(result, Form) else result if isinstance(result, tuple) else (result,)
        return cls(result, [(part, part._version) for part in parts if isinstance(part, Tensor)])

    def is_unchanged(self) -> bool:
        """Whether no caller has written to the result that was returned before."""
        for tensor, version in self.tensors:  # noqa: SIM110  `all` takes longer
            if tensor._version != version or tensor.requires_grad:
                return False
        return True

    @property
    def size(self) -> int:
        return sum(tensor.numel() for tensor, _ in self.tensors)


class Cache:
    """A few results, the newest first, and copies of the tensors that they were computed from."""

    def __init__(self, copies: Sequence[Tensor] = ()) -> None:
        self.copies = copies
        self.entries: dict[Hashable, Entry] = {}
        self._last: tuple[Hashable, Entry] = (None, Entry(None, []))

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Cache":
        """An empty cache of what will be computed from these tensors.

        They are copied first: if another thread writes to one after that, the copy differs from it, and what was computed
        meanwhile is not returned again - unless the tensor gets its old values back by then.
        """
        with torch.inference_mode(False), torch.no_grad():
            return cls([tensor.clone() for tensor in tensors])

    def computed_from(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors would give the same results."""
        if len(self.copies) != len(tensors):
            return False
        for copy, tensor in zip(self.copies, tensors):  # noqa: B905  `strict` costs as much as the loop
            if copy.dtype != tensor.dtype or not torch.equal(copy, tensor):
                return False
        return True

    def of_call(self, call: Hashable) -> Form | None:
        """The form of this call, if it is the one that is remembered. None stands for a call that never is."""
        last, entry = self._last
        return entry.result if call == last and entry.is_unchanged() else None

    def remember(self, call: Hashable, form: Form | None) -> Form | None:
        """Remember the form of a call until the next one, beside the entries. Returns it."""
        new = Entry.of(form)
        if new.size <= MOST_NUMBERS and call is not None:
            self._last = (call, new)
        return form

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result under this key: a cached one, or else a new one."""
        entry = self.entries.get(key)
        if entry is not None and entry.is_unchanged():
            return entry.result
        with torch.inference_mode(False), torch.no_grad():  # a later backward may need it
            result = compute()
        self._add(key, Entry.of(result))
        return result

    def _add(self, key: Hashable, new: Entry) -> None:
        """Add an entry. Replaces the whole dict, so that another thread never sees half a change."""
        numbers = new.size
        if numbers > MOST_NUMBERS:
            return
        entries = {key: new}
        for other, older in self.entries.items():
            numbers += older.size
            if other != key and numbers <= MOST_NUMBERS and len(entries) < MOST_ENTRIES:
                entries[other] = older
        self.entries = entries


class Location(NamedTuple):
    """A device, and on GPUs the stream: memory made on one stream is neither ready nor safe to free on another."""

    device: torch.device
    stream: int


_CPU = Location(torch.device("cpu"), 0)


def location_of(device: torch.device | str) -> Location | None:
    """Where a cached tensor may be made; None if nowhere: while a CUDA graph records, it owns all memory made meanwhile."""
    device = torch.device(device)
    if device.type == "cpu":
        return _CPU
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return Location(torch.device("cuda", index), torch.cuda.current_stream(index).cuda_stream)


def can_compare(dependencies: Sequence[Tensor | None], location: Location, most: int = MOST_NUMBERS) -> bool:
    """Whether all are plain tensors with memory on the CPU, of at most so many numbers, and none needs a gradient."""
    learns = torch.is_grad_enabled()
    numbers = 0
    for tensor in dependencies:
        if type(tensor) is not nn.Parameter and type(tensor) is not Tensor:
            return False
        if not tensor.is_cpu or location is not _CPU or (learns and tensor.requires_grad):
            return False
        if tensor.untyped_storage().nbytes() == 0:  # FSDP frees memory between uses
            return False
        numbers += tensor.numel()
    return numbers <= most  # to copy and compare
