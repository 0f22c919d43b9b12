"""`swap`: a decoder's rotary or learned positions out, a scheme in; `load`: a swapped model from its folder."""

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
from falloff.schemes.settings import default_settings, make, settings_of

MakeBias = Callable[[int], Scheme]


def swap(model: nn.Module, make_bias: MakeBias | str, *, share: bool = False) -> None:
    """Take the positions out of a decoder and add a scheme to its attention scores, in place.

    For research on positions and lengths, and for fine-tuning: the model has to learn the scheme. Known are Llama, Mistral,
    Qwen 2 and 3, GPT-NeoX (Pythia) and GPT-2. Rotary embeddings turn nothing any more; a learned embedding of positions
    gives 0, at any length. Parameters of the scheme are the model's: `falloff_bias` of each attention module, or of the
    model. What wraps modules (PEFT's `modules_to_save`, FSDP, DDP, offloading) may wrap them: swap first, then wrap.

    `save_pretrained` saves them, and the scheme's name and settings as `falloff_config` in the model's config; `load` reads
    them. Nothing else loads such a folder: `AutoModel` and the model's own class would put the old positions back, so
    `config.json` says in the place of `model_type` and `hidden_size` that `falloff.hf.load` is wanted, and they refuse it.

    Args:
        model: of Transformers.
        make_bias: called with the number of heads, makes a scheme: `FIRE`, a class of your own, or
            `lambda heads: T5Bias(heads, num_buckets=64)`. Or a name as on the command line: "fire", "module:Class",
            "file.py:Class"; the code of such a file or module runs.
        share: one scheme for all layers, instead of one for each.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model that this does not know, or that is swapped or fused already, sharded or offloaded; what is
            not a scheme, or depends on content. Nothing has changed then, nor after an error of `make_bias`.

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
    )  # without hooks it is a model that gets its weights later
    if offloaded or any(hasattr(parameter, "placements") for parameter in model.parameters()):
        raise ValueError(
            f"model: got {type(model).__name__} that is offloaded or sharded, expected one whose parameters are at hand: "
            "swap first"
        )
    biases = [_made(maker, places.heads) for _ in range(1 if share else len(places.attention))]
    described = _described(biases[0], share)
    with all_or_nothing(model):
        if getattr(model, "base_model", None) is not model:
            own_configs(model)  # a model without a head may be a part of one with: then the whole one's file must say so too
        _put_in(model, places, biases, share)
        model.config.falloff_config = described  # type: ignore[union-attr]


class _Places(NamedTuple):
    """Where in a model positions and attention are, and its configurations."""

    attention: list[Any]
    rotary: list[nn.Module]
    learned: list[nn.Module]
    models: list[Any]
    heads: int


def _places(model: Any) -> _Places:
    """Look at everything that could stand in the way; nothing is changed."""
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
            "model whose positions can be taken away"
        )
    for parts, change in ((rotary, NoRotary), (learned, NoLearned)):
        for module in parts:
            check_forward(module, fused_class(change, type(module)))
    return _Places(attention, rotary, learned, models, attention[0].config.num_attention_heads)


def _put_in(model: Any, places: _Places, biases: list[Scheme], share: bool) -> None:
    """Change the modules and the configuration; what can fail has been tried before."""
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
    """Where a module is; a quantized one may have no parameters."""
    return next((parameter.device for parameter in module.parameters()), model.device)


def load(folder: str | Path, make_bias: MakeBias | str | None = None, **more: Any) -> Any:
    """A model that was swapped and saved by `save_pretrained`.

    Args:
        folder: as in `from_pretrained`.
        make_bias: as in `swap`, for a scheme of your own, of whose code the folder has nothing; by default what the model's
            config names: no code of a folder's choice is run. It has to make what the model was saved with: the same class,
            with the same settings.
        more: for `from_pretrained`, such as dtype.

    Raises:
        ImportError: without Transformers.
        ValueError: for a model that was not swapped; one whose scheme is not one of falloff's, without `make_bias`; or a
            `make_bias` that makes something else.
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
    of_old = config is found
    maker, share = _named(described) if make_bias is None else _maker(make_bias), described["share"]
    original: Any = getattr(transformers, config["architectures"][0])
    fresh: list[Scheme] = []

    def swapped_from_the_start(model: Any, config: Any, *arguments: Any, **named: Any) -> None:
        config.__class__ = type(config).unfused  # some models make their parts by AutoModel, which looks at the class
        original.__init__(model, config, *arguments, **named)
        model.__class__ = original
        places = _places(model)
        with torch.device("cpu"):  # Transformers has chosen the device meta, where nothing can be looked at
            fresh.append(_as_described(_made(maker, places.heads), described))
        _put_in(model, places, [maker(places.heads) for _ in (places.attention[:1] if share else places.attention)], share)
        if of_old:
            _reshape_scalars(model, ())  # FIRE had some when such a folder was saved

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
    attend_by_falloff(models_around(swapped, model))  # `from_pretrained` has chosen one again
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
    """What makes a scheme, of what may be its name: a name that the caller wrote, never one from a folder."""
    if not isinstance(make_bias, str):
        return make_bias
    cls = scheme_class(make_bias, "make_bias")
    return lambda heads: make(cls, heads, {})


def _described(bias: Scheme, share: bool) -> dict[str, Any]:
    """What a folder says of a scheme."""
    cls = type(bias)
    own = {} if _published(cls.__name__) is cls else {"own": True}
    return {"scheme": cls.__name__, "settings": settings_of(bias), "share": share, **own}


def _as_described(bias: Scheme, described: dict[str, Any]) -> Scheme:
    """The scheme, which must be the one that was saved: another would be taken without a word where shapes agree."""
    made, saved = settings_of(bias), described["settings"]
    alike = type(bias).__name__ == described["scheme"]
    if alike:  # a folder of an earlier version does not tell all: the rest was as it is by default
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
    """Give a scheme the buffers that are not saved, which `from_pretrained` leaves as whatever the memory held."""
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
    """What `make_bias` makes. Its heads are those of the bias itself: a scheme of your own need not keep their number."""
    wanted = "the class of a scheme, such as FIRE, or a function of the number of heads that makes one"
    if isinstance(make_bias, nn.Module):
        name = type(make_bias).__name__
        raise ValueError(f"make_bias: got {name}(...), which is made already, expected {wanted}: {name}, or a lambda")
    if not callable(make_bias):
        raise ValueError(f"make_bias: got {make_bias!r}, expected {wanted}")
    bias = make_bias(heads)
    if not isinstance(bias, Scheme):
        raise ValueError(f"make_bias: it made {type(bias).__name__}, expected a scheme")
    if bias.needs_content:
        said = "expected a scheme whose bias does not depend on what the tokens say"
        raise ValueError(f"make_bias: it made {type(bias).__name__}, {said}")
    if bias.num_heads != heads:
        raise ValueError(f"make_bias: it made a scheme of {bias.num_heads} heads, expected {heads}")
    return bias
