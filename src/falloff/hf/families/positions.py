"""Rotary or learned positions, which `swap` takes away to add a scheme: Llama, Mistral, Qwen, GPT-NeoX and GPT-2."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from falloff.forms import Strip
from falloff.hf.families.fused import Fused
from falloff.hf.masks import Seen
from falloff.schemes import Scheme


class Swapped(Fused):
    """An attention class whose scores get a scheme, `falloff_bias`, its own; whatever wraps that is called in its place."""

    falloff_bias: nn.Module

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, seen: Seen) -> nn.Module | Strip:
        """The scheme; for a query amid the keys of a static cache, its values for each of them."""
        scheme = self.falloff_bias
        if seen.row is None and not seen.forgotten:
            return scheme
        if not all(part.toeplitz for part in scheme.modules() if isinstance(part, Scheme)):
            raise ValueError(
                f"past_key_values: got a static or sliding cache for {type(scheme).__name__}, which depends on absolute "
                "positions, expected a DynamicCache() of the whole text"
            )
        if seen.row is None:
            return scheme
        keys = key.shape[2]
        # The last query's bias is that of every query, shifted; keys ahead of it, which the clamp makes up, are hidden.
        form = scheme(1, keys, keys - 1, device=query.device, dtype=torch.promote_types(query.dtype, torch.float32))
        offsets = torch.arange(1 - keys, 1, device=query.device) + seen.row
        return Strip(form.values[:, (offsets - form.start).clamp(0, form.values.shape[1] - 1)], 0)


class Owner:
    """A reference to the model that has the scheme of all its layers: no submodule of theirs, so that it is saved once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> "Owner":
        """The copy of the model where that is what is copied; a copy of a layer alone goes on asking the same model."""
        return Owner(memo.get(id(self.model), self.model))


class SwappedShared(Swapped):
    """Where the model's scheme is that of all layers: looked up in each call, as wrappers may take its place."""

    falloff_owner: Owner

    @property
    def falloff_bias(self) -> nn.Module:  # type: ignore[override]
        """The model's scheme, or what wraps it."""
        return self.falloff_owner.model.falloff_bias  # type: ignore[return-value]


class SwappedConfig(Fused):
    """The configuration of a swapped model: in its file stands what Transformers refuses, lest a plain model be made of it.

    Transformers drops weights that it does not know with a note, and puts rotary positions back. So the file has a
    model_type that no Auto class knows, and for a model's own class, which only warns of that, words where it expects a
    number. What they were is in `falloff_config`.
    """

    falloff_config: dict[str, Any]
    attribute_map: dict[str, str]
    said: ClassVar[str] = "swapped by falloff: load it by falloff.hf.load(folder)"

    def to_diff_dict(self) -> dict[str, Any]:
        """What the file has."""
        output: dict[str, Any] = super().to_diff_dict()  # type: ignore[misc]
        size = self.attribute_map.get("hidden_size", "hidden_size")
        was = {name: output[name] for name in ("model_type", size) if name in output}
        return output | dict.fromkeys(was, self.said) | {"falloff_config": self.falloff_config | {"was": was}}

    @classmethod
    def get_config_dict(cls, *arguments: Any, **named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the file had, with what it meant."""
        found, rest = super().get_config_dict(*arguments, **named)  # type: ignore[misc]
        return restored(found), rest


def restored(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in the file of a swapped model as they were, see `SwappedConfig`; the same object where all stands."""
    described = dict(config.get("falloff_config") or {})
    if "was" not in described:
        return config
    return config | described.pop("was") | {"falloff_config": described}


class NoRotary(Fused):
    """A rotary embedding that turns nothing: cosine 1, sine 0."""

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """In the shapes that were."""
        cosine, sine = super().forward(*arguments, **named)  # type: ignore[misc]
        return torch.ones_like(cosine), torch.zeros_like(sine)


class NoLearned(Fused):
    """An embedding of positions that is 0, at any position; its weights stay, and are not trained."""

    embedding_dim: int
    weight: Tensor

    def forward(self, positions: Tensor) -> Tensor:
        """Zeros (..., D)."""
        return self.weight.new_zeros(*positions.shape, self.embedding_dim)


class Positions(NamedTuple):
    """A kind of model: its module in Transformers, attention, and rotary embedding or the name of the learned one."""

    module: str
    attention: str
    rotary: str | None = None
    learned: str | None = None


POSITIONS: dict[str, Positions] = {
    name: Positions(f"transformers.models.{name}.modeling_{name}", f"{title}Attention", f"{title}RotaryEmbedding")
    for name, title in (
        ("llama", "Llama"),
        ("mistral", "Mistral"),
        ("qwen2", "Qwen2"),
        ("qwen3", "Qwen3"),
        ("gpt_neox", "GPTNeoX"),
    )
} | {"gpt2": Positions("transformers.models.gpt2.modeling_gpt2", "GPT2Attention", learned="wpe")}
"""What `swap` knows; Pythia is GPT-NeoX."""
