"""Scheme names and settings on the command line: the options come from the signatures of the schemes themselves."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

from falloff.schemes import SCHEMES, Scheme
from falloff.views.settings import setting_parameters

_PANEL = "Settings of a scheme"

# Beyond these a command would take minutes or gigabytes; from Python there is no such bound.
_MOST = {"num_buckets": 1024, "dim": 8192, "width": 1024, "kernels": 64, "state_dim": 1024, "extent": 2**16}
_MOST_OTHERWISE = 2**20

SchemeName = Annotated[str, typer.Argument(metavar="SCHEME", help=f"One of {', '.join(SCHEMES)}.", show_default=False)]
NumHeads = Annotated[int, typer.Option("--num-heads", min=1, max=128, help="How many heads the bias has.")]
Head = Annotated[int, typer.Option("--head", min=0, help="The head whose values to show, counted from 0.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the start values that are random.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def option_name(setting: str) -> str:
    """The option of a setting.

    >>> option_name("init_L")
    '--init-l'
    """
    return "--" + setting.lower().replace("_", "-")


def scheme_class(name: str, argument: str = "SCHEME") -> type[Scheme]:
    """The scheme of that name.

    Raises:
        ValueError: for an unknown name, with the known ones.

    >>> scheme_class("alibi").__name__
    'ALiBi'
    """
    try:
        return SCHEMES[name.lower().replace("_", "-")]
    except KeyError:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(SCHEMES)}") from None


def build_scheme(cls: type[Scheme], num_heads: int, seed: int, settings: dict[str, Any]) -> Scheme:
    """A scheme with the start values of that seed; torch's generator is left as it was.

    Raises:
        ValueError: for a setting that the scheme does not take, or out of range.
    """
    taken = setting_parameters(cls)
    for name, value in settings.items():
        if name not in taken:
            takes = ", ".join(map(option_name, taken)) or "no setting beside --num-heads"
            raise ValueError(f"{option_name(name)}: {cls.name} does not take it, expected {takes}")
        most = _MOST.get(name, _MOST_OTHERWISE)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{option_name(name)}: got {value}, expected a finite number")
        if not isinstance(value, bool | float) and value > most:
            raise ValueError(f"{option_name(name)}: got {value}, expected at most {most} on the command line")
    arguments: dict[str, Any] = {"num_heads": num_heads, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return cls(**arguments)
        except ValueError as error:
            argument, colon, rest = str(error).partition(":")
            raise ValueError(f"{option_name(argument)}{colon}{rest}" if argument in arguments else str(error)) from None


def is_random(cls: type[Scheme], settings: dict[str, Any]) -> bool:
    """Whether the start values of its parameters differ from seed to seed."""
    one, other = (build_scheme(cls, 1, seed, settings).state_dict() for seed in (0, 1))
    return any(not torch.equal(one[name], other[name]) for name in one)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting of every scheme, and hand it those that were given as `settings`."""
    types: dict[str, type] = {}
    takers: dict[str, list[str]] = {}
    for scheme in SCHEMES.values():
        for name, parameter in setting_parameters(scheme).items():
            types[name] = parameter.annotation
            default = "" if isinstance(parameter.default, bool) else f" (default {parameter.default})"
            takers.setdefault(name, []).append(scheme.name + default)

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in types}
        command(settings={name: value for name, value in options.items() if value is not None}, **arguments)

    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                types[name] | None,
                typer.Option(option_name(name), help=f"For {', '.join(takers[name])}.", rich_help_panel=_PANEL),
            ],
        )
        for name in types
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "settings"
    ]
    # typer reads the signature and the annotations, not the code.
    with_options.__dict__["__signature__"] = inspect.Signature(own + options)
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in own + options}
    return with_options
