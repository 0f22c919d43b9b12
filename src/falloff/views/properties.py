"""The properties of a bias, computed from its values, not looked up by the name of a scheme.

All values come from `dense` in float64, a row or a column at a time: a *row* is the bias of one late query and every key, a
*column* is the bias of every query and key 0. For a Toeplitz bias both have the same numbers.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from falloff.offsets import check_count
from falloff.schemes.base import Scheme
from falloff.views.beyond import Beyond, beyond_training
from falloff.views.content import refuse_without_content
from falloff.views.rows import FLOAT32_ROUNDING, column, median, row

_KEYS = 8192
_FARTHEST = 2**30  # a scheme may square offsets: the square fits into int64
_WINDOWS = (16, 64, 256, 1024)
_MOST_TRAINED_LENGTH = 16384


@dataclass(frozen=True)
class Spread:
    """Least, median and largest over the heads."""

    least: float
    median: float
    largest: float

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """The spread of one number per head, (H,)."""
        return cls(values.min().item(), median(values), values.max().item())


@dataclass(frozen=True)
class Properties:
    """The properties of a bias.

    Attributes:
        num_heads: the number of heads.
        rows_compared: rows 0 .. rows_compared - 1 were compared for `not_toeplitz_from`.
        not_toeplitz_from: the first row that does not equal the row before it, shifted by one key; None if there is none.
        falling_heads, rising_heads: how many heads never rise, or never fall, along a row of `keys` offsets.
        bounded: whether the bias stops growing, tested up to offset `farthest`.
        lowest, highest: the range of values of all heads up to offset `farthest`.
        sign_symmetric: whether offsets n and -n have the same bias, n = 1 .. 1024.
        future_constant: whether all keys in the future have the bias of offset 0.
        reach: the offset from which no head changes by more than float32's rounding; None if there is none up to `farthest`.
        mass: for each window w, the share of softmax mass at the offsets 0 .. w - 1, in a row of `keys` equal scores.
        mass_reach: how many of the nearest keys have all of this mass except float32's rounding.
        beyond: how the bias goes on beyond the trained length.
    """

    num_heads: int
    keys: int
    farthest: int
    rows_compared: int
    not_toeplitz_from: int | None
    falling_heads: int
    rising_heads: int
    bounded: bool
    lowest: float
    highest: float
    sign_symmetric: bool
    future_constant: bool
    reach: int | None
    mass: dict[int, Spread]
    mass_reach: Spread
    beyond: Beyond

    @property
    def toeplitz(self) -> bool:
        return self.not_toeplitz_from is None

    @property
    def monotone(self) -> bool:
        """Whether every head never rises, or every head never falls, with the offset."""
        return self.num_heads in (self.falling_heads, self.rising_heads)


def scheme_properties(scheme: Scheme, trained_length: int = 512) -> Properties:
    """Compute the properties of a scheme with its current parameters.

    Args:
        scheme: any scheme whose bias does not depend on content.
        trained_length: the trained length for `Properties.beyond`, 2 .. 16384.

    Raises:
        ValueError: for a trained length out of range, or a bias that depends on content or is not finite.

    >>> from falloff import ALiBi
    >>> properties = scheme_properties(ALiBi(8))
    >>> properties.toeplitz, properties.monotone, properties.bounded, properties.reach
    (True, True, False, None)
    """
    check_count("trained_length", trained_length, 2)
    if trained_length > _MOST_TRAINED_LENGTH:
        raise ValueError(f"trained_length: got {trained_length}, expected at most {_MOST_TRAINED_LENGTH}")
    refuse_without_content(scheme)
    scheme = copy.deepcopy(scheme).double()
    with torch.no_grad():
        last_row = row(scheme, _KEYS - 1)
        if not bool(torch.isfinite(last_row).all()):
            raise ValueError(f"bias: got values that are not finite from {scheme.name}, expected finite ones")
        steps = last_row.diff(dim=1)
        far_offsets, far = _far_column(scheme)
        not_toeplitz_from = _first_row_not_toeplitz(scheme)
        past, future = _both_signs(scheme)
        mass = last_row.softmax(dim=1).cumsum(dim=1).clamp(max=1.0)  # the sum of rounded shares may exceed 1
        return Properties(
            num_heads=last_row.shape[0],
            keys=_KEYS,
            farthest=_FARTHEST,
            rows_compared=_KEYS,
            not_toeplitz_from=not_toeplitz_from,
            falling_heads=int((steps <= 0).all(dim=1).sum()),
            rising_heads=int((steps >= 0).all(dim=1).sum()),
            bounded=_is_bounded(far_offsets, far),
            lowest=min(far.min().item(), last_row.min().item()),
            highest=max(far.max().item(), last_row.max().item()),
            sign_symmetric=bool(torch.allclose(past, future, rtol=1e-12, atol=0.0)),
            future_constant=bool((future == last_row[:, :1]).all()),
            reach=_reach(scheme, far_offsets, far) if not_toeplitz_from is None else None,
            mass={window: Spread.of(mass[:, window - 1]) for window in _WINDOWS},
            mass_reach=Spread.of((mass < 1 - FLOAT32_ROUNDING).sum(dim=1) + 1),
            beyond=beyond_training(scheme, trained_length, not_toeplitz_from),
        )


def _far_column(scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The bias of key 0 at every offset below 8192, and at 256 offsets of each octave up to 2^30: offsets and (H, L)."""
    octaves = [2**exponent for exponent in range(_KEYS.bit_length() - 1, _FARTHEST.bit_length() - 1)]
    starts = [octave + quarter * octave // 4 for octave in octaves for quarter in range(4)]
    offsets = [torch.arange(_KEYS)] + [torch.arange(start, start + 64) for start in starts] + [torch.tensor([_FARTHEST])]
    values = [column(scheme, 0, _KEYS)] + [column(scheme, start, 64) for start in starts] + [column(scheme, _FARTHEST, 1)]
    return torch.cat(offsets), torch.cat(values, dim=1)


def _is_bounded(offsets: Tensor, values: Tensor) -> bool:
    """Whether each head's largest difference from its value at offset 0 grows by less than 5% from offset 2^20 to 2^30.

    Of the published schemes that grow, KERPLE's power with its smallest exponent, 0.01, grows least: by 7%.
    """
    growth = (values - values[:, :1]).abs()
    early = growth[:, offsets <= 2**20].amax(dim=1)
    rounding = FLOAT32_ROUNDING * values.abs().amax(dim=1)
    return bool((growth.amax(dim=1) <= 1.05 * early + rounding).all())


def _reach(scheme: Scheme, offsets: Tensor, values: Tensor) -> int | None:
    final = values[:, -1:]
    rounding = FLOAT32_ROUNDING * values.abs().amax(dim=1, keepdim=True)

    def differs(bias: Tensor) -> Tensor:
        return ((bias - final).abs() > rounding).any(dim=0)

    places = differs(values).nonzero().flatten()
    if len(places) == 0:
        return 0
    last = int(places[-1])
    below, reached = int(offsets[last]), int(offsets[last + 1])
    if 2 * below > _FARTHEST:
        return None
    while reached - below > 1:  # bisect between two examined offsets
        middle = (below + reached) // 2
        if bool(differs(column(scheme, middle, 1))):
            below = middle
        else:
            reached = middle
    return reached


def _first_row_not_toeplitz(scheme: Scheme) -> int | None:
    """The first row that differs from the row before it at the offsets that both have.

    Rows at doubling positions are compared, then bisected: this assumes that all rows after the first that differs do too.
    """

    def agrees(position: int) -> bool:
        earlier, later = row(scheme, position - 1), row(scheme, position)
        return bool(torch.allclose(earlier, later[:, :position], rtol=1e-9, atol=1e-12))

    same, other = 0, 1
    while agrees(other):
        if other == _KEYS - 1:
            return None
        same, other = other, min(2 * other, _KEYS - 1)
    while other - same > 1:
        middle = (same + other) // 2
        same, other = (middle, other) if agrees(middle) else (same, middle)
    return other


def _both_signs(scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The bias at offsets 1 .. 1024 and at -1 .. -1024, (H, 1024) each, as one query in the middle sees them."""
    middle = 1024
    bias = scheme.dense(1, 2 * middle + 1, query_start=middle, dtype=torch.float64)[..., 0, :]
    return bias[:, :middle].flip(1), bias[:, middle + 1 :]
