"""The forward: lower the call, find the keys that can be skipped, launch attention."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from falloff.ops.call import Call, empty_lse, empty_output
from falloff.ops.triton.host.device import on_device
from falloff.ops.triton.host.lower import lower
from falloff.ops.triton.host.problem import Problem, strided
from falloff.ops.triton.host.skip import key_ranges
from falloff.ops.triton.kernels.decode import merge_kernel, split_kernel
from falloff.ops.triton.kernels.forward import forward_kernel

_SPLIT_PROGRAMS = 256  # about as many programs as fill a GPU; a constant, so that the splits depend on shapes alone
_MERGED = 16384  # numbers that a program holds in registers while it merges the splits of a row


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp (B, H, N). Writes `lowered`, unless it is None."""
    out, lse = empty_output(query), empty_lse(query)
    if out.numel() == 0 or key.shape[2] == 0:
        return out.zero_(), lse.fill_(-torch.inf)
    with on_device(query):
        problem = Problem(query, key, value, call)
        parts = lower(problem, lowered, skipping=not problem.splits_kv)
        (_attend_split if problem.splits_kv else _attend)(problem, parts, out, lse)
    return out, lse


def _attend(problem: Problem, parts: Sequence[Tensor], out: Tensor, lse: Tensor) -> None:
    """One program for each q tile."""
    tiles = problem.tiles("forward")
    q_tiles = triton.cdiv(problem.seqlen_q, tiles.block_m)
    forward_kernel[(problem.batch * problem.heads * q_tiles,)](
        problem.biased(parts),
        strided(out),
        lse,
        key_ranges(problem, parts, None),
        *problem.dims,
        q_tiles,
        problem.cfg,
        **tiles.options(),
    )


def _attend_split(problem: Problem, parts: Sequence[Tensor], out: Tensor, lse: Tensor) -> None:
    """Few query rows: the keys of a GQA group are split among programs, and the splits are merged. No key is skipped."""
    batch, heads, seqlen_q, head_dim = out.shape
    tiles = problem.tiles("decode")
    most = _MERGED // problem.block_d
    groups, seqlen_k = batch * problem.kv_heads, problem.seqlen_k
    splits = min(triton.cdiv(_SPLIT_PROGRAMS, groups), triton.cdiv(seqlen_k, 2 * tiles.block_n), most)
    split_keys = triton.cdiv(triton.cdiv(seqlen_k, splits), tiles.block_n) * tiles.block_n
    splits = triton.cdiv(seqlen_k, split_keys)
    split_out = out.new_empty(batch, heads, seqlen_q, splits, head_dim, dtype=torch.float32)
    split_max, split_sum = (out.new_empty(batch, heads, seqlen_q, splits, dtype=torch.float32) for _ in range(2))
    # Without zones, so that a cache that grows beyond the reach of a strip compiles no other kernel.
    cfg = problem.cfg._replace(FAR_PAST=tl.constexpr(False), MIDDLE=tl.constexpr("edge"), FAR_FUTURE=tl.constexpr(False))
    split_kernel[(groups * splits,)](
        problem.biased(parts),
        split_out,
        split_max,
        split_sum,
        *problem.dims,
        splits,
        split_keys,
        cfg,
        **tiles.options(),
    )
    merge_kernel[(batch * heads * seqlen_q,)](
        split_out,
        split_max,
        split_sum,
        strided(out),
        lse,
        seqlen_q,
        heads,
        splits,
        cfg,
        SPLITS=triton.next_power_of_2(splits),
        num_warps=8,
    )
