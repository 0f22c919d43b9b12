"""DeBERTa: the scores of content to position and of position to content, each a product with a table by offset.

Transformers makes a matrix (N, N) of buckets, and gathers two tensors (B * H, N, N) by it. Here the buckets are a vector by
offset, as long as they change, which chooses the rows of two tables (H, K, D). In evaluation the tables are cached: to
project the embeddings anew is a seventh of a layer's products for 512 tokens, and most of them for few.
"""

from typing import Any, ClassVar, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.modules.module import _has_any_global_hook

from falloff.cache import MOST_NUMBERS, Cache, can_compare, location_of
from falloff.eager import is_eager
from falloff.forms import Factored, Form, Sum
from falloff.hf.attention import as_mask_parts, attend, refuse_weights
from falloff.hf.families.fused import Fused, by_head
from falloff.hf.masks import MaskParts

_MOST_SOURCES = 2**24  # numbers that are copied, and compared in a fifth of the time that projecting takes


class _Disentangled(Fused):
    """What the versions share. Rows of padding attend to the tokens, in place of the mean of all values."""

    num_attention_heads: int
    pos_att_type: list[str]
    training: bool
    dropout: nn.Dropout
    max_relative_positions: int
    # Beside the modules: not copied, pickled or moved with them.
    _caches: ClassVar[WeakKeyDictionary[Any, Cache]] = WeakKeyDictionary()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention (B, N, H * D); no weights. `relative_pos`, the rows (2, K) of the embeddings by offset, is that of
        `FusedDebertaEncoder` and no other: cached tables were made with it.
        """
        if output_attentions:
            refuse_weights()
        query, key, value = self.projected(hidden_states, query_states)
        mask = as_mask_parts(attention_mask)
        scale: float = (query.shape[-1] * (1 + self.count())) ** -0.5
        embeddings = self.pos_dropout(rel_embeddings)[: 2 * _span(self)]  # type: ignore[attr-defined]
        kinds = self.kinds()
        tables = self.cached_tables(kinds, embeddings, scale)
        if tables is None:
            rows = _rows_by_offset(self, query.shape[2], query.device) if relative_pos is None else relative_pos
            tables = self.tables(kinds, embeddings, rows, scale)
        forms: list[Form] = []
        for kind, table in zip(kinds, tables, strict=True):
            # Content to position: each query with a key made of its offset; position to content the other way round.
            side, own = ("query", query) if kind == "c2p" else ("key", key)
            forms.append(Factored(own, table, -(table.shape[1] // 2), "clamp", side))  # type: ignore[arg-type]
        dropout = self.dropout.p if self.training else 0.0
        out = attend(query, key, value, Sum(forms) if forms else None, mask, scale, dropout)
        return out.transpose(1, 2).flatten(2), None

    def tables(self, kinds: list[str], embeddings: Tensor, rows: Tensor, scale: float) -> tuple[Tensor, ...]:
        """The scaled vectors of each head by offset, (H, K, D), of each kind."""
        # The gradient of an embedding is summed in a fixed order, on GPUs too.
        by_offset = (embedding(rows[0 if kind == "c2p" else 1], self.projection(kind)(embeddings) * scale) for kind in kinds)
        return tuple(by_head(table, self.num_attention_heads) for table in by_offset)

    def cached_tables(self, kinds: list[str], embeddings: Tensor, scale: float) -> tuple[Tensor, ...] | None:
        """The tables as far as the rows change, as long as embeddings and projections equal their copies.

        None on GPUs, where a comparison would wait for the device, in training, where a projection may do more than multiply
        (hooks, adapters, autocast), and where tables are too large to keep.
        """
        if not is_eager() or not embeddings.is_cpu or torch.is_autocast_enabled("cpu"):
            return None
        if self.training:
            self.forget()
            return None
        projections = [found for kind in kinds if _is_plain(found := self.projection(kind))]
        location = location_of(embeddings.device)
        if _has_any_global_hook() or len(projections) < len(kinds) or location is None:
            return None
        # Attributes, not parameters(): a weight may be a plain tensor.
        sources = [embeddings, *(part for one in projections for part in (one.weight, one.bias) if part is not None)]
        reach = _reach(_buckets(self), self.max_relative_positions)
        too_large = len(kinds) * (2 * reach + 1) * embeddings.shape[1] > MOST_NUMBERS
        if too_large or not can_compare(sources, location, most=_MOST_SOURCES):
            return None
        cache = self._caches.get(self)
        if cache is None or not cache.computed_from(sources):
            cache = self._caches[self] = Cache.of(sources)

        def compute() -> tuple[Tensor, ...]:
            rows = _rows_by_offset(self, reach, embeddings.device)
            return tuple(table.contiguous() for table in self.tables(kinds, embeddings, rows, scale))

        key = (*kinds, scale, _buckets(self), self.max_relative_positions, self.num_attention_heads)
        return cache.get((*key, *(one.bias is None for one in projections)), compute)

    def forget(self) -> None:
        """Drop the cached tables."""
        self._caches.pop(self, None)

    def projected(self, hidden_states: Tensor, query_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (B, H, N, D)."""
        raise NotImplementedError

    def kinds(self) -> list[str]:
        """Those of the two that it has: others have no effect."""
        return [kind for kind in ("c2p", "p2c") if kind in self.pos_att_type]

    def count(self) -> int:
        """How many parts the scale counts beside the product of query and key."""
        return len(self.kinds())

    def projection(self, kind: str) -> nn.Module:
        """What projects the embeddings for "c2p" or "p2c"."""
        raise NotImplementedError

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        if not module.relative_attention:
            return "it has absolute positions and no bias"
        if getattr(module, "talking_head", False):
            return "its scores and weights are mixed between heads"
        buckets, most = _buckets(module), module.max_relative_positions
        if buckets > 0 and not 2 <= buckets // 2 < most - 1:
            return f"its {buckets} buckets do not rise up to {most} positions"
        return None


