"""Gated T5: T5's bias times a gate of each query, computed from its hidden state (WavLM)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.forms import Factored, Strip
from falloff.offsets import check_count
from falloff.schemes.content import ContentScheme, check_states
from falloff.schemes.t5 import T5Bias
from falloff.shapes import Float


class GatedT5Bias(ContentScheme):
    """T5's bidirectional bias times a gate of each query row: gate[b, h, i] * rel_attn_embed[bucket(n), h].

    With x the head's part of the hidden state, y = gru_rel_pos_linear(x) has 8 numbers; a and b are the sigmoids of the sums
    of the first and the last four: gate = a * (b * gru_rel_pos_const[h] - 1) + 2.

    The parameters are those of WavLM's attention: `gru_rel_pos_linear`, Linear(D, 8), `gru_rel_pos_const` (1, H, 1, 1) and
    `rel_attn_embed.weight` (num_buckets, H), of a `T5Bias`. Its layers share the latter:
    `layer.rel_attn_embed = first_layer.rel_attn_embed`.

    Args:
        num_heads: H, at least 1.
        head_dim: D, at least 1.
        num_buckets, max_distance: as in `t5_bucket`, bidirectional.
        std: standard deviation of the initial weights, whose mean is 0; at least 0.

    Raises:
        ValueError: for arguments out of range.

    Paper: Chen et al. 2022, "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing"; the gate is
    that of Chi et al. 2022, "XLM-E".

    >>> from falloff import attention
    >>> gated = GatedT5Bias(2, head_dim=8)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> attention(query, key, value, gated(torch.randn(1, 5, 16))).shape
    torch.Size([1, 2, 5, 8])
    """

    name = "gated-t5"
    content = ("hidden",)
    largest_settings: ClassVar[dict[str, int]] = {"head_dim": 256, "num_buckets": 1024, "max_distance": 2**16}
    formula = "gate[b, h, i] * rel_attn_embed[bucket(n), h], gate = a * (b * gru_rel_pos_const[h] - 1) + 2; buckets of t5"
    paper = "Chen et al. 2022, WavLM; Chi et al. 2022, XLM-E"
    reading = "T5's learned value for each range of distances, which each query makes stronger or weaker."

    def __init__(
        self, num_heads: int, head_dim: int = 64, num_buckets: int = 320, max_distance: int = 800, *, std: float = 0.02
    ) -> None:
        super().__init__()
        check_count("head_dim", head_dim, 1)
        self.rel_attn_embed = T5Bias(num_heads, num_buckets, max_distance, bidirectional=True, std=std)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(head_dim, 8)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"num_buckets": min(320, max(trained_length // 2 * 2, 4)), "max_distance": min(800, trained_length)}

    def form_of(self, hidden: Float[Tensor, "B N P"]) -> Factored:
        """The form of these hidden states.

        Args:
            hidden: (B, N, H * D), what the queries are projected from.

        Raises:
            ValueError: for hidden states of the wrong shape or dtype.
        """
        check_states("hidden", hidden, "B", "N", self.num_heads * self.head_dim)
        by_head = hidden.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        a, b = self._upcast(self.gru_rel_pos_linear(by_head)).unflatten(3, (2, 4)).sum(-1).sigmoid().chunk(2, dim=3)
        gate = a * (b * self._upcast(self.gru_rel_pos_const) - 1) + 2  # (B, H, N, 1)
        reach = self.rel_attn_embed.reach
        assert reach is not None
        strip = self.rel_attn_embed(1, 2 * reach + 1, reach, device=hidden.device)  # the offsets -reach .. reach
        assert isinstance(strip, Strip)
        return Factored(gate, strip.values[..., None].to(gate.dtype), strip.start, "clamp")
