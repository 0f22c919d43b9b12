"""Lowering: everything that attention kernels read and that depends on the form and the keys alone.

The forward writes all of one flat tensor, from which the backward starts. Its parts, all float32:

    strip         the padded strip (H, K + 2 PAD); for skipping: the tails of the past and of the future (H, K), and the
                  largest norms of keys up to each block and from it on (B, G, blocks of SKIP_BLOCK_N keys)
    warp          g by falling offset (N + M - 1 + 2 PAD); the smallest and largest g, and a, of ranges of entries
    band, none    nothing

Delta and the ranges of keys that rows may need depend on the log-sum-exp of the rows: the backward computes its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from falloff.ops.triton.host import skip
from falloff.ops.triton.host.problem import Problem, lowered_size


def lower(problem: Problem, lowered: Tensor | None, skipping: bool) -> Sequence[Tensor]:
    """Lower a call into `lowered`, or into new memory if it is None. Returns the parts.

    Without `skipping`, the parts that only skipping needs are 0 in `lowered`, and not written in new memory.
    """
    kept = lowered is not None
    if lowered is None:
        size = lowered_size(problem.call.form, problem.batch, problem.kv_heads, problem.seqlen_q, problem.seqlen_k)
        lowered = problem.query.new_empty(size, dtype=torch.int32)
    parts = problem.parts(lowered)
    problem.bias.lower(parts, lowered.numel() if kept else 0)
    if skipping and skip.may_skip(problem):
        skip.lower(problem, parts)
    return parts
