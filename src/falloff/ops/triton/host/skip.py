"""Certified skipping on the host: whether to search for keys to skip, and the bounds that kernels/skip.py needs for it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from falloff.ops.triton.host.bias import StripBias
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.kernels.arguments import SKIP_BLOCK_M, SKIP_BLOCK_N
from falloff.ops.triton.kernels.lower import key_norms_kernel
from falloff.ops.triton.kernels.skip import key_ranges_kernel

_SKIP_FROM = 1024  # with fewer keys, searching for keys to skip costs more than it saves


def may_skip(problem: Problem) -> bool:
    """Whether keys may be skipped, by shapes alone. Not if the strip ends within the past: it is constant from there on."""
    bias = problem.bias
    return (
        isinstance(bias, StripBias)
        and max(abs(problem.call.query_start), abs(bias.first)) < 2**30
        and problem.seqlen_k >= _SKIP_FROM
        and bias.highest <= bias.last
    )


def lower(problem: Problem, parts: Sequence[Tensor]) -> None:
    """Write the tails of the strip (H, K) and the largest norms of keys (B, G, blocks)."""
    _, *tails, norms_up_to, norms_from = parts
    _lower_tails(_strip(problem), problem.seqlen_k, tails)

    k_blocks = _k_blocks(problem)
    shape = (problem.batch, problem.kv_heads, k_blocks)
    norms = problem.query.new_empty(shape, dtype=torch.float32)
    key_norms_kernel[(norms.numel(),)](problem.inputs, norms, problem.seqlen_k, problem.kv_heads, k_blocks, problem.cfg)
    _as(norms_up_to, shape).copy_(norms.cummax(-1).values)
    _as(norms_from, shape).copy_(norms.flip(-1).cummax(-1).values.flip(-1))


def _lower_tails(values: Tensor, seqlen_k: int, tails: Sequence[Tensor]) -> None:
    """For each offset, an upper bound on the log-sum-exp of the biases of all keys there and further away: (H, K) each.

    One tail is for the past, one for the future. At most seqlen_k keys lie beyond an end of the strip. Sums are float64: in
    float32, adding the logarithm of a count to a large bias would be lost in rounding. 1e-3 covers the rounding of the sums,
    and the conversion to float32 rounds up.
    """
    both = torch.stack([values.flip(1), values]).double()  # (2, H, K), each from the farthest offset to the nearest
    sums = torch.logaddexp(both.logcumsumexp(-1), both[..., :1] + math.log(seqlen_k)) + 1e-3
    nearest = sums.float()
    infinity = torch.full_like(nearest[0], torch.inf)
    for part, tail in zip(tails, (nearest[0].flip(1), nearest[1]), strict=True):
        torch.nextafter(tail, infinity, out=_as(part, values.shape))


def key_ranges(problem: Problem, parts: Sequence[Tensor], rows: tuple[Tensor, Tensor] | None) -> Tensor | None:
    """The half-open range of keys that each block of SKIP_BLOCK_M rows may need: (B, H, blocks, 2), int32. None: all keys.

    rows: their log-sum-exp and delta, contiguous, in the backward; None in the forward.
    """
    if not may_skip(problem):
        return None
    bias = problem.bias
    assert isinstance(bias, StripBias)
    q_blocks = (problem.seqlen_q + SKIP_BLOCK_M.value - 1) // SKIP_BLOCK_M.value
    shape = (problem.batch, problem.heads, q_blocks, 2)
    ranges = problem.query.new_empty(shape, dtype=torch.int32)
    _, past_tail, future_tail, norms_up_to, norms_from = parts
    key_ranges_kernel[(problem.batch * problem.heads * q_blocks,)](
        problem.inputs,
        *(rows or (None, None)),
        _strip(problem),
        past_tail,
        future_tail,
        norms_up_to,
        norms_from,
        ranges,
        problem.seqlen_q,
        problem.seqlen_k,
        problem.heads,
        problem.group_size,
        problem.call.query_start,
        bias.first,
        bias.extent,
        q_blocks,
        _k_blocks(problem),
        problem.cfg,
    )
    return ranges


def _strip(problem: Problem) -> Tensor:
    assert isinstance(problem.bias, StripBias)
    return problem.bias.values.float().contiguous()


def _k_blocks(problem: Problem) -> int:
    return (problem.seqlen_k + SKIP_BLOCK_N.value - 1) // SKIP_BLOCK_N.value


def _as(part: Tensor, shape: Sequence[int]) -> Tensor:
    """The content of a lowered part, in its shape."""
    return part[: math.prod(shape)].view(*shape)
