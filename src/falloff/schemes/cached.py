"""The cache of a scheme: its constants, and whole forms as long as they need no gradient and nothing has changed."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from falloff.cache import Cache, Location, can_compare, location_of
from falloff.eager import is_eager
from falloff.forms import Form, Strip
from falloff.offsets import offset_range
from falloff.schemes.base import Scheme, full_precision, strip_range
from falloff.shapes import Float, Int

_FEW_QUERIES = 16  # generation: one token, or a few drafted ones, at a time
_OFFSET_STEP = 128  # the length of a strip for few queries is rounded up to this: it serves as many tokens
_CACHES = ("_constant_cache", "_form_cache")
_METHODS = frozenset(("at", "form", "bucket", "threshold"))  # one set on the instance changes its bias


class CachedScheme(Scheme):
    """A scheme that caches what does not change. A subclass splits `at` in two: `_constants`, then `_bias` from them.

    Constants depend on offsets, settings and dtype alone. A form depends on the tensors of `_dependencies` too. On the CPU
    forms are cached with copies of them, and returned again while they equal their copies. Version counters are not enough:
    `parameter.data.copy_(average)`, a view or another process can write to a parameter without moving its counter. On a
    GPU the comparison would wait for the device, so only a form without dependencies is cached there; others are computed
    from cached constants, in a few launches.

    The caches are no buffers: if a model were loaded by way of the device meta, a buffer would be left uninitialized. Copies
    and pickles do not contain them, and setting any attribute clears them.
    """

    depends_on: ClassVar[tuple[str, ...]] = ()
    """The names of the parameters that the bias depends on (in FIRE, of a buffer and a network too). Only the class that
    defines this itself uses the caches: a subclass may override any method, so its bias is computed at each call, unless it
    defines `depends_on` again."""

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        """The bias of every head at integer offsets: (L,) -> (H, L)."""
        return self._bias(self._constants(offsets))

    def _constants(self, offsets: Tensor) -> Any:
        """The part of the bias that depends on no parameter: a tensor (L,), or a tuple of tensors."""
        raise NotImplementedError

    def _bias(self, constants: Any) -> Tensor:
        """The bias (H, L) from `_constants`."""
        raise NotImplementedError

    def _dependencies(self) -> Sequence[Tensor | None]:
        """All tensors that the bias depends on; None for one that is replaced, such as by a parametrization."""
        return [self._parameters.get(name) for name in self.depends_on]

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
        """As `Scheme.forward`, but the form may be shared with other calls, and longer than this one needs.

        To write to a form, take it from `form`.
        """
        sizes = (num_queries, num_keys, query_start)
        # What is no int has its error from `form`, and is not compared with the sizes of another call: True == 1.
        plain = type(num_queries) is type(num_keys) is int and (query_start is None or type(query_start) is int)
        if not dense and plain and self._may_cache() and (location := location_of(self._device(device))) is not None:
            tensors = self._dependencies()
            if can_compare(tensors, location):
                forms, dtype = self._forms(tensors), dtype or self._dtype()  # type: ignore[arg-type]
                # The layers of a model often share a scheme, and ask it for the same sizes one after another.
                call = (*sizes, location, dtype) if text_start is None else None
                form = forms.of_call(call) or forms.remember(
                    call, self._cached_form(forms, sizes, text_start, location, dtype)
                )
                if form is not None:
                    return form
        return super().forward(
            num_queries, num_keys, query_start, text_start=text_start, device=device, dtype=dtype, dense=dense
        )

    def _forms(self, dependencies: Sequence[Tensor]) -> "Cache":
        """The cache of forms that were computed from tensors equal to `dependencies`; an empty one if there is none."""
        forms: Cache | None = self.__dict__.get("_form_cache")
        if forms is None or not forms.computed_from(dependencies):
            forms = self.__dict__["_form_cache"] = Cache.of(dependencies)
        return forms

    def _cached_form(
        self,
        forms: "Cache",
        sizes: tuple[int, int, int | None],
        text_start: Tensor | int | None,
        location: "Location",
        dtype: torch.dtype,
    ) -> Form | None:
        """The form of a call, from the cache or into it; None if a form of this call is not cached."""
        lowest, highest = cached_range(*sizes, self.reach, self.future_reach)
        key = ("strip", location, dtype, lowest, highest)
        return forms.get(key, lambda: self._strip(lowest, highest, location.device, dtype))

    def _strip(self, lowest: int, highest: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Strip:
        if not self._may_cache():
            return super()._strip(lowest, highest, device, dtype)
        device = self._device(device)
        with full_precision(torch.device(device).type):
            values = self._bias(self._constants_between(lowest, highest, device))
        return Strip(values.to(dtype or self._dtype()).contiguous(), lowest)

    def _constants_between(self, lowest: int, highest: int, device: torch.device | str) -> Any:
        """The constants of the offsets `lowest` .. `highest`."""

        def compute() -> Any:
            return self._constants(torch.arange(lowest, highest + 1, device=device))

        location = location_of(device) if self._may_cache() else None
        if location is None:
            return compute()
        # Taken before `compute` reads settings: if another thread sets one meanwhile, this cache and the result are dropped.
        constants = self.__dict__.get("_constant_cache")
        if constants is None:
            constants = self.__dict__["_constant_cache"] = Cache()
        return constants.get((location, self._dtype(), lowest, highest), compute)

    def _may_cache(self) -> bool:
        """Whether tensors have values and no tangents, which a cached form would lose, and no method is overridden."""
        if not is_eager() or forward_ad._current_level >= 0:
            return False
        return "depends_on" in vars(type(self)) and _METHODS.isdisjoint(self.__dict__)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for cache in _CACHES:
            self.__dict__.pop(cache, None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _CACHES}


@lru_cache(maxsize=256, typed=True)
def cached_range(
    num_queries: int, num_keys: int, query_start: int | None, reach: int | None, future_reach: int | None
) -> tuple[int, int]:
    """First and last offset of a strip to be cached: for few queries it goes further, so that it serves the next tokens."""
    lowest, highest = offset_range(num_queries, num_keys, query_start)
    if num_queries <= _FEW_QUERIES:
        highest += -(highest + 1) % _OFFSET_STEP
    return strip_range(lowest, highest, reach, future_reach)
