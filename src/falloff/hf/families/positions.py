"""Rotary or learned positions, which `swap` takes away to add a scheme: Llama, Mistral, Qwen, GPT-NeoX and GPT-2."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from falloff.forms import Strip
from falloff.hf.families.fused import Fused
from falloff.hf.masks import Seen
from falloff.schemes import Scheme


class Swapped(Fused):
    """An attention class whose scores get a scheme, `falloff_bias`: its own, or one that the model shares."""

    falloff_bias: Scheme

    def bias_of(self, position_bias: Tensor | None, query: Tensor, key: Tensor, seen: Seen) -> Scheme | Strip:
        """The scheme; for a query amid the keys of a static cache, its values for each of them."""
        scheme = self.falloff_bias
        if not scheme.toeplitz and (seen.row is not None or seen.forgotten):
            raise ValueError(
                f"past_key_values: got a static or sliding cache for {type(scheme).__name__}, which depends on absolute "
                "positions, expected a DynamicCache() of the whole text"
            )
        if seen.row is not None:
            offsets = torch.arange(1 - key.shape[2], 1, device=query.device) + seen.row
            return Strip(scheme.at(offsets), 0)
        return scheme


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
