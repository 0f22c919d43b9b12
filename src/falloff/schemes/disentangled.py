"""Disentangled: query and key are each multiplied with a learned vector of the bucketed offset (DeBERTa)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.forms import Factored, Form
from falloff.offsets import check_count, check_offsets
from falloff.schemes.content import ContentScheme, check_states
from falloff.shapes import Float, Int

_KINDS = ("c2p", "p2c")


class DisentangledBias(ContentScheme):
    """Query and key times learned vectors of the bucket b of the offset n: scale * (q_i . pos_key[b] + k_j . pos_query[b]).

    b = clamp(bucket(n) + span, 0, 2 span - 1). With S = position_buckets // 2 and L = max_relative_positions, bucket(n) = n
    if abs(n) <= S, else sign(n) * (S + ceil(ln(abs(n) / S) / ln((L - 1) / S) * (S - 1))); span = position_buckets. Without
    buckets, bucket(n) = n and span = L.

    The first term is "c2p" (content to position), the second "p2c". The scores of content are divided by the same number as
    the bias: pass `scale=bias.scale` to `falloff.attention`, 1 / sqrt(D * (1 + the number of terms)).

    The parameters are those of DeBERTa: `rel_embeddings.weight` (2 span, P), and the Linears `pos_key_proj` and
    `pos_query_proj`. Released models have `share_att_key`: they project their normalised embeddings as keys and queries, and
    pass the results: `bias(query, key, pos_key=key_proj(embeddings), pos_query=query_proj(embeddings))`.

    Args:
        num_heads: H, at least 1.
        head_dim: D, at least 1.
        position_buckets: even, at least 4; or -1 for none.
        max_relative_positions: the distance from which all share the last bucket; more than position_buckets // 2 + 1.
        pos_att_type: "c2p|p2c", "c2p" or "p2c".
        share_att_key: whether the model passes `pos_key` and `pos_query` in each call; then there are no parameters.
        model_dim: P, at least 1; H * D by default.

    Raises:
        ValueError: for arguments out of range.

    Paper: He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention"; buckets as in DeBERTa-v2 and -v3.

    >>> from falloff import attention
    >>> bias = DisentangledBias(2, head_dim=8)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> attention(query, key, value, bias(query, key), scale=bias.scale).shape
    torch.Size([1, 2, 5, 8])
    """

    name = "disentangled"
    content = ("query", "key")
    largest_settings: ClassVar[dict[str, int]] = {
        "head_dim": 256,
        "position_buckets": 2**14,
        "max_relative_positions": 2**16,
        "model_dim": 2**14,
    }
    formula = (
        "(q_i . pos_key[b] + k_j . pos_query[b]) / sqrt(3 D), b = clamp(bucket(n) + span, 0, 2 span - 1); "
        "bucket(n) = n if |n| <= S else sign(n) * (S + ceil(ln(|n| / S) / ln((L - 1) / S) * (S - 1))); "
        "S = position_buckets // 2; L = max_relative_positions"
    )
    paper = "He et al. 2021, DeBERTa (v2, v3)"
    reading = (
        "What a query says asks for distances, and what a key says answers to them; near distances are exact, far ones in "
        "ranges that widen."
    )

    def __init__(
        self,
        num_heads: int,
        head_dim: int = 64,
        position_buckets: int = 256,
        max_relative_positions: int = 512,
        pos_att_type: str = "c2p|p2c",
        share_att_key: bool = False,
        model_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("head_dim", head_dim, 1)
        if position_buckets != -1:
            check_count("position_buckets", position_buckets, 4)
            if position_buckets % 2:
                raise ValueError(f"position_buckets: got {position_buckets}, expected an even number, or -1 for none")
        check_count("max_relative_positions", max_relative_positions, max(position_buckets // 2 + 2, 1))
        terms = pos_att_type.split("|") if isinstance(pos_att_type, str) else []
        if not terms or any(term not in _KINDS or terms.count(term) > 1 for term in terms):
            raise ValueError(f"pos_att_type: got {pos_att_type!r}, expected 'c2p|p2c', 'c2p' or 'p2c'")
        if not isinstance(share_att_key, bool):
            raise ValueError(f"share_att_key: got {share_att_key!r}, expected True or False")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.position_buckets = position_buckets
        self.max_relative_positions = max_relative_positions
        self.pos_att_type = pos_att_type
        self.share_att_key = share_att_key
        self.model_dim = num_heads * head_dim if model_dim is None else model_dim
        check_count("model_dim", self.model_dim, 1)
        self.terms = tuple(terms)
        self.scale = (head_dim * (1 + len(terms))) ** -0.5
        self.span = position_buckets if position_buckets > 0 else max_relative_positions
        if not share_att_key:
            self.rel_embeddings = nn.Embedding(2 * self.span, self.model_dim)
            nn.init.normal_(self.rel_embeddings.weight, std=0.02)
            if "c2p" in terms:
                self.pos_key_proj = nn.Linear(self.model_dim, num_heads * head_dim)
            if "p2c" in terms:
                self.pos_query_proj = nn.Linear(self.model_dim, num_heads * head_dim)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        buckets = min(256, max(trained_length // 2 * 2, 4))
        return {"position_buckets": buckets, "max_relative_positions": max(min(512, trained_length), buckets // 2 + 2)}

    def row_of(self, offsets: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The row of the embeddings for each integer offset, 0 .. 2 span - 1, in the shape of `offsets`.

        Raises:
            ValueError: for offsets that are not integers.
        """
        check_offsets(offsets)
        buckets = offsets
        if self.position_buckets > 0:
            # In float64, where 1e-9 allows for rounding: the tests compare it with Transformers' float32.
            near = self.position_buckets // 2
            far = (offsets.abs().clamp(min=near).double() / near).log() / math.log((self.max_relative_positions - 1) / near)
            far = near + (far * (near - 1) - 1e-9).ceil().long()
            buckets = torch.where(offsets.abs() <= near, offsets, offsets.sign() * far)
        return (buckets + self.span).clamp(0, 2 * self.span - 1)

    def form_of(
        self,
        query: Float[Tensor, "B H N D"],
        key: Float[Tensor, "B H M D"],
        *,
        pos_key: Float[Tensor, "S P"] | None = None,
        pos_query: Float[Tensor, "S P"] | None = None,
    ) -> Form:
        """The form of these queries and keys.

        Args:
            query, key: (B, H, N, D) and (B, H, M, D), what `falloff.attention` gets.
            pos_key, pos_query: (2 span, H * D), the projected embeddings, where the model projects them itself.

        Raises:
            ValueError: for tensors of the wrong shape or dtype, or missing ones with `share_att_key`.
        """
        check_states("query", query, "B", self.num_heads, "N", self.head_dim)
        check_states("key", key, "B", self.num_heads, "M", self.head_dim)
        reach = self.max_relative_positions
        rows = self.row_of(torch.arange(-reach, reach + 1, device=query.device))
        parts: list[Form] = []
        if "c2p" in self.terms:
            table = self._table("pos_key", pos_key, rows).to(query.dtype)
            parts.append(Factored(query, table, -reach, "clamp"))
        if "p2c" in self.terms:
            table = self._table("pos_query", pos_query, rows).to(key.dtype)
            parts.append(Factored(key, table, -reach, "clamp", "key"))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _table(self, name: str, given: Tensor | None, rows: Int[Tensor, " K"]) -> Float[Tensor, "H K D"]:
        """The scaled vectors of each head by offset."""
        if given is None:
            if self.share_att_key:
                raise ValueError(f"{name}: got None, expected the projected embeddings, as with share_att_key")
            given = getattr(self, f"{name}_proj")(self.rel_embeddings.weight)
        check_states(name, given, 2 * self.span, self.num_heads * self.head_dim)
        assert self.scale is not None
        scaled = self._upcast(given) * self.scale
        return scaled.view(-1, self.num_heads, self.head_dim)[rows].transpose(0, 1)
