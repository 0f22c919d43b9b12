"""`fuse` and `unfuse`: the attention of a model that people already have, by `falloff.attention`."""

import copy
import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from torch import nn

from falloff.hf.attention import NAME, register
from falloff.hf.families import FAMILIES, family_of
from falloff.hf.families.fused import Fused, become, check_forward, fused_class

_FUSIONS = {fusion for family in FAMILIES.values() for fusion in family.classes.values()}
_BEFORE = "_attn_implementation_before_fusing"


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did: by the name of each attention module its class and bias, or its class and why it was left alone."""

    fused: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_alone: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"fused: {count} {cls} ({bias})" for (cls, bias), count in Counter(self.fused.values()).items()]
        lines += [f"left alone: {count} {cls} ({why})" for (cls, why), count in Counter(self.left_alone.values()).items()]
        return "\n".join(lines)


def fuse(model: nn.Module) -> FuseReport:
    """Let the attention modules of a model with an additive positional bias use `falloff.attention`, in place.

    The bias is handed on in its compact form: nothing of the shape (heads, N, M) exists any more. Parameters keep their
    names, so a checkpoint of a fused model loads into a plain one and the other way round. Padding masks, caches, beams,
    `generate`, gradient checkpointing and `torch.compile` go on working; attention weights are not to be had.

    A row that sees no token gives zero: one of padding before a text, and all rows of a text that is nothing but padding.
    Transformers gives it the mean of all values, those of padding and of the future too. Where the label of the first token
    behind padding on the left counts (BLOOM, MPT, Falcon), such a row predicts it, and loss and gradients differ by that one
    prediction; with -100 there they are those of the plain model.

    A fused model has configurations of its own, copies, so that a model that shared them stays as it was. Give the outermost
    model: of one that was fused as a part, the whole keeps the configuration that there was, and changes of it stay outside.

    Known are T5 (also ByT5, Flan-T5, Chronos), mT5, UMT5, SwitchTransformers, Pop2Piano, BLOOM, MPT, Falcon with ALiBi and
    Inkling's text layers, wherever they stand within `model`.

    Args:
        model: of Transformers, or a module around one. A fused one stays fused.

    Returns:
        What was fused, and what was left alone and why; print it.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model with nothing to fuse; a version of Transformers or of a module that this does not know; a
            model that is set to return attention weights. Nothing has changed then, nor after any other error.

    >>> from transformers import T5Config, T5EncoderModel
    >>> model = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    >>> print(fuse(model))
    fused: 2 T5Attention (T5, by offset)
    """
    check_version()
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}, expected a model of Transformers")
    report = FuseReport()
    changes: list[tuple[nn.Module, type[Fused]]] = []
    for name, module in model.named_modules():
        family = family_of(module)
        cls = getattr(type(module), "unfused", type(module))
        if family is None:
            if cls.__name__.endswith("Attention") and not any(family_of(part) for part in module.modules()):
                report.left_alone[name] = (cls.__name__, "no additive positional bias that falloff knows")
            continue
        fusion = FAMILIES[family].classes[cls.__name__]
        why = getattr(fusion, "refusal", lambda module: None)(module)
        if why is not None:
            report.left_alone[name] = (cls.__name__, why)
            continue
        _check_signature(fusion, cls)
        if not isinstance(module, Fused):
            check_forward(module, fused_class(fusion, cls))
        changes.append((module, fusion))
        if cls.__name__ == next(iter(FAMILIES[family].classes)):
            report.fused[name] = (cls.__name__, FAMILIES[family].bias)
    if not report.fused:
        others = f" ({report})" if report.left_alone else ""
        raise ValueError(f"model: got {type(model).__name__}{others}, expected attention of {', '.join(FAMILIES)}")
    models = models_around([module for module, _ in changes], model)
    check_models(models, report.left_alone, model)

    register()
    new = [(module, fusion) for module, fusion in changes if not isinstance(module, Fused)]
    with all_or_nothing(model):
        if new:
            own_configs(model)
        before = {}
        for part in models:
            found = part.config._attn_implementation
            before[id(part.config)] = (part.config, found if found != NAME else "sdpa" if part._supports_sdpa else "eager")
        for module, fusion in new:
            around = [part for part in models if any(inner is module for inner in part.modules())]
            module.__dict__[_BEFORE] = [before[id(part.config)] for part in around]
            become(module, fused_class(fusion, type(module)))
        attend_by_falloff(models)
    return report


def unfuse(model: nn.Module) -> None:
    """Undo `fuse`: the classes and the attention implementation that the model had before.

    Raises:
        ValueError: for a model that is not fused.

    >>> from transformers import T5Config, T5EncoderModel
    >>> model = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    >>> _ = fuse(model)
    >>> unfuse(model)
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}, expected a model of Transformers that fuse has changed")
    fused = [module for module in model.modules() if isinstance(module, Fused) and module.fusion in _FUSIONS]
    if not fused:
        raise ValueError(f"model: got {type(model).__name__}, which is not fused, expected one that fuse has changed")
    with all_or_nothing(model):
        configs = [pair for part in fused for pair in part.__dict__.pop(_BEFORE)]
        for part in fused:
            become(part, part.unfused)
    for config, before in configs:
        config._attn_implementation_internal = before


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Where an error comes amid changes, give all modules the classes and attributes that they had before."""
    before = [
        (module, type(module), vars(module) | {"_modules": dict(vars(module)["_modules"])}) for module in model.modules()
    ]
    try:
        yield
    except BaseException:
        for module, cls, attributes in before:
            if type(module) is not cls:
                module.__class__ = cls
            vars(module).clear()
            vars(module).update(attributes)
        raise


def own_configs(model: nn.Module) -> None:
    """Put copies in the place of all configurations that modules hold, since other models may share them."""
    from transformers import PreTrainedConfig

    held = [
        (vars(module), name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, PreTrainedConfig)
    ]
    configs = {id(config): config for _, _, config in held}
    own = dict(zip(configs, copy.deepcopy(list(configs.values())), strict=True))  # at once: one may be a part of another
    for attributes, name, config in held:
        attributes[name] = own[id(config)]
    for module in model.modules():
        if _BEFORE in vars(module):
            module.__dict__[_BEFORE] = [(own.get(id(config), config), name) for config, name in module.__dict__[_BEFORE]]


def check_version() -> None:
    """Raise ImportError without Transformers, ValueError for a version that is not known."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError("transformers is not installed: pip install 'falloff[hf]'") from None
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    if major != 5 or minor < 17:
        raise ValueError(f"transformers: got version {transformers.__version__}, expected 5.17 or later, below 6")


