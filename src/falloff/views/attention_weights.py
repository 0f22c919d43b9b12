"""What a bias does to attention: softmax over the bias alone, or over random queries and keys with it."""

import math

import torch
from torch import Tensor

from falloff.schemes.base import Scheme
from falloff.views.content import refuse_without_content

HEAD_DIM = 64


def random_states(
    heads: int, length: int, spread: float, seed: int, num_queries: int | None = None
) -> tuple[Tensor, Tensor]:
    """Random queries (H, num_queries, 64), as many as keys by default, and keys (length, 64) that all heads share; their
    scores q . k / 8 have the standard deviation `spread`.

    >>> q, k = random_states(1, 512, 2.0, seed=0)
    >>> round((q @ k.T / 8).std().item(), 1)
    2.0
    """
    num_queries = num_queries or length
    if spread == 0:
        return torch.zeros(heads, num_queries, HEAD_DIM), torch.zeros(length, HEAD_DIM)
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(length, HEAD_DIM, generator=generator)
    q = torch.randn(heads, num_queries, HEAD_DIM, generator=generator)
    return q * math.sqrt(spread), k * math.sqrt(spread)


def last_row_weights(scheme: Scheme, length: int, spread: float = 0.0, seed: int = 0) -> Tensor:
    """The attention of the query at position length - 1, by rising offset: (H, length), rows that sum up to 1.

    Args:
        scheme: any scheme whose bias does not depend on content.
        length: how many keys.
        spread: the standard deviation of the scores before the bias; 0: the bias alone.
        seed: of the random queries and keys.

    >>> from falloff import ALiBi
    >>> round(last_row_weights(ALiBi(1), 3).sum().item(), 9)
    1.0
    """
    refuse_without_content(scheme)
    with torch.no_grad():
        scores = scheme.dense(1, length, dtype=torch.float64)[..., 0, :].flip(-1)
        if spread > 0:
            q, k = random_states(scores.shape[0], length, spread, seed)
            scores = scores + q[:, -1] @ k.T.flip(-1) / math.sqrt(HEAD_DIM)
        return scores.softmax(-1)


def causal_weights(scheme: Scheme, length: int, head: int, spread: float = 0.0, seed: int = 0) -> Tensor:
    """The attention of every query to the keys up to it, of one head: (length, length), NaN where a key is masked.

    >>> from falloff import ALiBi
    >>> round(causal_weights(ALiBi(1), 2, 0)[1].sum().item(), 9)
    1.0
    """
    refuse_without_content(scheme)
    with torch.no_grad():
        scores = scheme.dense(length, length, dtype=torch.float64)[head]
        if spread > 0:
            q, k = random_states(scheme.num_heads, length, spread, seed)
            scores = scores + q[head] @ k.T / math.sqrt(HEAD_DIM)
        masked = torch.ones(length, length, dtype=torch.bool).triu(1)
        return scores.masked_fill(masked, -torch.inf).softmax(-1).masked_fill(masked, torch.nan)


def effective_window(weights: Tensor, share: float) -> Tensor:
    """How many of the nearest keys hold this share of the attention: (H,), from weights by rising offset (H, L).

    >>> effective_window(torch.tensor([[0.5, 0.25, 0.25]]), 0.7)
    tensor([2])
    """
    return (weights.cumsum(-1) < share * (1 - 1e-12)).sum(-1).clamp(max=weights.shape[-1] - 1) + 1
