"""DeBERTa-v2 and v3: the scores of content to position and of position to content, each a product with a table by offset.

Transformers makes a matrix (N, N) of buckets, and gathers two tensors (B * H, N, N) by it. Here the buckets are a vector by
offset, as long as they change, which chooses the rows of two tables (H, K, D).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from falloff.forms import Factored, Form, Sum
from falloff.hf.attention import as_mask_parts, attend, refuse_weights
from falloff.hf.families.fused import Fused
from falloff.hf.masks import MaskParts


class FusedDisentangled(Fused):
    """DisentangledSelfAttention of DeBERTa-v2. Rows of padding attend to the tokens, in place of the mean of all values."""

    num_attention_heads: int
    pos_att_type: list[str]
    share_att_key: bool
    training: bool
    position_buckets: int
    max_relative_positions: int
    pos_ebd_size: int
    dropout: nn.Dropout
    query_proj: nn.Module
    key_proj: nn.Module
    value_proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention; no weights. `relative_pos` is that of `FusedDebertaEncoder`."""
        if output_attentions:
            refuse_weights()
        mask = as_mask_parts(attention_mask)
        query = self._by_head(self.query_proj(hidden_states if query_states is None else query_states))
        key, value = (self._by_head(project(hidden_states)) for project in (self.key_proj, self.value_proj))
        kinds: list[str] = [kind for kind in ("c2p", "p2c") if kind in self.pos_att_type]
        scale: float = (query.shape[-1] * (1 + len(kinds))) ** -0.5
        if relative_pos is None:
            relative_pos = _rows_by_offset(self, hidden_states)
        bias = self._bias(query, key, relative_pos, rel_embeddings, scale, kinds)
        out = attend(query, key, value, bias, mask, scale, self.dropout.p if self.training else 0.0)
        return out.transpose(1, 2).flatten(2), None

    def _bias(
        self, query: Tensor, key: Tensor, rows: Tensor, embeddings: Any, scale: float, kinds: list[str]
    ) -> Form | None:
        """The sum of both, from rows (2, K) of the embeddings by offset."""
        embeddings = self.pos_dropout(embeddings)[: 2 * self.pos_ebd_size]  # type: ignore[attr-defined]
        start = -(rows.shape[1] // 2)
        forms: list[Form] = []
        for kind in kinds:
            # Content to position: each query with a key made of its offset; position to content the other way round.
            states, side, part, of_kind = (query, "query", "key", 0) if kind == "c2p" else (key, "key", "query", 1)
            project = getattr(self, f"{part}_proj" if self.share_att_key else f"pos_{part}_proj")
            # The gradient of an embedding is summed in a fixed order, on GPUs too.
            table = embedding(rows[of_kind], project(embeddings) * scale)  # (K, H * D)
            table = table.unflatten(-1, (self.num_attention_heads, -1)).transpose(0, 1)  # (H, K, D)
            forms.append(Factored(states, table, start, "clamp", side))  # type: ignore[arg-type]
        return Sum(forms) if forms else None

    def _by_head(self, states: Tensor) -> Tensor:
        """(B, N, H * D) as (B, H, N, D)."""
        return states.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None."""
        if not module.relative_attention:
            return "it has absolute positions and no bias"
        if module.position_buckets > 0 and not 2 <= module.position_buckets // 2 < module.max_relative_positions - 1:
            return f"its {module.position_buckets} buckets do not rise up to {module.max_relative_positions} positions"
        return None


class FusedDebertaEncoder(Fused):
    """DebertaV2Encoder, which makes buckets by offset in place of a matrix, and no mask (B, 1, N, N)."""

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
        return _rows_by_offset(self, hidden_states)

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module cannot be fused, or None: the reason of its attention."""
        return FusedDisentangled.refusal(module.layer[0].attention.self)


def _rows_by_offset(module: Any, hidden_states: Tensor) -> Tensor:
    """The rows of the position embeddings that the offsets -n .. n choose, (2, 2n + 1).

    n is the reach, or the length if that is less: the clamp of a form gives the rows of all other offsets.
    """
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    buckets, most = module.position_buckets, module.max_relative_positions
    span = buckets if buckets > 0 else most
    reach = torch.sym_min(_reach(buckets, most), hidden_states.shape[1])
    offsets = torch.arange(-reach, reach + 1, device=hidden_states.device)

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
