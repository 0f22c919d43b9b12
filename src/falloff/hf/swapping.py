"""`swap`: replace a decoder's rotary or learned positions by a scheme; `load`: a swapped model from its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from falloff.hf.attention import register
from falloff.hf.families.fused import Fused, become, check_forward, fused_class
from falloff.hf.families.positions import (
    POSITIONS,
    NoLearned,
    NoRotary,
    Owner,
    Positions,
    Swapped,
    SwappedConfig,
    SwappedShared,
    restored,
)
from falloff.hf.fusing import all_or_nothing, attend_by_falloff, check_models, check_version, models_around, own_configs
from falloff.named import scheme_class
from falloff.schemes import FIRE, SCHEMES, Scheme
from falloff.schemes.settings import Setting, default_settings, make, settings_of
from falloff.schemes.sums import SchemeSum

MakeBias = Callable[[int], Scheme]


def swap(model: nn.Module, make_bias: MakeBias | str, *, share: bool = False) -> None:
    """Remove the positions of a decoder and add the bias of a scheme to its attention scores, in place.

    For research on positions and lengths, and for fine-tuning: the model has to learn the scheme. The models are Llama,
    Mistral, Qwen 2 and 3, GPT-NeoX (Pythia) and GPT-2. Rotary embeddings no longer rotate; a learned position embedding
    gives 0 at any length. The scheme is a submodule, `falloff_bias`, of each attention module or of the model. PEFT
    (`modules_to_save`), FSDP, DDP and offloading may wrap it: swap first, then wrap.

    `save_pretrained` saves its parameters, and its name and settings as `falloff_config` in the model's config; `load` reads
    them. Only `load` reads such a folder. `AutoModel` and the model's own class would restore the old positions, so
    `config.json` has a text that names `falloff.hf.load` in place of `model_type` and `hidden_size`, and they refuse it.

    Args:
        model: of Transformers.
        make_bias: a function of the number of heads that makes a scheme: `FIRE`, a class of your own, or
            `lambda heads: T5Bias(heads, num_buckets=64)`. Or a name as on the command line: "fire", "module:Class",
            "file.py:Class"; this runs the code of that module or file.
        share: one scheme for all layers, instead of one for each.

    Raises:
        ImportError: without Transformers.
        ValueError: for an unknown model; one that is already swapped or fused, or is sharded or offloaded; if `make_bias`
            makes something else than a scheme, or one that depends on content. The model is unchanged then, and after an
            error in `make_bias`.

    >>> from falloff import FIRE
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes))
    >>> swap(model, FIRE, share=True)
    >>> model.config.falloff_config["scheme"]
    'FIRE'
    """
    check_version()
    if not isinstance(share, bool):
        raise ValueError(f"share: got {share!r}, expected True or False")
    maker = _maker(make_bias)
    places = _places(model)
    offloaded = any(parameter.is_meta for parameter in model.parameters()) and any(
        "_hf_hook" in vars(module) for module in model.modules()
    )  # meta tensors without hooks: a model that gets its weights later
    if offloaded or any(hasattr(parameter, "placements") for parameter in model.parameters()):
        raise ValueError(
            f"model: got {type(model).__name__} that is offloaded or sharded, expected one whose parameters are in memory: "
            "swap first"
        )
    biases = [_made(maker, places.heads) for _ in range(1 if share else len(places.attention))]
    described = _described(biases[0], share)
    with all_or_nothing(model):
        if getattr(model, "base_model", None) is not model:
            # Not the base model: it may be a part of a model with a head, whose config file must describe the swap too.
            own_configs(model)
        _put_in(model, places, biases, share)
        model.config.falloff_config = described  # type: ignore[union-attr]


class _Places(NamedTuple):
    """The attention and position modules of a model, and the models within it that have a configuration."""

    attention: list[Any]
    rotary: list[nn.Module]
    learned: list[nn.Module]
    models: list[Any]
    heads: int


def _places(model: Any) -> _Places:
    """Find the modules that `swap` changes, and raise whatever prevents the swap. Changes nothing."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"model: got {type(model).__name__}, expected a PreTrainedModel")
    known = _kind_of(model)
    modules = list(model.modules())
    attention = [module for module in modules if _is(module, known.module, known.attention)]
    if any(getattr(module, "is_cross_attention", False) for module in attention):
        raise ValueError(f"model: got {type(model).__name__} with cross-attention, expected a decoder alone")
    models = models_around(attention, model)
    others = {
        name: (type(module).__name__, "no decoder's attention that falloff knows")
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention") and module not in attention
    }
    check_models(models, others, model)
    rotary = [module for module in modules if known.rotary is not None and _is(module, known.module, known.rotary)]
    embeddings = [getattr(module, known.learned, None) for module in modules] if known.learned is not None else []
    learned: list[nn.Module] = [module for module in embeddings if isinstance(module, nn.Embedding)]
    if not rotary and not learned:
        raise ValueError(
            f"model: got {type(model).__name__} without {known.rotary or known.learned} as Transformers has it, expected a "
            "model whose positions can be removed"
        )
    for parts, change in ((rotary, NoRotary), (learned, NoLearned)):
        for module in parts:
            check_forward(module, fused_class(change, type(module)))
    return _Places(attention, rotary, learned, models, attention[0].config.num_attention_heads)


