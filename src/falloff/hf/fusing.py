"""`fuse` and `unfuse`: make a model of Transformers use `falloff.attention`, and undo it."""

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
from falloff.notebook import bundle, facts_html

_FUSIONS = {fusion for family in FAMILIES.values() for fusion in family.classes.values()}
_BEFORE = "_attn_implementation_before_fusing"


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did.

    Attributes:
        fused: for the name of each fused attention module, its class and bias.
        left_alone: for the name of each other one, its class and why it was left alone.
    """

    fused: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_alone: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"fused: {count} {cls} ({bias})" for (cls, bias), count in Counter(self.fused.values()).items()]
        lines += [f"left alone: {count} {cls} ({why})" for (cls, why), count in Counter(self.left_alone.values()).items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: each class with its bias or the reason, and how many modules there are."""
        found = (("fused", self.fused), ("left alone", self.left_alone))
        facts = [
            (f"{title}: {count} {cls}", said)
            for title, modules in found
            for (cls, said), count in Counter(modules.values()).items()
        ]
        return facts_html("falloff.hf.fuse", facts)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return bundle(str(self), self._repr_html_())


def fuse(model: nn.Module) -> FuseReport:
    """Make the attention modules of a model that have an additive positional bias use `falloff.attention`, in place.

    The bias stays in its compact form: no tensor (heads, N, M) is made. Parameters keep their names, so a checkpoint of a
    fused model loads into a plain one, and the other way round. Padding masks, caches, beams, `generate`, gradient
    checkpointing and `torch.compile` work as before. Attention weights are not available.

    A row that sees no token gives zero: a row of padding before a text, and every row of a text that is all padding.
    Transformers gives such a row the mean of all values, those of padding and of the future too. In BLOOM, MPT and Falcon
    such a row predicts the first token after padding on the left. If that token has a label, loss and gradients differ
    from those of the plain model by this one prediction; with the label -100 they do not. In DeBERTa, a row of padding
    attends to the tokens of its text; in Transformers to nothing, so that it gives that mean.

    A fused model gets copies of its configurations, so that another model that shares them stays as it was. Pass the
    outermost model: if you fuse a part of a model, the whole model keeps the old configuration, and changes to it do not
    reach the part.

    T5 (also ByT5, Flan-T5, Chronos), mT5, UMT5, SwitchTransformers, Pop2Piano, BLOOM, MPT, Falcon with ALiBi, the text
    layers of Inkling and Inkling-2, DeBERTa (v1 to v3), WavLM, Wav2Vec2-Conformer with relative positions, and the
    decoders of UDOP and Pix2Struct are fused, anywhere within `model`. UDOP's encoder is not: two of its three biases
    depend on bounding boxes.

    Args:
        model: a model of Transformers, or a module that contains one. A fused one stays fused.

    Returns:
        What was fused, and what was left alone and why; print it.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model with nothing to fuse; for an unknown version of Transformers or of a module; for a model that
            is set to return attention weights. The model is unchanged then, and after any other error.

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
        if cls.__name__.endswith("Attention"):  # the other classes make its bias or mask
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
    """Undo `fuse`: restore the classes and the attention implementation that the model had before.

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
            part.forget()
            become(part, part.unfused)
    for config, before in configs:
        config._attn_implementation_internal = before


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """If an error occurs within the context, give all modules the classes and attributes that they had before."""
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
    """Replace all configurations that modules hold by copies, since other models may share them."""
    from transformers import PreTrainedConfig

    held = [
        (vars(module), name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, PreTrainedConfig)
    ]
    configs = {id(config): config for _, _, config in held}
    own = dict(zip(configs, copy.deepcopy(list(configs.values())), strict=True))  # together: one may contain another
    for attributes, name, config in held:
        attributes[name] = own[id(config)]
    for module in model.modules():
        if _BEFORE in vars(module):
            module.__dict__[_BEFORE] = [(own.get(id(config), config), name) for config, name in module.__dict__[_BEFORE]]


def check_version() -> None:
    """Raise ImportError without Transformers, ValueError for an unknown version."""
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
    """Raise if a method that is replaced has parameters that its replacement does not know."""
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
    """The models of Transformers that contain any of these modules: each makes masks by its own configuration.

    Raises:
        ValueError: if a module is in none.
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
    """Set the implementation in each model's configuration.

    The public setter would also set it in the parts of a composite configuration.
    """
    for part in models:
        part.config._attn_implementation_internal = NAME


def check_models(models: list[Any], left_alone: dict[str, tuple[str, str]], model: nn.Module) -> None:
    """Raise ValueError if a configuration asks for weights, or is shared with attention that is not fused."""
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
                "that would be fused, expected only attention that falloff knows"
            )
