"""The modules that `swap` replaces to remove rotary or learned positions: Llama, Mistral, Qwen, GPT-NeoX and GPT-2."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from falloff.forms import Strip
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts
from falloff.schemes import Scheme


class Swapped(Fused):
    """An attention class with the bias of a scheme, its submodule `falloff_bias`, which a wrapper may replace."""

    falloff_bias: nn.Module

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, mask: MaskParts) -> nn.Module | Strip:
        """The scheme; for a single query against a static cache, its bias by key as a strip."""
        scheme = self.falloff_bias
        if mask.row is None and not mask.evicted:
            return scheme
        if not all(part.toeplitz for part in scheme.modules() if isinstance(part, Scheme)):
            raise ValueError(
                f"past_key_values: got a static or sliding cache for {type(scheme).__name__}, which depends on absolute "
                "positions, expected a DynamicCache() of the whole text"
            )
        if mask.row is None:
            return scheme
        keys = key.shape[2]
        # A Toeplitz bias of this query is that of the last one, shifted. The clamp invents values for keys after the query;
        # the mask hides these keys.
        form = scheme(1, keys, keys - 1, device=query.device, dtype=torch.promote_types(query.dtype, torch.float32))
        offsets = torch.arange(1 - keys, 1, device=query.device) + mask.row
        return Strip(form.values[:, (offsets - form.start).clamp(0, form.values.shape[1] - 1)], 0)


class Owner:
    """A layer's reference to the model that owns the scheme: not a submodule, so that the scheme is saved once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> "Owner":
        """Refer to the copy of the model if the model is copied too, else to the same model."""
        return Owner(memo.get(id(self.model), self.model))


class SwappedShared(Swapped):
    """An attention class that uses the model's scheme. It is looked up in each call, since a wrapper may replace it."""

    falloff_owner: Owner

    @property
    def falloff_bias(self) -> nn.Module:  # type: ignore[override]
        """The model's scheme, or its wrapper."""
        return self.falloff_owner.model.falloff_bias  # type: ignore[return-value]


class SwappedConfig(Fused):
    """The configuration of a swapped model, whose file Transformers refuses to load.

    Transformers would ignore the scheme's weights with a warning and use rotary positions. So the file has a model_type that
    no Auto class knows, and a text as hidden size, because a model's own class only warns of the model_type. The true values
    are in `falloff_config`.
    """

    falloff_config: dict[str, Any]
    attribute_map: dict[str, str]
    notice: ClassVar[str] = "swapped by falloff: load it by falloff.hf.load(folder)"

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of the file."""
        output: dict[str, Any] = super().to_diff_dict()  # type: ignore[misc]
        size = self.attribute_map.get("hidden_size", "hidden_size")
        was = {name: output[name] for name in ("model_type", size) if name in output}
        return output | dict.fromkeys(was, self.notice) | {"falloff_config": self.falloff_config | {"was": was}}

    @classmethod
    def get_config_dict(cls, *arguments: Any, **named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of a file, with the true values."""
        found, rest = super().get_config_dict(*arguments, **named)  # type: ignore[misc]
        return restored(found), rest


def restored(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the true values that `SwappedConfig` replaced in its file; the same object if it replaced none."""
    described = dict(config.get("falloff_config") or {})
    if "was" not in described:
        return config
    return config | described.pop("was") | {"falloff_config": described}


class NoRotary(Fused):
    """A rotary embedding that rotates nothing: cosine 1, sine 0."""

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines, in the original shapes."""
        cosine, sine = super().forward(*arguments, **named)  # type: ignore[misc]
        return torch.ones_like(cosine), torch.zeros_like(sine)


class NoLearned(Fused):
    """A position embedding that is 0 at any position. It keeps its weights, which are not trained."""

    embedding_dim: int
    weight: Tensor

    def forward(self, positions: Tensor) -> Tensor:
        """Zeros (..., D)."""
        return self.weight.new_zeros(*positions.shape, self.embedding_dim)


class Positions(NamedTuple):
    """A model's module in Transformers, its attention class, and its rotary class or the name of its learned embedding."""

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
"""The models that `swap` knows. Pythia is GPT-NeoX."""
