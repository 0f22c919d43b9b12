"""What is lowered once for a call: what attention kernels read that follows from the form and the keys alone.

The forward writes it into one flat tensor, and the backward starts from that. Its parts, all of float32:

    strip         the padded strip (H, K + 2 PAD); for skipping: the tails of the past and of the future (H, K), and the
                  largest norms of keys up to each block and from it on (B, G, blocks of SKIP_BLOCK_N keys)
    warp          g by falling offset (N + M - 1 + 2 PAD); the least and the largest g, and a, of each RANGE_BLOCK entries
    band, none    nothing

What depends on the log-sum-exp of the rows is the backward's own: delta, and the ranges of keys that rows may need.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from falloff.ops.triton.host import skip
from falloff.ops.triton.host.problem import Problem, lowered_size


def lower(problem: Problem, lowered: Tensor | None, skipping: bool) -> Sequence[Tensor]:
    """Lower a call into `lowered`, or into memory of its own. Returns the parts.

    Without `skipping`, what only serves to skip keys is not written.
    """
    if lowered is None:
        size = lowered_size(problem.call.form, problem.batch, problem.kv_heads, problem.seqlen_q, problem.seqlen_k)
        lowered = problem.query.new_empty(size, dtype=torch.int32)
    parts = problem.parts(lowered)
    problem.bias.lower(parts)
    if skipping and skip.may_skip(problem):
        skip.lower(problem, parts)
    return parts
