"""Attention defined a second time, from the formulas of the documentation: dense, in float64, sharing no code with falloff.

`attend` returns the output, the log-sum-exp and the gradients, and a tolerance for each element: the largest error of
arithmetic with a given rounding. It is the sum of the magnitudes that were added up, times a few units in the last place.
"""

from dataclasses import dataclass

import numpy as np
import torch

INF = float("inf")


@dataclass(frozen=True)
class Rounding:
    """Half a unit in the last place, of the dtype of stored results (such as bfloat16) and of that of sums (float32)."""

    stored: float
    summed: float
    smallest: float
    skips: bool = False
    """Whether keys that together hold less than 2^-24 of a row's weight may be left out."""

    @classmethod
    def of(cls, dtype, skips=False):
        summed = torch.float64 if dtype == torch.float64 else torch.float32
        # A sum below the smallest normal number may be flushed to 0.
        smallest = max(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, 4 * torch.finfo(summed).smallest_normal)
        return cls(torch.finfo(dtype).eps / 2, torch.finfo(summed).eps / 2, smallest, skips)


def keep(seed, p, shape):
    """The weights that dropout keeps, from the formulas at the top of dropout.py, in unsigned 32-bit arithmetic."""
    word = np.uint32

    def mix(x):
        x = x ^ (x >> word(16))
        x = x * word(0x21F0AAAD)
        x = x ^ (x >> word(15))
        x = x * word(0xD35A2D97)
        return x ^ (x >> word(15))

    def absorb(state, x):
        return mix(state + x * word(0x9E3779B9))

    b, h, i, j = np.ogrid[tuple(slice(size) for size in shape)]
    b, h, i, j = (index.astype(word) for index in (b, h, i, j))
    with np.errstate(over="ignore"):
        low, high = (np.full((1, 1, 1, 1), half, word) for half in (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
        start = absorb(absorb(absorb(mix(low), b), h), i)
        step = absorb(absorb(absorb(mix(high), b), h), i) | word(1)
        bits = mix(start + j * step)
    return torch.from_numpy(bits.astype(np.uint64) >= round(p * 2**32))


def visible(shape, query_start, causal, window, key_mask, document_ids):
    """Which keys each row may attend to, (B, 1, N, M)."""
    batch, _, num_queries, num_keys = shape
    offset = query_start + np.arange(num_queries)[:, None] - np.arange(num_keys)
    allowed = np.ones((batch, num_queries, num_keys), bool)
    if causal:
        allowed &= offset >= 0
    if window is not None:
        allowed &= offset <= window - 1
    if key_mask is not None:
        allowed &= key_mask.numpy()[:, None, :]
    if document_ids is not None:
        ids = document_ids.numpy()
        allowed &= ids[:, :, None] == ids[:, None, :]
    return torch.from_numpy(allowed)[:, None]


def text_starts(num_queries, key_mask, document_ids):
    """(B, N): the first visible key of the batch entry, or of the row's document; None without masks that shift it."""
    if document_ids is None:
        if key_mask is None:
            return None
        first = [next((j for j, is_visible in enumerate(row) if is_visible), len(row)) for row in key_mask.tolist()]
        return torch.tensor(first, dtype=torch.int64)[:, None].expand(-1, num_queries)
    starts = []
    for b, ids in enumerate(document_ids.tolist()):
        first = {}
        for j, document in enumerate(ids):
            if key_mask is None or key_mask[b, j]:
                first.setdefault(document, j)
        starts.append([first.get(document, len(ids)) for document in ids])
    return torch.tensor(starts, dtype=torch.int64).view(len(starts), num_queries)


SMALLEST = torch.finfo(torch.float32).smallest_normal


def _fold(tensor, groups):
    """Sums the query heads that share a key head."""
    return tensor.unflatten(1, (groups, -1)).sum(2)


def attend(query, key, value, bias, bias_size, visible, scale, kept, grad_out, grad_lse, rounding):
    """All results of attention, and their tolerances: two dictionaries with the same names.

    `bias` is dense, (1 or B, H, N, M), or None, and `bias_size` the sum of the magnitudes that it is the sum of. `kept` is
    1 / (1 - p) for each weight that dropout keeps and 0 for the others, or None.
    """
    fold = query.shape[1] // key.shape[1]
    k, v = key.repeat_interleave(fold, 1), value.repeat_interleave(fold, 1)
    num_keys = key.shape[2]
    scores, sizes = scale * (query @ k.mT), abs(scale) * (query.abs() @ k.abs().mT)
    if bias is not None:
        # A bias of -inf hides a key. It has no size, and adds nothing to that of the others.
        scores, sizes = scores + bias, sizes + bias_size.where(bias > -INF, 0.0)
    scores = scores.where(visible, -INF)
    highest = scores.amax(-1, keepdim=True) if num_keys else scores.new_full((*scores.shape[:-1], 1), -INF)
    nothing = highest == -INF
    exponentials = torch.exp(scores - highest.where(~nothing, 0.0))
    total = exponentials.sum(-1, keepdim=True)
    weights = exponentials / total.where(~nothing, 1.0)
    lse = (highest + total.log()).where(~nothing, -INF)
    used = weights if kept is None else weights * kept
    out = used @ v

    # Backward: dV = P^T dO, dP = dO V^T, dS = P (dP - delta), delta = rowsum(P dP) - dLSE.
    grad_lse = grad_lse[..., None].where(~nothing, 0.0)
    grad_weights = grad_out @ v.mT
    if kept is not None:
        grad_weights = grad_weights * kept
    delta = (weights * grad_weights).sum(-1, keepdim=True) - grad_lse
    grad_scores = weights * (grad_weights - delta)
    results = {
        "out": out,
        "lse": lse[..., 0],
        "query": scale * (grad_scores @ k),
        "key": scale * _fold(grad_scores.mT @ query, key.shape[1]),
        "value": _fold(used.mT @ grad_out, key.shape[1]),
        "bias": grad_scores,
    }

    # The error of a weight: the rounding of its own score, of the row's log-sum-exp, and of storing it.
    size = sizes.where(visible, 0.0).amax(-1, keepdim=True) if num_keys else torch.zeros_like(highest)
    score_error = 6 * rounding.summed * (1 + size)
    relative = score_error + 3 * rounding.stored
    error = relative * weights + SMALLEST  # a weight that float32 cannot represent may be 0
    if rounding.skips:
        error = error + weights.where(weights < 2**-24, 0.0)
    kept_error = error if kept is None else error * kept
    magnitude = grad_out.abs() @ v.abs().mT
    if kept is not None:
        magnitude = magnitude * kept
    row = (weights * magnitude).sum(-1, keepdim=True) + grad_lse.abs()
    score_gradient = error * (magnitude + row)
    stored = {name: rounding.stored * tensor.abs() for name, tensor in results.items()}
    tiny = rounding.smallest * (1 + abs(scale))
    tolerances = {
        "out": kept_error @ v.abs() + stored["out"] + tiny,
        "lse": (score_error + 2 * rounding.summed * lse.where(~nothing, 0.0).abs() + tiny)[..., 0],
        "query": abs(scale) * (score_gradient @ k.abs()) + stored["query"] + tiny,
        "key": abs(scale) * _fold(score_gradient.mT @ query.abs(), key.shape[1]) + stored["key"] + tiny,
        "value": _fold(kept_error.mT @ grad_out.abs(), key.shape[1]) + stored["value"] + tiny,
        "bias": score_gradient,
    }
    return results, tolerances
