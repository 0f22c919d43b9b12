"""Why an offset has its bucket, in words: the rule of a scheme with its numbers, and one step of it."""

import math

import torch

from falloff.schemes import PerOffsetBias, Scheme, T5Bias
from falloff.views.buckets import Bucketed, bucket_table

_MOST_LISTED = 16  # buckets of a scheme whose rule has no formula here


def bucket_rule(scheme: Scheme) -> str:
    """The rule that gives each offset its bucket, with the scheme's numbers, in one line.

    Raises:
        ValueError: for a scheme without buckets.

    >>> from falloff import T5Bias
    >>> bucket_rule(T5Bias(1, num_buckets=4, max_distance=5))
    'bucket(n) = n if n < 2, else min(3, 2 + floor(ln(n/2) / ln(5/2) * 2)); keys in the future as n = 0'
    """
    if isinstance(scheme, T5Bias):
        buckets, exact = _t5_buckets(scheme)
        rule = (
            f"bucket(n) = n if n < {exact}, else min({buckets - 1}, {exact} + "
            f"floor(ln(n/{exact}) / ln({scheme.max_distance}/{exact}) * {buckets - exact}))"
        )
        if scheme.bidirectional:
            return f"{rule}, n = the distance; keys in the future: {buckets} more"
        return f"{rule}; keys in the future as n = 0"
    if isinstance(scheme, PerOffsetBias):
        most = scheme.max_distance
        if scheme.bidirectional:
            return f"bucket(n) = n, at least {-most} and at most {most}, plus {most}"
        return f"bucket(n) = min(n, {most}); keys in the future as n = 0"
    used = [f"bucket {entry.bucket}: {entry.offsets}" for entry in bucket_table(scheme) if entry.ranges]
    more = [f"{len(used) - _MOST_LISTED} more"] if len(used) > _MOST_LISTED else []
    return "; ".join(used[:_MOST_LISTED] + more)


def bucket_reason(scheme: Scheme, offset: int) -> str:
    """Why an offset has its bucket, in one line that names the offset, the rule, and what shares the bucket.

    Raises:
        ValueError: for a scheme without buckets.

    >>> from falloff import T5Bias
    >>> bucket_reason(T5Bias(1, num_buckets=4, max_distance=5), 3)
    'offset 3 has bucket 2 (offsets 2-3): 2 + floor(ln(3/2) / ln(5/2) * 2) = 2 + floor(0.88) = 2'
    >>> bucket_reason(T5Bias(1, num_buckets=4, max_distance=5), 1)
    'offset 1 has bucket 1 (offset 1): a distance below 2 is its own bucket'
    """
    table = {entry.bucket: entry for entry in bucket_table(scheme)}
    assert isinstance(scheme, Bucketed)
    bucket = int(scheme.bucket(torch.tensor(offset)))
    said = f"offset {offset} has bucket {bucket} ({table[bucket].offsets})"
    if isinstance(scheme, T5Bias):
        return f"{said}: {_t5_step(scheme, offset)}"
    if isinstance(scheme, PerOffsetBias):
        return f"{said}: {_per_offset_step(scheme, offset)}"
    return said


def _t5_buckets(scheme: T5Bias) -> tuple[int, int]:
    """The buckets of one direction, and how many of them hold a single distance: b and e of the formula."""
    buckets = scheme.num_buckets // 2 if scheme.bidirectional else scheme.num_buckets
    return buckets, buckets // 2


def _t5_step(scheme: T5Bias, offset: int) -> str:
    buckets, exact = _t5_buckets(scheme)
    if offset < 0 and not scheme.bidirectional:
        return "the key lies in the future, which counts as offset 0"
    distance = abs(offset)
    plus = f", and {buckets} more for a key in the future" if offset < 0 else ""
    if distance < exact:
        return f"a distance below {exact} is its own bucket{plus}"
    part = math.log(distance / exact) / math.log(scheme.max_distance / exact) * (buckets - exact)
    bucket = int(scheme.bucket(torch.tensor(distance)))
    step = f"{exact} + floor(ln({distance}/{exact}) / ln({scheme.max_distance}/{exact}) * {buckets - exact})"
    # Cut off, not rounded, so that its floor is that of the bucket, also where a logarithm is off in its last digit.
    value = f"{exact} + floor({max(math.floor(part * 100) / 100, bucket - exact):.2f})"
    if part >= buckets - exact:
        return f"{step} = {value}, but no bucket lies beyond the last, {bucket}{plus}"
    return f"{step} = {value} = {bucket}{plus}"


def _per_offset_step(scheme: PerOffsetBias, offset: int) -> str:
    most = scheme.max_distance
    if offset < 0 and not scheme.bidirectional:
        return "the key lies in the future, which counts as offset 0"
    clamped = max(-most, min(most, offset))
    plus = f", plus {most}, so that none is negative" if scheme.bidirectional else ""
    if clamped == offset:
        return f"every offset up to {most} has its own{plus}"
    return f"everything from {'-' if offset < 0 else ''}{most} on shares one{plus}"