def _put_in(model: Any, places: _Places, biases: list[Scheme], share: bool) -> None:
    """Change the modules and the configuration. `_places` has already raised what can be raised."""
    register()
    for module in places.rotary:
        become(module, fused_class(NoRotary, type(module)))
    for module in places.learned:
        module.requires_grad_(False)
        become(module, fused_class(NoLearned, type(module)))
    owner = Owner(model)
    for index, module in enumerate(places.attention):
        if share:
            become(module, fused_class(SwappedShared, type(module)))
            module.falloff_owner = owner
        else:
            become(module, fused_class(Swapped, type(module)))
            module.falloff_bias = biases[index].to(_device(module, model))
    if share:
        model.falloff_bias = biases[0].to(_device(places.attention[0], model))
    if not isinstance(model.config, SwappedConfig):
        model.config.__class__ = fused_class(SwappedConfig, type(model.config))
    attend_by_falloff(places.models)


def _device(module: nn.Module, model: Any) -> torch.device:
    """The device of a module; a quantized one may have no parameters."""
    return next((parameter.device for parameter in module.parameters()), model.device)


def load(folder: str | Path, make_bias: MakeBias | str | None = None, **more: Any) -> Any:
    """Load a model that was swapped and then saved by `save_pretrained`.

    Args:
        folder: as in `from_pretrained`.
        make_bias: as in `swap`; needed for a scheme of your own, because the folder holds no code and chooses no code to
            run. By default the scheme of falloff that the model's config names. It has to make the class that the model was
            saved with, with the same settings.
        more: for `from_pretrained`, such as dtype.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model that was not swapped; for a scheme that is not one of falloff's, without `make_bias`; or if
            `make_bias` makes another scheme.
    """
    check_version()
    if not isinstance(folder, str | Path):
        raise ValueError(f"folder: got {type(folder).__name__}, expected the path of a swapped model, a str or Path")
    import transformers

    where = {name: more[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in more}
    found: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(folder, **where)[0]
    config = restored(found)
    described = config.get("falloff_config")
    if described is None:
        raise ValueError(
            f"folder: got {str(folder)!r}, whose config has no falloff_config, expected a model that was swapped"
        )
    saved_by_older = config is found
    maker, share = _named(described) if make_bias is None else _maker(make_bias), described["share"]
    original: Any = getattr(transformers, config["architectures"][0])
    fresh: list[Scheme] = []

    def swapped_from_the_start(model: Any, config: Any, *arguments: Any, **named: Any) -> None:
        config.__class__ = type(config).unfused  # some models make their parts by AutoModel, which needs the known class
        original.__init__(model, config, *arguments, **named)
        model.__class__ = original
        places = _places(model)
        with torch.device("cpu"):  # Transformers has set the device to meta, where tensors have no values
            fresh.append(_as_described(_made(maker, places.heads), described))
        _put_in(model, places, [maker(places.heads) for _ in (places.attention[:1] if share else places.attention)], share)
        if saved_by_older:
            _reshape_scalars(model, ())  # older versions saved FIRE's scalars without a dimension

    config_class = fused_class(SwappedConfig, transformers.CONFIG_MAPPING[config["model_type"]])
    loading: Any = type(original.__name__, (original,), {"__init__": swapped_from_the_start, "config_class": config_class})
    model, info = loading.from_pretrained(folder, **more | {"output_loading_info": True})
    _reshape_scalars(model, (1,))
    wrong = sorted(name for kind in ("missing_keys", "unexpected_keys") for name in info[kind] if "falloff_bias" in name)
    if wrong:
        raise ValueError(
            f"make_bias: it made {type(fresh[0]).__name__} with other parameters than folder {str(folder)!r} has, expected "
            f"the same ({', '.join(wrong)})"
        )
    for module in model.modules():
        if type(module) is type(fresh[0]):
            _restore_buffers(module, fresh[0])
    swapped = [module for module in model.modules() if isinstance(module, Swapped)]
    attend_by_falloff(models_around(swapped, model))  # `from_pretrained` has set another implementation
    return model


def _named(described: dict[str, Any]) -> MakeBias:
    name = described["scheme"]
    scheme = _published(name)
    if described.get("own") or scheme is None:
        raise ValueError(
            f"make_bias: got None for a model with {name}, which is not a scheme of falloff's, expected its class or "
            f"file.py:{name}, or a function of the number of heads that makes one: load(folder, {name})"
        )
    return lambda heads: scheme(heads, **described["settings"])


def _published(class_name: str) -> type[Scheme] | None:
    return next((scheme for scheme in SCHEMES.values() if scheme.__name__ == class_name), None)


def _maker(make_bias: MakeBias | str) -> MakeBias:
    """The function that makes a scheme, if `make_bias` is a name: one that the caller wrote, never one from a folder."""
    if not isinstance(make_bias, str):
        return make_bias
    cls = scheme_class(make_bias, "make_bias")
    return lambda heads: make(cls, heads, {})


def _described(bias: Scheme, share: bool) -> dict[str, Any]:
    """What a folder stores about a scheme."""
    cls = type(bias)
    own = {} if _published(cls.__name__) is cls else {"own": True}
    return {"scheme": cls.__name__, "settings": _settings(bias), "share": share, **own}


def _settings(bias: Scheme) -> dict[str, Setting]:
    """The settings of a scheme; of a sum, its name, which has those of its parts."""
    return {"parts": bias.name} if isinstance(bias, SchemeSum) else settings_of(bias)


def _as_described(bias: Scheme, described: dict[str, Any]) -> Scheme:
    """The scheme, checked to be the one that was saved: the weights of another may load too, if the shapes agree."""
    made, saved = _settings(bias), described["settings"]
    alike = type(bias).__name__ == described["scheme"]
    if alike:  # an older version did not store all settings: the others had their default values
        saved = {name: value for name, value in default_settings(type(bias)).items() if name in made} | saved
    if not alike or made != saved:
        got, expected = (
            f"{name}({', '.join(f'{key}={value!r}' for key, value in sorted(settings.items()))})"
            for name, settings in ((type(bias).__name__, made), (described["scheme"], saved))
        )
        raise ValueError(f"make_bias: it made {got}, expected {expected}, which the model was saved with")
    return bias


def _reshape_scalars(model: nn.Module, shape: tuple[int, ...]) -> None:
    for module in model.modules():
        if isinstance(module, FIRE):
            for name in module.scalars:
                tensor = getattr(module, name)
                tensor.data = tensor.data.reshape(shape)


def _restore_buffers(scheme: nn.Module, fresh: Scheme) -> None:
    """Set the buffers of a scheme that are not saved: `from_pretrained` leaves them uninitialized."""
    saved = fresh.state_dict()
    buffers = dict(scheme.named_buffers())
    for name, value in fresh.named_buffers():
        if name not in saved:
            buffers[name].copy_(value)


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


def _made(make_bias: object, heads: int) -> Scheme:
    """Call `make_bias` and check what it makes. Its number of heads is that of its bias; it may have no such argument."""
    wanted = "the class of a scheme, such as FIRE, or a function of the number of heads that makes one"
    if isinstance(make_bias, nn.Module):
        name = type(make_bias).__name__
        raise ValueError(f"make_bias: got {name}(...), an instance, expected {wanted}: {name}, or a lambda")
    if not callable(make_bias):
        raise ValueError(f"make_bias: got {make_bias!r}, expected {wanted}")
    bias = make_bias(heads)
    if not isinstance(bias, Scheme):
        raise ValueError(f"make_bias: it made {type(bias).__name__}, expected a scheme")
    if bias.needs_content:
        expected = "expected a scheme whose bias does not depend on what the tokens say"
        raise ValueError(f"make_bias: it made {type(bias).__name__}, {expected}")
    if bias.num_heads != heads:
        raise ValueError(f"make_bias: it made a scheme of {bias.num_heads} heads, expected {heads}")
    return bias
