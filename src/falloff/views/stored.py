"""A scheme with the values of a checkpoint: a safetensors file of a model, of a run of `falloff compare`, or of a scheme."""

from collections.abc import Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from falloff.schemes import Scheme
from falloff.schemes.settings import make, setting_parameters

# What modules that hold a bias are called: here, in models that falloff has swapped or trained, and in Transformers.
_HOLDERS = ("", "scheme", "bias", "falloff_bias", "relative_attention_bias", "rel_attn_embed")
_MOST_LISTED = 4
_MOST_TRIED = 4096
_MOST_HEADS = 1024
_MOST_PLACES = 512  # a model has fewer; each costs time

Shape = tuple[int, ...]


def stored_scheme(
    path: Path, cls: type[Scheme], settings: dict[str, Any], num_heads: int | None = None, prefix: str | None = None
) -> tuple[Scheme, str]:
    """A scheme with the values that a safetensors file has for it. Nothing in the file is run.

    The number of heads, and settings that the file's shapes tell, need not be given.

    Args:
        path: the file.
        cls: a scheme with parameters.
        settings: settings that are known.
        num_heads: H, if known.
        prefix: the name of the module that holds the scheme; by default the only one that fits.

    Returns:
        The scheme, and the name of the module that held it.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: for a file that is no safetensors file, or has no values for this scheme, or has several.
        ImportError: without safetensors.
    """
    with open_tensors(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no mapping)
        found = [
            (place, scheme)
            for place in _places(shapes, cls, settings, prefix)[:_MOST_PLACES]
            if (scheme := _fitting(shapes, place, cls, settings, num_heads)) is not None
        ]
        if not found:
            names = ", ".join(list(_parameters(cls, settings)) or ["none"])
            inside = "" if prefix is None else f" in {prefix!r}"
            raise ValueError(f"{path}: got no values for {cls.name}{inside}, expected tensors that end in {names}")
        if len(found) > 1:
            listed = ", ".join(place for place, _ in found[:_MOST_LISTED]) + (", ..." if len(found) > _MOST_LISTED else "")
            raise ValueError(
                f"{path}: got values for {cls.name} in {len(found)} modules, expected --prefix with one: {listed}"
            )
        ((place, scheme),) = found
        dot = f"{place}." if place else ""
        values = {name: file.get_tensor(dot + name) for name in dict(scheme.named_parameters())}
        buffers = {name: file.get_tensor(dot + name) for name in dict(scheme.named_buffers()) if dot + name in shapes}
    for name, value in values.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {dot + name} has values that are not finite numbers, expected finite ones")
    scheme.load_state_dict({**values, **buffers}, strict=False)
    return scheme, place


def open_tensors(path: Path) -> Any:
    """A safetensors file, to be used as `with open_tensors(path) as file`; nothing in it is run.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: saying what it is instead.
        ImportError: without safetensors.
    """
    try:
        from safetensors import safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a checkpoint needs safetensors: pip install 'falloff[lab]'") from error

    with path.open("rb") as opened:  # for an OSError that names the file
        begin = opened.read(2)
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # safetensors has an error class of its own
        pickled = begin[:1] in (b"\x80", b"(") or begin == b"PK"
        said = "a pickle, which may run code when it is read" if pickled else str(error)[:80]
        raise ValueError(f"{path}: got no safetensors file ({said}), expected one") from None


def _parameters(cls: type[Scheme], settings: dict[str, Any]) -> list[str]:
    """The names of a scheme's parameters."""
    for given in (settings, {}):  # a given max_distance may not fit the default of num_buckets
        for number, tried in _tried(cls, given, [4], []):
            if (shaped := _shaped(cls, number, tried)) is not None:
                return [name for name, _ in shaped.named_parameters()]
    return []


def _places(shapes: Mapping[str, Shape], cls: type[Scheme], settings: dict[str, Any], prefix: str | None) -> list[str]:
    """The modules whose tensors have the names of a scheme's parameters."""
    names = _parameters(cls, settings)
    if not names:
        return []
    first = names[0]
    places = [name[: -len(first)] for name in shapes if name.endswith(first)]
    whole = [place.removesuffix(".") for place in places if place == "" or place.endswith(".")]
    fitting = [place for place in whole if all((f"{place}." if place else "") + name in shapes for name in names)]
    if prefix is not None:
        return [place for place in fitting if place == prefix.removesuffix(".")]
    # One parameter, such as `weight`, is a name that any module has.
    return [place for place in fitting if len(names) > 1 or place.rpartition(".")[2] in _HOLDERS]


def _fitting(
    shapes: Mapping[str, Shape], place: str, cls: type[Scheme], settings: dict[str, Any], num_heads: int | None
) -> Scheme | None:
    """A scheme of those shapes."""
    inside = {
        name.removeprefix(f"{place}." if place else ""): shape for name, shape in shapes.items() if name.startswith(place)
    }
    sizes = sorted({size for shape in _own(inside, cls, settings) for size in shape})
    heads = [num_heads] if num_heads is not None else [size for size in sizes if size <= _MOST_HEADS]
    known = dict(settings)
    if "bidirectional" in setting_parameters(cls) and "bidirectional" not in known and "encoder" in place.split("."):
        known["bidirectional"] = True  # T5's encoder, and those of its kin
    for number, tried in islice(_tried(cls, known, heads, sizes), _MOST_TRIED):
        shaped = _shaped(cls, number, tried)
        if shaped and all(_same_shape(parameter, inside.get(name)) for name, parameter in shaped.named_parameters()):
            with torch.random.fork_rng(devices=[]):
                return make(cls, number, tried)
    return None


def _shaped(cls: type[Scheme], num_heads: int, settings: dict[str, Any]) -> Scheme | None:
    """A scheme for its shapes alone, without memory for its values; None if there is none with these settings."""
    try:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    return make(cls, num_heads, settings)
            except RuntimeError:  # a scheme of one's own that looks at its values when it is made
                return make(cls, num_heads, settings)
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return None


def _own(inside: Mapping[str, Shape], cls: type[Scheme], settings: dict[str, Any]) -> list[Shape]:
    return [inside[name] for name in _parameters(cls, settings) if name in inside]


def _same_shape(parameter: nn.Parameter, shape: Shape | None) -> bool:
    return shape is not None and (parameter.shape == torch.Size(shape) or (shape == () and parameter.numel() == 1))


def _tried(
    cls: type[Scheme], settings: dict[str, Any], heads: list[int], sizes: list[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """These numbers of heads, each with settings: for every whole-number one that is not given, each of these sizes."""
    usual = {name: parameter.default for name, parameter in setting_parameters(cls).items() if name not in settings}
    switches = [name for name, default in usual.items() if isinstance(default, bool)]
    # Switches vary last: a table of 33 rows is rather one of 32 distances than one of 16 in both directions.
    choices: dict[str, list[Any]] = {name: [True] if name == "learned" else [False, True] for name in switches}
    for name, default in usual.items():
        if isinstance(default, int) and name not in switches:
            most = cls.largest_settings.get(name, 2**16)
            near = {size + step for size in sizes for step in (0, -1)} | {(size - 1) // 2 for size in sizes}
            choices[name] = [default, *sorted(size for size in near if 0 < size <= most)]
    for *chosen, number in product(*choices.values(), heads):
        yield number, {**settings, **dict(zip(choices, chosen, strict=True))}
