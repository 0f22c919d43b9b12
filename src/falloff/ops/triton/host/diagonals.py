"""Sums of dS along diagonals, for the gradient of a bias that depends on the offset."""

import torch
import triton
from torch import Tensor

from falloff.ops.triton.host.bias import Diagonals
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.kernels.arguments import Gradients, Inputs
from falloff.ops.triton.kernels.diagonals import diagonal_kernel

_PROGRAMS = 512  # about as many programs as fill a GPU


def sum_diagonals(
    problem: Problem, inputs: Inputs, grads: Gradients, key_ranges: Tensor | None, start: int, stop: int
) -> Diagonals:
    """Sum dS at the offsets start .. stop, both included."""
    tiles = problem.tiles("diagonal")
    side, count = tiles.block_m, stop - start + 1
    if count <= 0:
        return Diagonals(None, stop, 0, 0, 0, side)
    blocks = triton.cdiv(stop - start, side) + 1
    # A block diagonal is split among programs if there are too few to fill a GPU.
    splits = max(_PROGRAMS // (problem.batch * problem.heads * blocks), 1)
    splits = min(splits, triton.cdiv(problem.seqlen_q, 4 * side))
    shape = (problem.batch, problem.heads, blocks, splits, 2 * side)
    parts = problem.query.new_empty(shape, dtype=torch.float32)
    diagonal_kernel[(problem.batch * problem.heads * blocks * splits,)](
        inputs,
        grads,
        key_ranges,
        parts,
        *problem.dims,
        problem.call.query_start - stop,
        blocks,
        splits,
        problem.cfg,
        SIDE=side,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        enable_fp_fusion=True,
    )
    return Diagonals(parts, stop, count, blocks, splits, side)
