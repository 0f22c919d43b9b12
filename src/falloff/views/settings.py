"""What a scheme is made with: read off the signature of its class, so that no table of settings can fall behind."""

import inspect

from torch import Tensor

from falloff.schemes.base import Scheme


def setting_parameters(scheme: type[Scheme]) -> dict[str, inspect.Parameter]:
    """The settings that a scheme's class takes, beside the number of heads.

    >>> from falloff import T5Bias
    >>> list(setting_parameters(T5Bias))
    ['num_buckets', 'max_distance', 'bidirectional', 'std']
    """
    if scheme.__init__ is Scheme.__init__:
        return {}
    parameters = inspect.signature(scheme.__init__).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in ("self", "num_heads") and parameter.kind in named
    }


def settings_of(scheme: Scheme) -> dict[str, bool | int | float | str]:
    """The settings of a scheme at hand, as far as it keeps them.

    >>> from falloff import Sandwich
    >>> settings_of(Sandwich(4, dim=8))
    {'dim': 8, 'first': 1}
    """
    settings: dict[str, bool | int | float | str] = {}
    for name in setting_parameters(type(scheme)):
        value = getattr(scheme, name, None)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool | int | float | str):
            settings[name] = value
    return settings


def needs_states(scheme: type[Scheme]) -> bool:
    """Whether the bias is known only with the states that a model brings to each call.

    >>> from falloff import ALiBi, ProfileMixture
    >>> needs_states(ALiBi), needs_states(ProfileMixture)
    (False, True)
    """
    return "state" in inspect.signature(scheme.dense).parameters


def title_of(scheme: Scheme) -> str:
    """The scheme's name and settings, save switches that are off, in one line.

    >>> from falloff import T5Bias
    >>> title_of(T5Bias(1, num_buckets=4, max_distance=5))
    't5 (num_buckets=4, max_distance=5)'
    """
    settings = ", ".join(f"{name}={_shown(value)}" for name, value in settings_of(scheme).items() if value is not False)
    return f"{scheme.name} ({settings})" if settings else scheme.name


def _shown(value: bool | int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
