"""Attention tile by tile in plain torch: O(N) memory, forward and backward, any device.

For a few heads at a time, each block of query rows visits its keys in tiles and keeps a running row maximum, row sum and
weighted sum of values (online softmax: Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). The backward
recomputes the weights of each tile from the log-sum-exp. Scores and sums are float32, or float64 for float64 inputs.
Query rows are held in reverse order within a tile, for the sake of the bias: see `bias.py`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from falloff.ops.blockwise.bias import Tile, TileBias, tile_bias
from falloff.ops.call import Call, empty_lse, empty_output, sum_dtype
from falloff.ops.dropout import keep_mask
from falloff.ops.mask import visible

# Tiles of at most 64 x 1024 (query heads that share a key head count as rows), and as many heads and batch entries at once
# as keep the scores within 2 MB of float32: a tile stays in cache through the dozen elementwise passes of plain torch, and
# what a form works out for a tile serves many heads. `benchmarks/blockwise.md` has the figures.
_ROWS, _KEYS, _SCORES = 64, 1024, 1 << 19


CHECKS_INPUTS = False


def unavailable() -> str | None:
    """Why it cannot run on this machine: it runs on all."""
    return None


def refusal(query: Tensor, key: Tensor, call: Call) -> str | None:
    """Why this implementation cannot serve a call: it serves all."""
    return None


class _Heads:
    """Some batch entries and key/value heads of a call, and the tiles of their scores."""

    def __init__(self, query: Tensor, key: Tensor, call: Call, batch: slice, groups: slice) -> None:
        self.call, self.batch, self.groups = call, batch, groups
        self.num_queries, self.num_keys = query.shape[2], key.shape[2]
        self.fold = query.shape[1] // key.shape[1]  # query heads that share a key head
        self.heads = slice(groups.start * self.fold, groups.stop * self.fold)
        self.device, self.dtype = query.device, sum_dtype(query)

    def row_blocks(self) -> Iterator[slice]:
        step = _rows_at_once(self.fold)
        for start in range(0, self.num_queries, step):
            yield slice(start, min(start + step, self.num_queries))

    def tiles(self, rows: slice) -> Iterator[Tile]:
        """The tiles of these rows that are not wholly hidden by `causal` or `window`."""
        first, last = 0, self.num_keys
        if self.call.causal:
            last = min(last, self.call.query_start + rows.stop)
        if self.call.window is not None:
            first = max(first, self.call.query_start + rows.start - self.call.window + 1)
        for start in range(first, last, _KEYS):
            yield Tile(self.batch, self.heads, rows, slice(start, min(start + _KEYS, last)), self.call.query_start)

    def rows_of(self, tensor: Tensor, rows: slice) -> Tensor:
        """Rows of a tensor (B, H, N, D) in reverse, query heads folded onto their key head: (b, g, fold * n, D)."""
        block = tensor[self.batch, self.heads, rows].flip(2).to(self.dtype)
        return block.reshape(block.shape[0], -1, self.fold * block.shape[2], block.shape[3])

    def keys_of(self, tensor: Tensor, tile: Tile) -> Tensor:
        """Keys or values of a tile: (b, g, m, D). Those that `key_mask` hides are zeros: 0 * NaN is NaN."""
        block = tensor[self.batch, self.groups, tile.keys].to(self.dtype)
        if self.call.key_mask is None:
            return block
        return block.masked_fill(~self.call.key_mask[self.batch, None, tile.keys, None], 0.0)

    def write_rows(self, target: Tensor, rows: slice, block: Tensor) -> None:
        """The inverse of `rows_of`."""
        view = target[self.batch, self.heads, rows]
        view.copy_(block.reshape(view.shape).flip(2))

    def scores(self, query_rows: Tensor, key: Tensor, bias: TileBias | None, tile: Tile) -> Tensor:
        """The scores of a tile with bias and mask, (b, g, fold * n, m); `query_rows` are scaled already."""
        scores = query_rows @ self.keys_of(key, tile).transpose(-1, -2)
        by_head = self._by_head(scores, tile)
        if bias is not None:
            bias.add_to(by_head, tile)
        seen = self._visible(tile)
        if seen is not None:
            by_head.masked_fill_(~seen, -torch.inf)
        return scores

    def accumulate(self, bias: TileBias, grad_scores: Tensor, tile: Tile) -> None:
        bias.accumulate(self._by_head(grad_scores, tile), tile)

    def kept(self, tile: Tile) -> Tensor | None:
        """1 / (1 - p) where dropout keeps a weight and 0 where not, (b, g, fold * n, m); None without dropout."""
        if self.call.seed is None:
            return None
        batch, heads, keys = (self._index(part) for part in (tile.batch, tile.heads, tile.keys))
        kept = keep_mask(self.call.seed, self.call.dropout_p, batch, heads, self._row_index(tile), keys).to(self.dtype)
        if self.call.dropout_p < 1.0:
            kept /= 1.0 - self.call.dropout_p
        return kept.reshape(kept.shape[0], -1, self.fold * tile.num_rows, tile.num_keys)

    def _visible(self, tile: Tile) -> Tensor | None:
        """What hides keys within the tile; masks that hide none of it are left out."""
        call = self.call
        return visible(
            self._row_index(tile),
            self._index(tile.keys),
            query_start=call.query_start,
            causal=call.causal and tile.bottom < 0,
            window=call.window if call.window is not None and tile.top >= call.window else None,
            key_mask=None if call.key_mask is None else call.key_mask[self.batch],
            document_ids=None if call.document_ids is None else call.document_ids[self.batch],
        )

    def _by_head(self, scores: Tensor, tile: Tile) -> Tensor:
        return scores.view(scores.shape[0], -1, tile.num_rows, tile.num_keys)

    def _index(self, part: slice) -> Tensor:
        return torch.arange(part.start, part.stop, device=self.device)

    def _row_index(self, tile: Tile) -> Tensor:
        return torch.arange(tile.rows.stop - 1, tile.rows.start - 1, -1, device=self.device)


def _rows_at_once(fold: int) -> int:
    return max(_ROWS // fold, 1)


def _split_heads(query: Tensor, key: Tensor, call: Call) -> Iterator[_Heads]:
    """Cut batch and key heads so that a tile of scores stays within its size."""
    batch, groups = query.shape[0], key.shape[1]
    fold = query.shape[1] // groups
    tile = max(fold * min(query.shape[2], _rows_at_once(fold)) * min(key.shape[2], _KEYS), 1)
    groups_at_once = min(max(_SCORES // tile, 1), groups)
    batch_at_once = max(_SCORES // (tile * groups), 1) if groups_at_once == groups else 1
    for b in range(0, batch, batch_at_once):
        for g in range(0, groups, groups_at_once):
            yield _Heads(
                query, key, call, slice(b, min(b + batch_at_once, batch)), slice(g, min(g + groups_at_once, groups))
            )


def _bias(query: Tensor, key: Tensor, call: Call) -> TileBias | None:
    if call.form is None:
        return None
    return tile_bias(call.form, query.shape[2], key.shape[2], call.query_start, sum_dtype(query))


def lowered_size(query: Tensor, key: Tensor, call: Call) -> int:
    """How many int32 numbers the lowered call takes: nothing is lowered."""
    return 0


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp of each row (B, H, N)."""
    out = empty_output(query)
    lse = empty_lse(query)
    bias = _bias(query, key, call)
    for part in _split_heads(query, key, call):
        for rows in part.row_blocks():
            query_rows = part.rows_of(query, rows) * call.scale
            row_max = query_rows.new_full((*query_rows.shape[:3], 1), -torch.inf)
            row_sum = torch.zeros_like(row_max)
            total = torch.zeros_like(query_rows)
            for tile in part.tiles(rows):
                scores = part.scores(query_rows, key, bias, tile)
                new_max = torch.maximum(row_max, scores.amax(-1, keepdim=True))
                # Of a row that has seen nothing but -inf, the maximum counts as 0: exp(-inf - 0) = 0, not NaN.
                finite_max = new_max.masked_fill(new_max == -torch.inf, 0.0)
                weights = scores.sub_(finite_max).exp_()
                shrink = torch.exp(row_max - finite_max)
                row_sum = row_sum * shrink + weights.sum(-1, keepdim=True)
                kept = part.kept(tile)
                if kept is not None:
                    weights *= kept
                total = total.mul_(shrink).add_(weights @ part.keys_of(value, tile))
                row_max = new_max
            nothing = row_max == -torch.inf
            part.write_rows(out, rows, total / row_sum.masked_fill(nothing, 1.0))
            part.write_rows(lse[..., None], rows, row_max + row_sum.log())
    return out, lse


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    call: Call,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
    """The gradients of query, key, value and the form's tensors, only those that `needs` asks for."""
    dtype = sum_dtype(query)
    needs_query, needs_key, needs_value, needs_form = needs
    grad_query = torch.empty_like(query, memory_format=torch.contiguous_format) if needs_query else None
    grad_key, grad_value = (
        torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format) if needed else None
        for tensor, needed in ((key, needs_key), (value, needs_value))
    )
    if grad_lse is not None:  # what comes back for a row that saw nothing may be anything, also NaN
        grad_lse = grad_lse.masked_fill(lse == -torch.inf, 0.0)
    bias = _bias(query, key, call)
    for part in _split_heads(query, key, call):
        for rows in part.row_blocks():
            query_rows = part.rows_of(query, rows) * call.scale
            grad_rows = part.rows_of(grad_out, rows)
            # The gradient of a score is weight * (gradient of the weight - what the whole row loses).
            loss = (grad_rows * part.rows_of(out, rows)).sum(-1, keepdim=True)
            if grad_lse is not None:
                loss -= part.rows_of(grad_lse[..., None], rows)
            lse_rows = part.rows_of(lse[..., None], rows)
            lse_rows = lse_rows.masked_fill(lse_rows == -torch.inf, torch.inf)  # weights 0 where there was nothing
            grad_query_rows = torch.zeros_like(query_rows)
            for tile in part.tiles(rows):
                weights = part.scores(query_rows, key, bias, tile).sub_(lse_rows).exp_()
                kept = part.kept(tile)
                if grad_value is not None:
                    used = weights if kept is None else weights * kept
                    grad_value[part.batch, part.groups, tile.keys] += used.transpose(-1, -2) @ grad_rows
                if not (needs_query or needs_key or needs_form):
                    continue
                grad_scores = grad_rows @ part.keys_of(value, tile).transpose(-1, -2)
                if kept is not None:
                    grad_scores *= kept
                grad_scores = grad_scores.sub_(loss).mul_(weights)
                if bias is not None and needs_form:
                    part.accumulate(bias, grad_scores, tile)
                if needs_query:
                    grad_query_rows += grad_scores @ part.keys_of(key, tile)
                if grad_key is not None:
                    grad_key[part.batch, part.groups, tile.keys] += grad_scores.transpose(-1, -2) @ query_rows
            if grad_query is not None:
                part.write_rows(grad_query, rows, grad_query_rows * call.scale)
    if call.key_mask is not None:  # a row that is NaN has weights of NaN, also for what it does not see
        for grad in (grad_key, grad_value):
            if grad is not None:
                grad.masked_fill_(~call.key_mask[:, None, :, None], 0.0)
    return (
        grad_query,
        None if grad_key is None else grad_key.to(key.dtype),
        None if grad_value is None else grad_value.to(value.dtype),
        bias.gradients() if bias is not None and needs_form else None,
    )
