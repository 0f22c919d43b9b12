"""Testing a model at the trained length and beyond: perplexity per byte, with intervals over windows.

The windows of all lengths end at the same positions of the held-out text. So the last bytes of a window, its tail, are the
same bytes at every length, and only the context before them differs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from falloff.lab.config import LEAST_WINDOWS, Settings
from falloff.lab.corpus import Bytes
from falloff.lab.progress import Progress

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_DIGITS = 9  # decimals of a loss: it is rounded before any use, so that the stored losses give the same results
_BACKWARD_SHARE = 3  # a training step takes about as long as three forward passes of the same tokens


@dataclass(frozen=True)
class Score:
    """The perplexity per byte of one model at one length; `low` and `high` bound the 95% interval of each.

    They are computed from `losses` and `tail_losses`: the mean loss of each window, in nats per byte.
    """

    length: int
    perplexity: float
    low: float
    high: float
    perplexity_tail: float
    tail_low: float
    tail_high: float
    losses: list[float]
    tail_losses: list[float]


def window_ends(settings: Settings, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The ends of the windows in a held-out text of `size` bytes: evenly spaced, each after at least the longest length.

    There are as many as the settings say, or fewer, so that no two tails overlap.

    >>> window_ends(Settings.of_preset("quick", train_length=64, windows=8), 960 + 1)
    array([513, 577, 641, 705, 769, 833, 897, 961])
    """
    first = max(settings.lengths) + 1
    count = min(settings.windows, (size - first) // settings.tail + 1)
    if count < LEAST_WINDOWS:
        raise ValueError(f"held_out: got {size:,} bytes, expected at least {settings.least_bytes:,}")
    return first + window_spacing(settings.lengths, count, size) * np.arange(count)


def window_spacing(lengths: Sequence[int], windows: int, size: int) -> int:
    """The distance between the ends of neighbouring windows, in bytes: longer windows overlap.

    >>> window_spacing([64, 512], 8, 960 + 1)
    64
    """
    return (size - max(lengths) - 1) // (windows - 1)


def work(settings: Settings) -> int:
    """The number of training steps that take about as long as `evaluate`."""
    tokens = settings.windows * sum(settings.lengths)
    return -(-tokens // (_BACKWARD_SHARE * settings.batch_size * settings.train_length))


@torch.inference_mode()
def evaluate(predict: Callable[[Tensor], Tensor], settings: Settings, held_out: Bytes, progress: Progress) -> list[Score]:
    """Score a model at every test length.

    Args:
        predict: tokens (B, N) to logits (B, N, V).
        settings: its lengths, windows, tail, resamples, seed and device are used.
        held_out: bytes that the model was not trained on.
        progress: called after every batch.

    Raises:
        ValueError: for a held-out text too short for the longest length; if a loss is not finite.
    """
    ends = window_ends(settings, len(held_out))
    tokens = sum(settings.lengths) * len(ends)
    scores: list[Score] = []
    reported = done = 0
    for length in settings.lengths:
        windows = held_out[ends[:, None] + np.arange(-length - 1, 0)]
        at_once = max(settings.batch_size * settings.train_length // length, 1)
        losses = []
        for start in range(0, len(windows), at_once):
            batch = torch.from_numpy(windows[start : start + at_once].astype(np.int64)).to(settings.device)
            logits = predict(batch[:, :-1])
            losses.append(functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").double().cpu())
            done += length * len(batch)
            progress.advance(work(settings) * done // tokens - reported, doing=f"testing at {length:,}")
            reported = work(settings) * done // tokens
        nats = torch.cat(losses)
        everything, tail = (part.mean(1).numpy().round(_DIGITS) for part in (nats, nats[:, -settings.tail :]))
        low, high = interval(everything, settings.resamples, settings.seed)
        tail_low, tail_high = interval(tail, settings.resamples, settings.seed)
        values = (perplexity(everything), low, high, perplexity(tail), tail_low, tail_high)
        if not all(map(math.isfinite, values)):
            raise ValueError(f"got the perplexity {values[0]} at length {length:,}, expected a finite number")
        scores.append(Score(length, *values, everything.tolist(), tail.tolist()))
    return scores


def perplexity(nats: Floats) -> float:
    """exp of the mean loss in nats per byte. Windows have equal weight: all of one length predict the same number of bytes.

    >>> round(perplexity(np.log([2.0, 8.0])), 6)
    4.0
    """
    return float(np.exp(nats.mean()))


def interval(nats: Floats, resamples: int, seed: int) -> tuple[float, float]:
    """The 95% bootstrap percentile interval of the perplexity, over windows.

    The same windows are drawn for every scheme, so that schemes do not differ by the draw.

    Args:
        nats: the mean loss of each window.
        resamples: the number of bootstrap samples.
        seed: of the samples.

    >>> interval(np.zeros(8), 100, 0)
    (1.0, 1.0)
    """
    drawn = np.random.default_rng((seed, len(nats))).integers(0, len(nats), (resamples, len(nats)))
    low, high = np.exp(np.quantile(nats[drawn].mean(1), (0.025, 0.975)))
    return float(low), float(high)


def difference_interval(losses: list[float], others: list[float], together: int = 1) -> tuple[float, float]:
    """The 95% interval of the mean of `others` - `losses`, two models' losses on the same windows.

    A difficult window raises both losses, but not their difference. So this interval is far narrower than those of the two
    means: it may exclude 0 although those overlap. It is Student's t interval.

    Args:
        losses, others: of each window, in the order of the text.
        together: how many neighbouring windows overlap. They share bytes, so their mean counts as one observation. With
            fewer than two observations the interval is infinite.

    >>> low, high = difference_interval([1.0] * 8, [1.1, 1.2, 1.1, 1.2, 1.1, 1.2, 1.1, 1.2])
    >>> round(low, 4), round(high, 4)
    (0.1053, 0.1947)
    """
    differences = np.asarray(others) - np.asarray(losses)
    whole = len(differences) // together * together
    differences = differences[:whole].reshape(-1, together).mean(1)
    if len(differences) < 2:
        return -math.inf, math.inf
    freedom = len(differences) - 1
    reach = _student(freedom) * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) - reach, float(differences.mean()) + reach


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t, from that of the normal distribution (Abramowitz and Stegun 26.7.5).

    >>> [round(_student(freedom), 2) for freedom in (7, 20, 1000)]
    [2.36, 2.09, 1.96]
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
