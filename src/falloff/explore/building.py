"""Schemes from the fields of the page: which settings have a slider, between which ends, and the scheme that they make."""

from dataclasses import dataclass
from typing import Any

import torch

from falloff.schemes import SCHEMES, Scheme
from falloff.schemes.settings import default_settings, make, setting_parameters

PLAIN = tuple(name for name, cls in SCHEMES.items() if not cls.needs_content)
"""The schemes that have a bias without a model, by name."""

MOST_HEADS = 16


@dataclass(frozen=True)
class Range:
    """The ends of a setting's slider. `doubling`: equal steps of the slider multiply the value."""

    low: float
    high: float
    doubling: bool = False
    whole: bool = True


_RANGES = {
    "num_buckets": Range(2, 128),
    "max_distance": Range(2, 4096, doubling=True),
    "std": Range(0, 2, whole=False),
    "width": Range(1, 128, doubling=True),
    "init_c": Range(0.001, 10, doubling=True, whole=False),
    "init_L": Range(1, 4096, doubling=True, whole=False),
    "dim": Range(2, 1024, doubling=True),
    "first": Range(0, 16),
    "kernels": Range(1, 64),
}
_OTHERWISE = Range(1, 1024, doubling=True)

# Where the published value shows little in so small a picture.
_FIRST_SHOWN: dict[str, dict[str, Any]] = {"fire": {"init_L": 8.0}}


def range_of(setting: str) -> Range:
    """The slider of a setting."""
    return _RANGES.get(setting, _OTHERWISE)


def first_settings(scheme: str) -> dict[str, Any]:
    """The settings that the page starts with: the defaults, with few exceptions."""
    return default_settings(SCHEMES[scheme]) | _FIRST_SHOWN.get(scheme, {})


def build(scheme: str, num_heads: object, seed: object, settings: dict[str, Any]) -> Scheme:
    """A published scheme with the initial values of a seed; torch's generator is left as it was.

    Raises:
        ValueError: naming the field, what stood there and what may.

    >>> build("t5", 2, 0, {"num_buckets": 3}).num_buckets
    3
    >>> build("t5", 2, 0, {"num_buckets": None})
    Traceback (most recent call last):
    ...
    ValueError: num_buckets: got nothing, expected a number
    """
    if scheme not in PLAIN:
        raise ValueError(f"scheme: got {scheme!r}, expected one of {', '.join(PLAIN)}")
    cls = SCHEMES[scheme]
    heads = whole("heads", num_heads, 1, MOST_HEADS)
    taken = setting_parameters(cls)
    given: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(value, int | float):  # such as a number in quotes
            raise ValueError(f"{name}: got {_written(value)}, expected a number")
        default = taken[name].default
        most = cls.largest_settings.get(name, range_of(name).high)
        if not isinstance(value, bool) and not -most <= value <= most:
            raise ValueError(f"{name}: got {_written(value)}, expected at most {most:g} on this page")
        whole_number = isinstance(default, int) and not isinstance(default, bool)
        given[name] = int(value) if whole_number and float(value).is_integer() else value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(whole("seed", seed, 0, 2**32 - 1))
        return make(cls, heads, given)


def shown_head(value: object, scheme: Scheme) -> tuple[int, str]:
    """The head that a picture shows: that of the field, or the last one; and words about it if it is another.

    Raises:
        ValueError: naming the field.

    >>> shown_head(5, build("alibi", 2, 0, {}))
    (1, 'There are 2 heads, from 0 on: head 1 is shown.')
    """
    asked = whole("head", value, 0, MOST_HEADS - 1)
    heads = scheme.num_heads
    if asked < heads:
        return asked, ""
    return heads - 1, f"There {'is 1 head' if heads == 1 else f'are {heads} heads'}, from 0 on: head {heads - 1} is shown."


def whole(name: str, value: object, least: int, most: int) -> int:
    """A whole number from a field.

    Raises:
        ValueError: naming the field.

    >>> whole("heads", 4.0, 1, 8)
    4
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{name}: got {_written(value)}, expected a whole number")
    if not least <= value <= most:
        raise ValueError(f"{name}: got {_written(value)}, expected {least} to {most}")
    return int(value)


def _written(value: object) -> str:
    """A value as a message names it, however long it is."""
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."
