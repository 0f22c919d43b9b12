"""Scheme names and settings on the command line: the options come from the signatures of the schemes themselves."""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Union

import torch
import typer
from typer.core import TyperCommand

from falloff.named import OWN_NAMES, is_own, make_own, scheme_class
from falloff.schemes import SCHEMES, Scheme, T5Bias
from falloff.schemes.settings import make, setting_parameters
from falloff.views.content import refuse_without_content
from falloff.views.listed import ListedBuckets

_PANEL = "Settings of a scheme"
_TEXTBOOK = {
    "n_b": "The last bucket of a textbook, which numbers them 0 .. n_b: --num-buckets is one more.",
    "dist_max": "The textbook's name of --max-distance.",
}

_MOST_OTHERWISE = 2**20  # on the command line only, for settings not in `Scheme.largest_settings`

SchemeName = Annotated[
    str, typer.Argument(metavar="SCHEME", help=f"One of {', '.join(SCHEMES)}; or {OWN_NAMES}.", show_default=False)
]
SchemeNames = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEME...", help=f"One or several of {', '.join(SCHEMES)}, rope, none; or {OWN_NAMES}.", show_default=False
    ),
]
SchemeOrBuckets = Annotated[
    str | None,
    typer.Argument(metavar="SCHEME", help=f"One of {', '.join(SCHEMES)}; or {OWN_NAMES}.", show_default=False),
]
SchemeOption = Annotated[str | None, typer.Option("--scheme", metavar="SCHEME", help="The scheme.", show_default=False)]
BucketList = Annotated[
    str | None,
    typer.Option("--buckets", metavar="LIST", help="Buckets as a list of offsets instead of a scheme: 0,1,2-3,4+"),
]
NumHeads = Annotated[int, typer.Option("--num-heads", min=1, max=128, help="How many heads the bias has.")]
Head = Annotated[int, typer.Option("--head", min=0, help="The head whose values to show, counted from 0.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the random initial values.")]
Values = Annotated[bool, typer.Option("--values", help="Show the bias itself, also for a scheme with buckets.")]
Future = Annotated[bool, typer.Option("--future", help="Show keys in the future too, as --bidirectional always does.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def option_name(setting: str) -> str:
    """The option of a setting.

    >>> option_name("init_L")
    '--init-l'
    """
    return "--" + setting.lower().replace("_", "-")


def chosen_bias(
    name: str | None, listed: str | None, num_heads: int, seed: int, settings: dict[str, Any], argument: str = "SCHEME"
) -> Scheme:
    """The scheme of this name, or the buckets of a list; one that has a bias without a model.

    Raises:
        ValueError: for both or neither, or as `build_scheme`.
    """
    if listed is not None:
        if name is not None or settings:
            other = argument if name is not None else option_name(next(iter(settings)))
            raise ValueError(f"--buckets: got {listed!r} and {other}, expected a list or a scheme")
        try:
            return ListedBuckets(rule=listed)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
    if name is None:
        raise ValueError(f"{argument}: got nothing, expected a scheme, as t5, or --buckets with a list, as 0,1,2-3,4+")
    cls = scheme_class(name, argument)
    refuse_without_content(cls, argument)
    return build_scheme(cls, num_heads, seed, settings)


def textbook_note(settings: dict[str, Any]) -> str | None:
    """A note for an odd number of buckets: who types 3 for a textbook's n_b = 3 gets another grid, which looks right."""
    count = settings.get("num_buckets")
    if count is None or count % 2 == 0 or settings.get("bidirectional"):
        return None
    return (
        f"these are {count} buckets, 0 .. {count - 1}; a textbook's n_b = {count} are {count + 1}, 0 .. {count}: "
        f"--n-b {count} --dist-max {settings.get('max_distance', 128)}"
    )


def _from_textbook(cls: type[Scheme], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with T5's names for a textbook's `n_b` and `dist_max`."""
    given = {name: settings[name] for name in _TEXTBOOK if name in settings}
    if not given:
        return settings
    first = option_name(next(iter(given)))
    if not issubclass(cls, T5Bias):
        raise ValueError(f"{first}: {cls.name} does not take it, expected t5: it is a textbook's name of T5's buckets")
    if len(given) < 2:
        other = next(name for name in _TEXTBOOK if name not in given)
        raise ValueError(f"{first}: got it alone, expected {option_name(other)} too")
    rest = {name: value for name, value in settings.items() if name not in _TEXTBOOK}
    for name in ("num_buckets", "max_distance", "bidirectional"):
        if name in rest:
            raise ValueError(f"{option_name(name)}: got it beside {first}, expected either T5's names or a textbook's")
    most = cls.largest_settings["num_buckets"] - 1
    if given["n_b"] > most:
        raise ValueError(f"--n-b: got {given['n_b']}, expected at most {most} on the command line")
    if given["dist_max"] > _MOST_OTHERWISE:
        raise ValueError(f"--dist-max: got {given['dist_max']}, expected at most {_MOST_OTHERWISE} on the command line")
    try:
        with torch.random.fork_rng(devices=[]):
            book = T5Bias.from_book(1, **given)
    except ValueError as error:
        argument, _, message = str(error).partition(":")
        raise ValueError(f"{option_name(argument)}:{message}") from None
    return {**rest, "num_buckets": book.num_buckets, "max_distance": book.max_distance}


def takes_of(cls: type[Scheme], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of some settings that a scheme takes."""
    taken = (*setting_parameters(cls), *(_TEXTBOOK if issubclass(cls, T5Bias) else ()))
    return {name: value for name, value in settings.items() if name in taken}


def checked_settings(cls: type[Scheme], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by the scheme's own names.

    Raises:
        ValueError: for a setting that the scheme does not take, or out of range.
    """
    settings = _from_textbook(cls, settings)
    taken = setting_parameters(cls)
    for name, value in settings.items():
        if name not in taken:
            takes = ", ".join(map(option_name, taken)) or "no setting beside --num-heads"
            raise ValueError(f"{option_name(name)}: {cls.name} does not take it, expected {takes}")
        most = cls.largest_settings.get(name, _MOST_OTHERWISE)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{option_name(name)}: got {value}, expected a finite number")
        if isinstance(value, int) and value > most:
            raise ValueError(f"{option_name(name)}: got {value}, expected at most {most} on the command line")
    return settings


def build_scheme(cls: type[Scheme], num_heads: int, seed: int, settings: dict[str, Any]) -> Scheme:
    """A scheme with the initial values of this seed. Restores torch's generator.

    Raises:
        ValueError: for a setting that the scheme does not take, or out of range.
    """
    settings = checked_settings(cls, settings)
    taken = setting_parameters(cls)
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in settings:
            raise ValueError(f"{option_name(name)}: got nothing, expected a value: {cls.name} has no default")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if cls in SCHEMES.values():
                return make(cls, num_heads, settings)
            return make_own(cls, "SCHEME", num_heads, settings)
        except ValueError as error:
            argument, colon, rest = str(error).partition(":")
            named = argument == "num_heads" or argument in taken
            raise ValueError(f"{option_name(argument)}{colon}{rest}" if named else str(error)) from None


def is_random(cls: type[Scheme], num_heads: int, settings: dict[str, Any]) -> bool:
    """Whether the initial values of its parameters depend on the seed."""
    one, other = (build_scheme(cls, num_heads, seed, settings).state_dict() for seed in (0, 1))
    return any(not torch.equal(one[name], other[name]) for name in one)


def with_settings(command: Callable[..., None], own: Sequence[type[Scheme]] = ()) -> Callable[..., None]:
    """Give a command an option for every setting of every scheme, and pass it the given ones as `settings`.

    Args:
        command: takes `settings`, by name.
        own: schemes of the user's own: then only their settings become options.
    """
    parameters = inspect.signature(command).parameters
    options: dict[str, inspect.Parameter] = {}
    takers: dict[str, list[str]] = {}
    for scheme in own or SCHEMES.values():
        for name, parameter in setting_parameters(scheme).items():
            kind = _kind_of(scheme, parameter)
            if kind is None or name in parameters:  # of another type, or an option of the command itself
                continue
            usual = parameter.default
            default = "" if isinstance(usual, bool) or usual is parameter.empty else f" (default {usual})"
            takers.setdefault(name, []).append(scheme.name + default)
            option = option_name(name) + (f"/{option_name('no_' + name)}" if usual is True else "")
            option_type = typer.Option(option, help=f"For {', '.join(takers[name])}.", rich_help_panel=_PANEL)
            options[name] = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option_type]
            )

    for name, meaning in ({} if own else _TEXTBOOK).items():
        option_type = typer.Option(option_name(name), help=f"For t5: {meaning}", rich_help_panel=_PANEL)
        options[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[int | None, option_type]
        )

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in options}
        command(settings={name: value for name, value in given.items() if value is not None}, **arguments)

    own_parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in parameters.items()
        if name != "settings"
    ]
    # typer reads the signature and the annotations, not the code.
    with_options.__dict__["__signature__"] = inspect.Signature(own_parameters + list(options.values()))
    with_options.__annotations__ = {
        parameter.name: parameter.annotation for parameter in (*own_parameters, *options.values())
    }
    return with_options


def _kind_of(cls: type[Scheme], parameter: inspect.Parameter) -> type | None:
    """The type of a setting's option, by its annotation or its default; None if it cannot be an option."""
    try:
        annotation = typing.get_type_hints(cls.__init__).get(parameter.name, parameter.empty)
    except Exception:  # a name that is imported for type checkers only
        annotation = parameter.empty
    is_union = typing.get_origin(annotation) in (Union, UnionType)
    choices = typing.get_args(annotation) if is_union else (annotation,)
    if annotation is parameter.empty:
        choices = (str if parameter.default in (None, parameter.empty) else type(parameter.default),)
    # For int | float, float: its option takes both.
    return next((kind for kind in (float, int, str, bool) if kind in choices), None)


class SchemeCommand(TyperCommand):
    """A command that takes a scheme. If it is one of the user's own, its settings become the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        option = next((name for parameter in self.params for name in parameter.opts if name == "--scheme"), None)
        parser = self.make_parser(ctx)
        parser.ignore_unknown_options = True
        given, rest, _ = parser.parse_args(list(args))
        if "schemes" in given:
            names = _schemes_among([*(given["schemes"] or ()), *rest])
        elif option is None and given.get("scheme") is not None:
            names = _schemes_among([given["scheme"], *rest])[:1]
        else:
            names = [given["scheme"]] if given.get("scheme") else []
        own = [scheme_class(name, option or "SCHEME") for name in names if is_own(name)]
        if own:
            known = [SCHEMES[name] for name in names if name in SCHEMES]
            app = typer.Typer(add_completion=False)
            app.command()(with_settings(inspect.unwrap(self.callback), [*own, *known]))  # type: ignore[arg-type]
            alike = typer.main.get_command(app)
            self.params, self.callback = alike.params, alike.callback
        return super().parse_args(ctx, args)


def _schemes_among(words: list[str]) -> list[str]:
    """The names of schemes among arguments, options and their values; options are unknown until the schemes are known."""
    takes_none = [True, *(not word.startswith("-") or "=" in word for word in words)]
    sure = [word for free, word in zip(takes_none, words, strict=False) if free and not word.startswith("-")]
    # A word after an unknown option may be a name, if that option is a switch.
    return sure or list(filter(is_own, words))[:1]
