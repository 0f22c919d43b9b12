"""Which keys a query row may attend to, and at which key the text of a row starts."""

import torch
from torch import Tensor

from falloff.shapes import Bool, Int, Integer


def visible(
    rows: Int[Tensor, " n"],
    keys: Int[Tensor, " m"],
    *,
    query_start: int,
    causal: bool,
    window: int | None,
    key_mask: Bool[Tensor, "B M"] | None,
    document_ids: Integer[Tensor, "B N"] | None,
) -> Bool[Tensor, "#B 1 #n m"] | None:
    """Which of `keys` each of the query `rows` may attend to; None if no mask is given.

    `causal` hides keys at negative offsets, `window` keys at offsets of `window` and more, `key_mask` padding, and
    `document_ids` the keys of other documents.
    """
    parts: list[Tensor] = []
    if causal or window is not None:
        offsets = (rows[:, None] + query_start - keys)[None, None]
        if causal:
            parts.append(offsets >= 0)
        if window is not None:
            parts.append(offsets < window)
    if key_mask is not None:
        parts.append(key_mask[:, None, None, keys])
    if document_ids is not None:
        parts.append((document_ids[:, rows, None] == document_ids[:, None, keys])[:, None])
    if not parts:
        return None
    seen = parts[0]
    for part in parts[1:]:
        seen = seen & part
    return seen


def text_start(
    num_queries: int, key_mask: Bool[Tensor, "B M"] | None, document_ids: Integer[Tensor, "B N"] | None
) -> Int[Tensor, "B N"] | None:
    """The key at which the text of each query row starts: the first visible key of its batch entry or document.

    None without key_mask and document_ids. Rows whose text has no visible key get the length.
    """
    if document_ids is not None:
        # Number the documents by sorting (they need not be contiguous), then take the smallest visible index of each.
        ids, order = document_ids.sort(dim=-1, stable=True)
        rises = torch.cat([torch.zeros_like(ids[:, :1]), (ids[:, 1:] != ids[:, :-1]).to(ids.dtype)], dim=-1)
        document = torch.empty_like(order).scatter_(-1, order, rises.cumsum(-1).to(order.dtype))
        length = document_ids.shape[1]
        index = torch.arange(length, device=document_ids.device).expand_as(document)
        if key_mask is not None:
            index = torch.where(key_mask, index, length)
        first = torch.full_like(document, length).scatter_reduce_(-1, document, index, "amin")
        return first.gather(-1, document)
    if key_mask is not None:
        if key_mask.shape[1] == 0:
            return torch.zeros(len(key_mask), num_queries, dtype=torch.int64, device=key_mask.device)
        index = torch.arange(key_mask.shape[1], device=key_mask.device)
        first = torch.where(key_mask, index, key_mask.shape[1]).amin(-1, keepdim=True)
        return first.expand(-1, num_queries)
    return None
