"""Certified skipping on the host: whether to search for keys to skip, and the bounds that kernels/skip.py needs for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from falloff.ops.triton.host.bias import StripBias
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.kernels.arguments import SKIP_BLOCK_M, SKIP_BLOCK_N
from falloff.ops.triton.kernels.lower import key_norms_kernel
from falloff.ops.triton.kernels.skip import document_ranges_kernel, key_ranges_kernel
from falloff.ops.triton.kernels.tails import bounds_kernel

_SKIP_FROM = 1024  # with fewer keys, searching for keys to skip costs more than it saves


def may_skip(problem: Problem) -> bool:
    """Whether keys may be skipped, by shapes alone. Not if the strip ends within the past: it is constant from there on.

    Nor with a potential, whose bounds would be those of its values.
    """
    bias = problem.bias
    return (
        isinstance(bias, StripBias)
        and problem.potential is None
        and max(abs(problem.call.query_start), abs(bias.first)) < 2**30
        and problem.seqlen_k >= _SKIP_FROM
        and bias.highest <= bias.last
    )


def lower(problem: Problem, parts: Sequence[Tensor]) -> None:
    """Write the tails of the strip (H, K) and the largest norms of keys (B, G, blocks)."""
    bias = problem.bias
    assert isinstance(bias, StripBias)
    rows, k_blocks = problem.batch * problem.kv_heads, _k_blocks(problem)
    norms = problem.query.new_empty(rows * k_blocks, dtype=torch.float32)
    key_norms_kernel[(norms.numel(),)](problem.inputs, norms, problem.seqlen_k, problem.kv_heads, k_blocks, problem.cfg)
    bounds_kernel[(2 * problem.heads + 2 * rows,)](
        bias.values,
        *bias.values.stride(),
        norms,
        *parts[1:],
        bias.extent,
        problem.seqlen_k,
        problem.heads,
        k_blocks,
        num_warps=8,
    )


def key_ranges(problem: Problem, parts: Sequence[Tensor], rows: tuple[Tensor, Tensor] | None) -> Tensor | None:
    """The half-open range of keys that each block of SKIP_BLOCK_M rows may need: (B, H, blocks, 2), int32. None: all keys.

    rows: their log-sum-exp and delta, contiguous, in the backward; None in the forward.
    """
    by_bias = may_skip(problem)
    document_ids = problem.inputs.document_ids
    by_documents = document_ids is not None and problem.seqlen_k >= _SKIP_FROM
    if not by_bias and not by_documents:
        return None
    q_blocks = (problem.seqlen_q + SKIP_BLOCK_M.value - 1) // SKIP_BLOCK_M.value
    ranges = problem.query.new_empty((problem.batch, problem.heads, q_blocks, 2), dtype=torch.int32)
    if by_bias:
        _write_ranges(problem, parts, rows, ranges)
    if by_documents:
        document_ranges_kernel[(problem.batch * q_blocks,)](
            document_ids, ranges, problem.seqlen_k, problem.heads, q_blocks, by_bias
        )
    return ranges


def _write_ranges(problem: Problem, parts: Sequence[Tensor], rows: tuple[Tensor, Tensor] | None, ranges: Tensor) -> None:
    bias = problem.bias
    assert isinstance(bias, StripBias)
    q_blocks = ranges.shape[2]
    _, past_tail, future_tail, norms_up_to, norms_from = parts
    key_ranges_kernel[(problem.batch * problem.heads * q_blocks,)](
        problem.inputs,
        *(rows or (None, None)),
        bias.values,
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
        *bias.values.stride(),
        bias.extent,
        q_blocks,
        _k_blocks(problem),
        problem.cfg,
    )


def _k_blocks(problem: Problem) -> int:
    return (problem.seqlen_k + SKIP_BLOCK_N.value - 1) // SKIP_BLOCK_N.value
