"""Positions and offsets of queries and keys.

Keys have the positions 0 .. M - 1, counted from the first key. Query row r has the position `query_start + r`. The
**offset** of a query and a key is query position - key position: positive if the key lies in the past. All of this is
integer arithmetic: bfloat16 cannot represent 257.
"""

import torch
from torch import Tensor

from falloff.shapes import Int

IntLike = int | torch.SymInt
_FARTHEST = 2**60  # positions and offsets are int64


def check_count(argument: str, value: object, least: int) -> None:
    """Refuse a value that is not a whole number of at least `least`."""
    if not isinstance(value, IntLike) or isinstance(value, bool) or value < least:
        raise ValueError(f"{argument}: got {value!r}, expected an int of at least {least}")


def is_position(value: object) -> bool:
    """Whether a value is an int within the range of positions and offsets."""
    return isinstance(value, IntLike) and not isinstance(value, bool) and -_FARTHEST <= value <= _FARTHEST


def check_query_start(query_start: object) -> None:
    """Refuse a `query_start` that is not None or a position."""
    if query_start is not None and not is_position(query_start):
        raise ValueError(
            f"query_start: got {query_start!r}, expected None or an int, the position of the first query counted from "
            "the first key"
        )


def check_offsets(offsets: object) -> None:
    """Refuse offsets that are not a tensor of integers."""
    if not isinstance(offsets, Tensor) or offsets.dtype.is_floating_point or offsets.dtype in (torch.bool, torch.complex64):
        got = offsets.dtype if isinstance(offsets, Tensor) else type(offsets).__name__
        raise ValueError(f"offsets: got {got}, expected a tensor of integers")


def first_query_position(num_queries: int, num_keys: int, query_start: int | None = None) -> int:
    """Position of the first query; by default M - N, so that the last query has the position of the last key.

    By this default, one query against a cache of M keys is the last row of the square case.
    """
    check_count("num_queries", num_queries, 0)
    check_count("num_keys", num_keys, 0)
    check_query_start(query_start)
    return num_keys - num_queries if query_start is None else query_start


def offset_range(num_queries: int, num_keys: int, query_start: int | None = None) -> tuple[int, int]:
    """Smallest and largest offset between any query and any key."""
    start = first_query_position(num_queries, num_keys, query_start)
    return start - (num_keys - 1), start + num_queries - 1


def offset_matrix(
    num_queries: int, num_keys: int, query_start: int | None = None, device: torch.device | str | None = None
) -> Int[Tensor, "N M"]:
    """The (N, M) matrix of offsets.

    >>> offset_matrix(2, 3)
    tensor([[ 1,  0, -1],
            [ 2,  1,  0]])
    """
    start = first_query_position(num_queries, num_keys, query_start)
    positions = torch.arange(num_queries, device=device) + start
    return positions[:, None] - torch.arange(num_keys, device=device)
