"""The settings of a scheme: the arguments of its constructor beside `num_heads`, and their values."""

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor

from falloff.eager import is_eager

if TYPE_CHECKING:
    from falloff.schemes.base import Scheme

Setting = bool | int | float | str | None

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MISSING = object()


def setting_parameters(cls: "type[Scheme]") -> dict[str, inspect.Parameter]:
    """The settings that a class takes: the arguments of its constructor, without the number of heads.

    >>> from falloff import T5Bias
    >>> list(setting_parameters(T5Bias))
    ['num_buckets', 'max_distance', 'bidirectional', 'std']
    """
    heads = _heads_parameter(cls)
    return {
        name: parameter
        for name, parameter in _parameters(cls).items()
        if parameter.kind in _BY_NAME and (heads is None or name != heads.name)
    }


def make(cls: "type[Scheme]", num_heads: int, settings: dict[str, Any]) -> "Scheme":
    """A scheme with this number of heads and these settings.

    The number of heads is passed as the argument `num_heads`, or else as the first argument if that has no default. A class
    without either has its own number of heads.

    >>> from falloff import Sandwich
    >>> make(Sandwich, 4, {"dim": 8})
    Sandwich(num_heads=4, dim=8, first=1)
    """
    heads = _heads_parameter(cls)
    if heads is None:
        return cls(**settings)
    if heads.kind is inspect.Parameter.POSITIONAL_ONLY:
        return cls(num_heads, **settings)
    return cls(**{heads.name: num_heads, **settings})


def settings_of(scheme: "Scheme") -> dict[str, Setting]:
    """The settings of a scheme: those of its arguments, given or default, that are a number, a string, a bool or None.

    If the scheme has an attribute with the name of a setting, the attribute is read: loading a checkpoint changes FIRE's
    `init_L`.

    >>> from falloff import Sandwich
    >>> settings_of(Sandwich(4, dim=8))
    {'dim': 8, 'first': 1}
    """
    made_with = vars(scheme).get("_made_with", {})
    settings: dict[str, Setting] = {}
    for name in setting_parameters(type(scheme)):
        for value in (_as_number(getattr(scheme, name, _MISSING)), _as_number(made_with.get(name, _MISSING))):
            if isinstance(value, Setting):
                settings[name] = value
                break
    return settings


def default_settings(cls: "type[Scheme]") -> dict[str, Setting]:
    """The settings of a class that have a default, with this default.

    >>> from falloff import Sandwich
    >>> default_settings(Sandwich)
    {'dim': 128, 'first': 1}
    """
    defaults = {name: parameter.default for name, parameter in setting_parameters(cls).items()}
    return {name: default for name, default in defaults.items() if isinstance(default, Setting)}


def title_of(scheme: "Scheme") -> str:
    """The scheme's name and settings in one line, without settings that are False and keyword-only ones at their default.

    >>> from falloff import T5Bias
    >>> title_of(T5Bias(1, num_buckets=4, max_distance=5))
    't5 (num_buckets=4, max_distance=5)'
    """
    parameters = setting_parameters(type(scheme))
    shown = ", ".join(
        f"{name}={_shown(value)}"
        for name, value in settings_of(scheme).items()
        if value is not False
        and not (parameters[name].kind is inspect.Parameter.KEYWORD_ONLY and value == parameters[name].default)
    )
    return f"{scheme.name} ({shown})" if shown else scheme.name


def arguments_of(cls: type, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Setting]:
    """The arguments of a constructor's call, given or default, that can be settings; {} if they do not fit its signature."""
    try:
        bound = inspect.signature(cls.__init__).bind(None, *arguments, **named)  # type: ignore[misc]
    except TypeError:
        return {}
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if isinstance(value, Setting)}


def _parameters(cls: "type[Scheme]") -> dict[str, inspect.Parameter]:
    """The parameters of the constructor without `self`."""
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def _heads_parameter(cls: "type[Scheme]") -> inspect.Parameter | None:
    parameters = _parameters(cls)
    if "num_heads" in parameters:
        return parameters["num_heads"]
    first = next(iter(parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return None
    return first if first.default is first.empty else None


def _as_number(value: object) -> object:
    """A tensor of one number as this number, or `_MISSING` if its value cannot be read; any other object as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.item() if value.numel() == 1 and not value.is_meta and is_eager() else _MISSING


def _shown(value: Setting) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