class FusedDisentangled(_Disentangled):
    """DisentangledSelfAttention of DeBERTa-v2 and v3."""

    share_att_key: bool

    def projected(self, hidden_states: Tensor, query_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        of_query = hidden_states if query_states is None else query_states
        query, key, value = (
            by_head(getattr(self, name)(states), self.num_attention_heads)
            for name, states in (("query_proj", of_query), ("key_proj", hidden_states), ("value_proj", hidden_states))
        )
        return query, key, value

    def projection(self, kind: str) -> nn.Module:
        """The projection of keys for "c2p", of queries for "p2c"; one of its own or that of the tokens."""
        part = "key" if kind == "c2p" else "query"
        return getattr(self, f"{part}_proj" if self.share_att_key else f"pos_{part}_proj")


class FusedDisentangledV1(_Disentangled):
    """DisentangledSelfAttention of DeBERTa, with one projection for query, key and value."""

    q_bias: Tensor
    v_bias: Tensor
    in_proj: nn.Module

    def projected(self, hidden_states: Tensor, query_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if query_states is not None:
            raise ValueError("query_states: got a tensor, expected None: a fused DeBERTa has its queries from hidden_states")
        heads = self.num_attention_heads
        query, key, value = by_head(self.in_proj(hidden_states), heads).chunk(3, -1)
        return query + by_head(self.q_bias[None], heads), key, value + by_head(self.v_bias[None], heads)

    def count(self) -> int:
        """All that the configuration names, also what has no effect."""
        return len(self.pos_att_type)

    def projection(self, kind: str) -> nn.Module:
        """The projection of keys for "c2p", of queries for "p2c"."""
        return self.pos_proj if kind == "c2p" else self.pos_q_proj  # type: ignore[attr-defined]


class FusedDebertaEncoder(Fused):
    """DebertaV2Encoder and DebertaEncoder, which make buckets by offset in place of a matrix, and no mask (B, 1, N, N)."""

    def get_attention_mask(self, attention_mask: Any) -> MaskParts:
        """The padding mask (B, N) as the parts of a mask."""
        if not isinstance(attention_mask, Tensor) or attention_mask.dim() > 2:
            return as_mask_parts(attention_mask)
        return MaskParts(attention_mask.bool(), False, None, 0, None)

    def get_rel_pos(
        self, hidden_states: Tensor, query_states: Tensor | None = None, relative_pos: Tensor | None = None
    ) -> Tensor:
        """The rows of the embeddings by offset, (2, K): for content to position, and for position to content."""
        if relative_pos is not None:
            raise ValueError(
                f"relative_pos: got a tensor of shape {tuple(relative_pos.shape)}, expected None: a fused model has a bias "
                "by offset (falloff.hf.unfuse(model) takes any)"
            )
        return _rows_by_offset(self, hidden_states.shape[1], hidden_states.device)

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None: the reason of its attention."""
        return _Disentangled.refusal(module.layer[0].attention.self)


def _is_plain(projection: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a Linear and nothing more."""
    return type(projection) is nn.Linear and not (
        projection._forward_hooks or projection._forward_pre_hooks or "forward" in vars(projection)
    )


def _buckets(module: Any) -> int:
    """How many buckets there are in each direction; not above 0 if none, as in the first version."""
    found: int = getattr(module, "position_buckets", -1)
    return found


def _span(module: Any) -> int:
    """How many rows of the embeddings each direction has."""
    most: int = module.max_relative_positions
    return _buckets(module) if _buckets(module) > 0 else most


def _rows_by_offset(module: Any, length: int, device: torch.device) -> Tensor:
    """The rows of the position embeddings that the offsets -n .. n choose, (2, 2n + 1).

    n is the reach, or the length if that is less: the clamp of a form gives the rows of all other offsets.
    """
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    buckets, most, span = _buckets(module), module.max_relative_positions, _span(module)
    reach = torch.sym_min(_reach(buckets, most), length)
    offsets = torch.arange(-reach, reach + 1, device=device)

    def bucket_of(offsets: Tensor) -> Tensor:
        return make_log_bucket_position(offsets, buckets, most).long() if buckets > 0 else offsets

    rows = torch.stack([bucket_of(offsets), -bucket_of(-offsets)])
    return (rows + span).clamp(0, 2 * span - 1)


def _reach(buckets: int, most: int) -> int:
    """An offset from which the row no longer changes, in either direction."""
    if buckets <= 0:
        return most
    half = buckets // 2
    # From ceil(log(n / half) / log((most - 1) / half) * (half - 1)) + half >= buckets on. One more for rounded logarithms.
    return int(half * ((most - 1) / half) ** ((buckets - half - 1) / (half - 1))) + 2
