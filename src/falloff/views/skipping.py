"""Which keys the CPU kernels skip for a bias, as they count it themselves."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.ops.call import Call
from falloff.ops.cpu import VISIT_Q_TILE, forward, unavailable, visits
from falloff.schemes.base import Scheme
from falloff.views.attention_weights import HEAD_DIM, random_states
from falloff.views.content import refuse_without_content

_SAMPLES = 4


@dataclass(frozen=True)
class Skipped:
    """How many pairs of query and key causal attention has at a length, and how many of them are visited, by head: (H,)."""

    length: int
    seen: Tensor
    visited: Tensor

    @property
    def saved(self) -> Tensor:
        """The share of pairs that is not visited, (H,)."""
        return 1 - self.visited / self.seen


def skipped_work(scheme: Scheme, length: int, spread: float = 0.0, seed: int = 0) -> Skipped:
    """Count what is skipped at a length, from tiles of 48 rows at 4 positions of equal distance.

    Args:
        scheme: any scheme whose bias does not depend on content.
        length: how many queries and keys.
        spread: the standard deviation of the scores before the bias; 0: queries are 0.
        seed: of the random queries and keys.

    Raises:
        ValueError: if this machine has no CPU kernels, saying why.

    >>> from falloff import ALiBi
    >>> [share > 0.9 for share in skipped_work(ALiBi(2), 16384).saved.tolist()]
    [True, False]
    """
    seen, visited = torch.zeros(2, scheme.num_heads, dtype=torch.float64)
    for sample in range(_SAMPLES):
        end = max(length * (2 * sample + 1) // (2 * _SAMPLES), min(VISIT_Q_TILE, length))
        counts = _counts(scheme, min(VISIT_Q_TILE, end), end, spread, seed)
        seen += counts[0].sum((1, 2))
        visited += counts[1].sum((1, 2))
    return Skipped(length, seen, visited)


def visited_blocks(scheme: Scheme, length: int, head: int, spread: float = 0.0, seed: int = 0) -> Tensor:
    """The share of its pairs that each tile of 48 queries and 256 keys visits, for one head; NaN where no row sees a key.

    Raises:
        ValueError: if this machine has no CPU kernels, saying why.

    >>> from falloff import ALiBi
    >>> visited_blocks(ALiBi(2), 512, head=0).shape
    torch.Size([11, 2])
    """
    seen, visited = _counts(scheme, length, length, spread, seed)
    return (visited[head] / seen[head]).masked_fill(seen[head] == 0, torch.nan)


def _counts(scheme: Scheme, num_queries: int, num_keys: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """For each head and tile, the pairs seen and visited: (H, q tiles, kv tiles) each."""
    why_not = unavailable()
    if why_not is not None:
        raise ValueError(f"skipping: got a machine without the CPU kernels that count it, expected one with them: {why_not}")
    refuse_without_content(scheme)
    with torch.no_grad():
        form = scheme.form(num_queries, num_keys)
        queries, keys = random_states(scheme.num_heads, num_keys, spread, seed, num_queries)
        q, k = queries[None], keys[None, None]
        call = Call(form, True, 1 / math.sqrt(HEAD_DIM), num_keys - num_queries, None, None, None, 0.0, None)
        _, lse = forward(q, k, k, call, None)
        seen, visited = visits(q, k, k, call, lse)
    return seen[0].double(), visited[0].double()
