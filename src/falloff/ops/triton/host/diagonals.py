"""Sums of dS along diagonals, for the gradient of a bias that depends on the offset."""

import torch
import triton
from torch import Tensor

from falloff.ops.triton.host.bias import SumsByOffset
from falloff.ops.triton.host.problem import Problem
from falloff.ops.triton.kernels.arguments import Gradients, Inputs
from falloff.ops.triton.kernels.diagonals import diagonal_kernel

_PROGRAMS = 512  # about as many programs as fill a GPU


def sums_by_offset(problem: Problem, inputs: Inputs, grads: Gradients, key_ranges: Tensor | None) -> SumsByOffset:
    """A function that sums dS at the offsets start .. stop, both included: (H, stop - start + 1), float64."""

    def sums(start: int, stop: int) -> Tensor:
        if start > stop:
            return problem.query.new_zeros(problem.heads, 0, dtype=torch.float64)
        tiles = problem.tiles("diagonal")
        side = tiles.block_m
        diagonals = triton.cdiv(stop - start, side) + 1
        # A block diagonal is split among programs if there are too few to fill a GPU.
        splits = max(_PROGRAMS // (problem.batch * problem.heads * diagonals), 1)
        splits = min(splits, triton.cdiv(problem.seqlen_q, 4 * side))
        shape = (problem.batch, problem.heads, diagonals, splits, 2 * side)
        parts = problem.query.new_empty(shape, dtype=torch.float32)
        diagonal_kernel[(problem.batch * problem.heads * diagonals * splits,)](
            inputs,
            grads,
            key_ranges,
            parts,
            *problem.dims,
            problem.call.query_start - stop,
            diagonals,
            splits,
            problem.cfg,
            SIDE=side,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
        halves = parts.sum((0, 3), dtype=torch.float64)  # (H, diagonals, 2 side)
        by_lead = halves[:, :, side:].contiguous()
        by_lead[:, :-1].add_(halves[:, 1:, :side])  # neighbouring block diagonals overlap by half
        return by_lead.flatten(1)[:, : stop - start + 1].flip(1)

    return sums
