"""Which attention weights dropout keeps: a pure function of (seed, batch entry, head, query row, key).

Every implementation drops the same weights for the same seed, whatever its tiles and their order. The function, in
arithmetic modulo 2**32 (a kernel uses unsigned 32-bit integers):

    mix(x):  x ^= x >> 16;  x *= 0x21F0AAAD;  x ^= x >> 15;  x *= 0xD35A2D97;  x ^= x >> 15
    absorb(state, x) = mix(state + x * 0x9E3779B9)
    start = absorb(absorb(absorb(mix(low half of seed), b), h), i)
    step  = absorb(absorb(absorb(mix(high half of seed), b), h), i) | 1
    bits  = mix(start + j * step)
    keep where bits >= round(p * 2**32)

Rows differ in start and in step, so that the mask of a row is not that of another row, shifted. The mixer is the best
two-round one of the "lowbias32" family (C. Wellons, hash-prospector).
"""

import torch
from torch import Tensor

from falloff.shapes import Bool, Int

_LOW_32 = 0xFFFFFFFF
_STEP = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _LOW_32  # int64 products may wrap: the low 32 bits stay right
    x = x ^ (x >> 15)
    x = (x * 0xD35A2D97) & _LOW_32
    return x ^ (x >> 15)


def _absorb(state: Tensor, x: Tensor) -> Tensor:
    return _mix((state + x * _STEP) & _LOW_32)


def keep_mask(
    seed: Int[Tensor, ""],
    dropout_p: float,
    batch: Int[Tensor, " b"],
    heads: Int[Tensor, " h"],
    rows: Int[Tensor, " n"],
    keys: Int[Tensor, " m"],
) -> Bool[Tensor, "b h n m"]:
    """Whether a weight is kept, for these batch entries, heads, query rows and keys (int64 indices)."""

    def row_state(half: Tensor) -> Tensor:
        state = _mix(half)
        for index in (batch[:, None, None], heads[:, None], rows):
            state = _absorb(state, index)
        return state[..., None]

    start, step = row_state(seed & _LOW_32), row_state((seed >> 32) & _LOW_32) | 1
    return _mix((start + keys * step) & _LOW_32) >= round(dropout_p * 2**32)


def shifted_seed(seed: Int[Tensor, ""], batch: int, head: int | None = None, row: int | None = None) -> Int[Tensor, ""]:
    """The seed by which a part of a call, counted from 0, drops what the whole call drops there. The part has all keys.

    The mixer can be undone, so there is a seed for a part that begins at a batch entry; at a head, of one batch entry; or
    at a row, of one batch entry and head.
    """
    halves = []
    for half in (seed & _LOW_32, (seed >> 32) & _LOW_32):
        state = _mix(half) + batch * _STEP
        indices = [index for index in (head, row) if index is not None]
        for index in indices:
            state = _mix(state & _LOW_32) + index * _STEP
        state = state & _LOW_32
        for _ in indices:  # the part absorbs a 0 for each
            state = _unmix(state)
        halves.append(_unmix(state))
    low, high = halves
    return low | (high << 32)


def _unmix(x: Tensor) -> Tensor:
    """The number of which this is the mix."""
    x = x ^ (x >> 15) ^ (x >> 30)
    x = (x * pow(0xD35A2D97, -1, 2**32)) & _LOW_32
    x = x ^ (x >> 15) ^ (x >> 30)
    x = (x * pow(0x21F0AAAD, -1, 2**32)) & _LOW_32
    return x ^ (x >> 16)


def new_seed(device: torch.device) -> Int[Tensor, ""]:
    """A seed from torch's generator of that device, as a tensor, so that nothing waits for the device."""
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device)
