"""`swap`: a decoder's rotary or learned positions out, a scheme in; `load`: a swapped model from its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

import falloff.schemes as schemes
from falloff.hf.attention import register
from falloff.hf.families.fused import Fused, fused_class
from falloff.hf.families.positions import POSITIONS, NoLearned, NoRotary, Positions, Swapped
from falloff.hf.fusing import attend_by_falloff, check_models, check_version, models_around
from falloff.schemes import Scheme
from falloff.views.settings import needs_states, settings_of

MakeBias = Callable[[int], Scheme]


def swap(model: nn.Module, make_bias: MakeBias, *, share: bool = False) -> None:
    """Take the positions out of a decoder and add a scheme to its attention scores, in place.

    For research on positions and lengths, and for fine-tuning: the model has to learn the scheme. Known are Llama, Mistral,
    Qwen 2 and 3, GPT-NeoX (Pythia) and GPT-2. Rotary embeddings turn nothing any more; a learned embedding of positions
    gives 0, at any length. Parameters of the scheme are the model's: `falloff_bias` of each attention module, or of the
    model. `save_pretrained` saves them, and the scheme's name and settings as `falloff_config` in the model's config; `load`
    reads them.

    Args:
        model: of Transformers.
        make_bias: called with the number of heads, makes a scheme: `FIRE`, or `lambda heads: T5Bias(heads, num_buckets=64)`.
        share: one scheme for all layers, instead of one for each.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model that this does not know, or that is swapped or fused already; what is not a scheme, or needs
            states. Nothing has changed then.

    >>> from falloff import FIRE
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes))
    >>> swap(model, FIRE, share=True)
    >>> model.config.falloff_config["scheme"]
    'FIRE'
    """
    check_version()
    bias = _put_in(model, make_bias, share)
    described = {"scheme": type(bias).__name__, "settings": settings_of(bias), "share": share}
    model.config.falloff_config = described  # type: ignore[union-attr]


def _put_in(model: Any, make_bias: MakeBias, share: bool) -> Scheme:
    """Change the modules; what the config is told is left to others."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"model: got {type(model).__name__}, expected a PreTrainedModel")
    known = _kind_of(model)
    attention = [module for module in model.modules() if _is(module, known.module, known.attention)]
    if any(getattr(module, "is_cross_attention", False) for module in attention):
        raise ValueError(f"model: got {type(model).__name__} with cross-attention, expected a decoder alone")
    models = models_around(attention, model)
    others = {
        name: (type(module).__name__, "no decoder's attention that falloff knows")
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention") and module not in attention
    }
    check_models(models, others, model)
    heads: int = attention[0].config.num_attention_heads
    device = next(attention[0].parameters()).device
    biases = [_made(make_bias, heads).to(device) for _ in (attention[:1] if share else attention)]

    register()
    for module in list(model.modules()):
        if known.rotary is not None and _is(module, known.module, known.rotary):
            module.__class__ = fused_class(NoRotary, type(module))
        learned = None if known.learned is None else getattr(module, known.learned, None)
        if isinstance(learned, nn.Embedding) and not isinstance(learned, Fused):
            learned.weight.requires_grad_(False)
            learned.__class__ = fused_class(NoLearned, type(learned))
    if share:
        model.falloff_bias = biases[0]
    for index, module in enumerate(attention):
        module.__class__ = fused_class(Swapped, type(module))
        if share:
            module.__dict__["falloff_bias"] = biases[0]  # not a part of it: the model's, saved once
        else:
            module.falloff_bias = biases[index]
    attend_by_falloff(models)
    return biases[0]


def load(folder: str | Path, make_bias: MakeBias | None = None, **more: Any) -> Any:
    """A model that was swapped and saved by `save_pretrained`.

    Args:
        folder: as in `from_pretrained`.
        make_bias: as in `swap`, for a scheme of your own; by default the one that the model's config names.
        more: for `from_pretrained`, such as dtype.

    Raises:
        ValueError: for a model that was not swapped, or whose scheme is not one of falloff's.
    """
    check_version()
    import transformers

    where = {name: more[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in more}
    config = transformers.AutoConfig.from_pretrained(folder, **where)
    described = getattr(config, "falloff_config", None)
    if described is None:
        raise ValueError(
            f"folder: got {str(folder)!r}, whose config has no falloff_config, expected a model that was swapped"
        )
    make = make_bias or _named(described)
    original: Any = getattr(transformers, config.architectures[0])

    def swapped_from_the_start(model: Any, *arguments: Any, **named: Any) -> None:
        original.__init__(model, *arguments, **named)
        model.__class__ = original
        _put_in(model, make, described["share"])

    loading: Any = type(original.__name__, (original,), {"__init__": swapped_from_the_start})
    model = loading.from_pretrained(folder, **more)
    swapped = [module for module in model.modules() if isinstance(module, Swapped)]
    attend_by_falloff(models_around(swapped, model))  # `from_pretrained` has chosen one again
    return model


def _named(described: dict[str, Any]) -> MakeBias:
    scheme = getattr(schemes, described["scheme"], None)
    if not isinstance(scheme, type) or not issubclass(scheme, Scheme):
        raise ValueError(f"make_bias: got None for a model with {described['scheme']}, which is not a scheme of falloff's")
    return lambda heads: scheme(heads, **described["settings"])


def _kind_of(model: nn.Module) -> Positions:
    modules = list(model.modules())
    if any(isinstance(module, Fused) for module in modules):
        raise ValueError(f"model: got {type(model).__name__}, which is fused or swapped already")
    for known in POSITIONS.values():
        if any(_is(module, known.module, known.attention) for module in modules):
            return known
    raise ValueError(f"model: got {type(model).__name__}, expected one of {', '.join(POSITIONS)}")


def _is(module: nn.Module, where: str, name: str) -> bool:
    return type(module).__name__ == name and type(module).__module__ == where


def _made(make_bias: MakeBias, heads: int) -> Scheme:
    if not callable(make_bias):
        raise ValueError(f"make_bias: got {make_bias!r}, expected a function of the number of heads, such as FIRE")
    bias = make_bias(heads)
    if not isinstance(bias, Scheme) or needs_states(type(bias)):
        raise ValueError(f"make_bias: it made {type(bias).__name__}, expected a scheme whose bias needs no states")
    if bias.num_heads != heads:
        raise ValueError(f"make_bias: it made a scheme of {bias.num_heads} heads, expected {heads}")
    return bias
