"""Shaw: a learned vector for each clipped offset, which the query is multiplied with."""

from typing import Any, ClassVar

from torch import Tensor, nn

from falloff.forms import Factored
from falloff.offsets import check_count
from falloff.schemes.content import ContentScheme, check_states, checked_scale
from falloff.shapes import Float


class ShawBias(ContentScheme):
    """The query times a learned vector of the offset: scale * q_i . distance_embedding[clip(j - i)], for query i and key j.

    clip(j - i) = clamp(j - i, -max_distance, future_distance) + max_distance. The parameter `distance_embedding.weight` is
    (max_distance + future_distance + 1, D), for all heads, as in Transformers' Wav2Vec2-BERT. This is the side of the keys;
    the paper's vectors for the values are no bias.

    Args:
        num_heads: H, at least 1.
        head_dim: D, at least 1.
        max_distance: all keys further in the past share the vector of this distance; at least 1.
        future_distance: the same for keys in the future, at least 0; `max_distance` by default.

    Raises:
        ValueError: for arguments out of range.

    Paper: Shaw, Uszkoreit and Vaswani 2018, "Self-Attention with Relative Position Representations".

    >>> import torch
    >>> from falloff import attention
    >>> shaw = ShawBias(2, head_dim=8)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> attention(query, key, value, shaw(query)).shape
    torch.Size([1, 2, 5, 8])
    """

    name = "shaw"
    content = ("query",)
    largest_settings: ClassVar[dict[str, int]] = {"head_dim": 256, "max_distance": 2**16, "future_distance": 2**16}
    formula = "scale * q_i . distance_embedding[clamp(-n, -max_distance, future_distance) + max_distance]"
    paper = "Shaw et al. 2018, Relative Position Representations (the side of the keys)"
    reading = "Each query weighs a learned vector of every near distance; all distances beyond share one."

    def __init__(
        self, num_heads: int, head_dim: int = 64, max_distance: int = 16, future_distance: int | None = None
    ) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("head_dim", head_dim, 1)
        check_count("max_distance", max_distance, 1)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.max_distance = max_distance
        self.future_distance = max_distance if future_distance is None else future_distance
        check_count("future_distance", self.future_distance, 0)
        self.distance_embedding = nn.Embedding(max_distance + self.future_distance + 1, head_dim)
        nn.init.normal_(self.distance_embedding.weight, std=head_dim**-0.5)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"max_distance": min(16, trained_length)}

    def form_of(self, query: Float[Tensor, "B H N D"], *, scale: float | None = None) -> Factored:
        """The form of these queries.

        Args:
            query: (B, H, N, D), what `falloff.attention` gets as its query.
            scale: that of `falloff.attention`; 1 / sqrt(D) by default.

        Raises:
            ValueError: for queries of the wrong shape or dtype.
        """
        check_states("query", query, "B", self.num_heads, "N", self.head_dim)
        # The scale goes to the table: a product with the query would copy it. Rows of the table rise with i - j.
        table = self._upcast(self.distance_embedding.weight).flip(0) * checked_scale(scale, self.head_dim)
        return Factored(query, table[None].to(query.dtype), -self.future_distance, "clamp")
