"""How many bytes a rank sends to others in one call of attention, by method."""

from typing import Literal

from falloff.distributed.ulysses import heads_of

Method = Literal["ulysses", "all-gather", "ring"]


def bytes_sent(
    method: Method,
    *,
    ranks: int,
    batch: int,
    heads: int,
    key_heads: int,
    length: int,
    head_size: int,
    value_size: int | None = None,
    itemsize: int = 2,
    backward: bool = False,
) -> int:
    """Bytes that one rank sends in the forward of a call, or in its backward, of rows that are spread evenly.

    With K ranks, and numbers of `itemsize` bytes, a rank that holds length / K tokens sends of its own:

    | method | forward | backward |
    |---|---|---|
    | ulysses | (K - 1) / K of queries, keys, values and outputs | the same of their gradients |
    | all-gather | keys and values to K - 1 ranks | the K - 1 shares of other ranks' gradients |
    | ring | keys and values K - 1 times | the same, and K times their gradients in float32 |

    Of Ulysses with fewer key heads than ranks, a key head goes to every rank that has a query head of it; where heads do not
    divide evenly, this is the largest of the ranks' numbers. Not counted: the few integers of the checks, masks, and states
    of a form, which go as queries or keys do. A window lets the ring stop early.

    >>> common = dict(ranks=4, batch=1, heads=32, key_heads=8, length=2**17, head_size=128)
    >>> [bytes_sent(method, **common) // 2**20 for method in ("ulysses", "all-gather", "ring")]
    [480, 384, 384]
    """
    value_size = head_size if value_size is None else value_size
    tokens = batch * -(-length // ranks)
    if method == "ulysses":
        split = heads_of(heads, key_heads, ranks)
        largest = 0
        for own in range(ranks):
            others = [part for rank, part in enumerate(split) if rank != own]
            queries = sum(len(part.queries) for part in others) * head_size
            keys = sum(len(part.keys) for part in others) * (head_size + value_size)
            outputs = len(split[own].queries) * (ranks - 1) * value_size
            largest = max(largest, queries + keys + outputs)
        return tokens * largest * itemsize
    key_numbers = tokens * key_heads * (head_size + value_size)
    once = (ranks - 1) * key_numbers * itemsize
    of_gradients = ranks * key_numbers * max(itemsize, 4) if method == "ring" and backward and ranks > 1 else 0
    return once + of_gradients
