"""Transformer-XL: the query and a learned vector, times a projected sinusoid of the offset. Conformers have the same."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from falloff.forms import Factored
from falloff.offsets import check_count, offset_range
from falloff.schemes.content import ContentScheme, check_states, checked_scale
from falloff.shapes import Float, Int

_BASE = 10_000.0


class TransformerXLBias(ContentScheme):
    """The query plus a learned vector, times a projected sinusoid of the offset n: scale * (q_i + v) . linear_pos(s_n).

    The scores are (q_i + u) . k_j + (q_i + v) . linear_pos(s_n). So attention gets q + u as its query, which
    `content_query(query)` returns, and the form of the query alone as its bias: see the example. Conformers have the same
    in both directions.

    s_n of P = `model_dim` numbers has the sines and cosines of n / 10000^(2k / P) for k = 0 .. P/2 - 1. The parameters
    `pos_bias_u` and `pos_bias_v` are (H, D), `linear_pos.weight` is (H * D, P): the names of Conformers in ESPnet, NeMo and
    Transformers. For a checkpoint of Transformer-XL itself, rename `r_w_bias`, `r_r_bias` and `r_net.weight` to these, and
    pass `interleaved=False`.

    Args:
        num_heads: H, at least 1.
        head_dim: D, at least 1.
        bidirectional: whether keys in the future have vectors of their own; if not, they share that of offset 0.
        interleaved: whether sines and cosines take turns in s_n, as in Conformers, or all sines come first.
        model_dim: P, even, at least 2; H * D by default.

    Raises:
        ValueError: for arguments out of range.

    Paper: Dai et al. 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context".

    >>> from falloff import attention
    >>> xl = TransformerXLBias(2, head_dim=8)
    >>> query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    >>> attention(xl.content_query(query), key, value, xl(query), causal=True).shape
    torch.Size([1, 2, 5, 8])
    """

    name = "transformer-xl"
    content = ("query",)
    sizes = ("num_keys", "query_start")
    largest_settings: ClassVar[dict[str, int]] = {"head_dim": 256, "model_dim": 2**14}
    formula = (
        "scale * (q_i + pos_bias_v) . linear_pos(s_n), s_n = sines and cosines of n; attention's query is q_i + pos_bias_u"
    )
    paper = "Dai et al. 2019, Transformer-XL"
    reading = (
        "Each query, and a learned vector in its place, weighs waves of distance: short ones near by, long ones far away."
    )

    def __init__(
        self,
        num_heads: int,
        head_dim: int = 64,
        bidirectional: bool = False,
        interleaved: bool = True,
        model_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("head_dim", head_dim, 1)
        for name, value in (("bidirectional", bidirectional), ("interleaved", interleaved)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}: got {value!r}, expected True or False")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.bidirectional = bidirectional
        self.interleaved = interleaved
        self.model_dim = num_heads * head_dim if model_dim is None else model_dim
        check_count("model_dim", self.model_dim, 2)
        if self.model_dim % 2:
            raise ValueError(f"model_dim: got {self.model_dim}, expected an even number: sines and cosines are pairs")
        self.pos_bias_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_heads, head_dim)))
        self.pos_bias_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_heads, head_dim)))
        self.linear_pos = nn.Linear(self.model_dim, num_heads * head_dim, bias=False)

    def content_query(self, query: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
        """The query that `falloff.attention` gets beside this bias: query + u.

        Raises:
            ValueError: for queries of the wrong shape or dtype.
        """
        check_states("query", query, "B", self.num_heads, "N", self.head_dim)
        return query + self.pos_bias_u[:, None].to(query.dtype)

    def form_of(
        self,
        query: Float[Tensor, "B H N D"],
        *,
        num_keys: int | None = None,
        query_start: int | None = None,
        scale: float | None = None,
    ) -> Factored:
        """The form of these queries.

        Args:
            query: (B, H, N, D), without u.
            num_keys: M; N by default.
            query_start: position of the first query, counted from the first key; M - N by default.
            scale: that of `falloff.attention`; 1 / sqrt(D) by default.

        Raises:
            ValueError: for queries of the wrong shape or dtype, or sizes out of range.
        """
        check_states("query", query, "B", self.num_heads, "N", self.head_dim)
        num_queries = query.shape[2]
        lowest, highest = offset_range(num_queries, num_queries if num_keys is None else num_keys, query_start)
        lowest = lowest if self.bidirectional else torch.sym_max(lowest, 0)
        highest = torch.sym_max(lowest, highest)
        waves = self._waves(torch.arange(lowest, highest + 1, device=query.device)).to(self.linear_pos.weight.dtype)
        table = self.linear_pos(waves).view(-1, self.num_heads, self.head_dim).transpose(0, 1)
        table = self._upcast(table) * checked_scale(scale, self.head_dim)
        return Factored(query + self.pos_bias_v[:, None].to(query.dtype), table.to(query.dtype), lowest, "clamp")

    def _waves(self, offsets: Int[Tensor, " K"]) -> Float[Tensor, "K P"]:
        """s_n of each offset."""
        pairs = torch.arange(0, self.model_dim, 2, device=offsets.device, dtype=self._dtype())
        angles = offsets[:, None] * torch.exp(pairs * (-math.log(_BASE) / self.model_dim))
        both = (angles.sin(), angles.cos())
        return torch.stack(both, -1).flatten(1) if self.interleaved else torch.cat(both, -1)