def _check_signature(fusion: type[Fused], original: type) -> None:
    """A method that is replaced must have the parameters that were there when the replacement was written."""
    for name, method in vars(fusion).items():
        if not isinstance(method, FunctionType) or not hasattr(original, name):
            continue
        ours = inspect.signature(method).parameters
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in ours.values()):
            continue
        theirs = inspect.signature(getattr(original, name)).parameters.values()
        unknown = [p.name for p in theirs if p.name not in ours and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if unknown:
            raise ValueError(
                f"transformers: got a version whose {original.__name__}.{name} has parameters that falloff does not know "
                f"({', '.join(unknown)}), expected another version"
            )


def models_around(changed: list[Any], model: nn.Module) -> list[Any]:
    """The models of Transformers that hold any of these modules: they make masks by their own configuration.

    Raises:
        ValueError: where a module is in none.
    """
    from transformers import PreTrainedModel

    ids = {id(module) for module in changed}
    models = [
        part
        for part in model.modules()
        if isinstance(part, PreTrainedModel) and any(id(inner) in ids for inner in part.modules())
    ]
    held = {id(inner) for part in models for inner in part.modules()}
    if not ids <= held:
        raise ValueError(
            f"model: got {type(model).__name__}, a part of a model, expected a PreTrainedModel or a module around one"
        )
    return models


def attend_by_falloff(models: list[Any]) -> None:
    """Tell the configurations; not what else a composite one holds, which setting it otherwise would change too."""
    for part in models:
        part.config._attn_implementation_internal = NAME


def check_models(models: list[Any], left_alone: dict[str, tuple[str, str]], model: nn.Module) -> None:
    """Raise ValueError where a configuration asks for weights, or is shared with attention that stays as it is."""
    configs = {id(part.config): part.config for part in models}
    for config in configs.values():
        if getattr(config, "output_attentions", False):
            raise ValueError(
                "model: got one with config.output_attentions=True, expected False: fused attention has no weights"
            )
    by_name = dict(model.named_modules())
    for name, (cls, why) in left_alone.items():
        if id(getattr(by_name[name], "config", None)) in configs:
            raise ValueError(
                f"model: got {type(model).__name__}, where {name} ({cls}: {why}) shares its configuration with attention "
                "that would be fused, expected all of it to be known"
            )
