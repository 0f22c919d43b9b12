"""The backward, from the lowered call: launches delta; dQ; dK and dV; the gradient of the form."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from falloff.ops.call import Call
from falloff.ops.triton.host.device import on_device
from falloff.ops.triton.host.diagonals import sum_diagonals
from falloff.ops.triton.host.lower import lower
from falloff.ops.triton.host.potential import parts_of, potential_gradients
from falloff.ops.triton.host.problem import Problem, readable, strided
from falloff.ops.triton.host.skip import key_ranges
from falloff.ops.triton.kernels.arguments import Gradients
from falloff.ops.triton.kernels.backward import delta_kernel, dkdv_kernel, dq_kernel

_DELTA_BLOCK_M = 64


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    call: Call,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
    """The gradients of query, key, value and the form's tensors: those that `needs` asks for."""
    needs_query, needs_key, needs_value, needs_form = needs
    needs_form = needs_form and call.form is not None
    sums_keys = needs_form and parts_of(call.form)[1] is not None
    needs_keys = needs_key or needs_value or sums_keys  # one kernel for all
    if not (needs_query or needs_keys or needs_form):
        return None, None, None, None
    dq, dk, dv = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
        for tensor, need in ((query, needs_query), (key, needs_keys), (value, needs_keys))
    )
    d_form = None
    if query.numel() == 0 or key.numel() == 0:
        for grad in (dq, dk, dv):
            if grad is not None:
                grad.zero_()
        if call.form is not None and needs_form:
            d_form = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in call.form.tensors]
    else:
        with on_device(query):
            problem = Problem(query, key, value, call)
            # A forward that splits the keys skips none, and does not lower the parts that skipping needs.
            parts = lower(problem, None, skipping=True) if problem.splits_kv else problem.parts(lowered.contiguous())
            lse, grad_lse = lse.contiguous(), None if grad_lse is None else grad_lse.contiguous()
            d_form = _launch(problem, parts, readable(grad_out), grad_lse, readable(out), lse, dq, dk, dv, needs_form)
    return dq, dk if needs_key else None, dv if needs_value else None, d_form


def _launch(
    problem: Problem,
    parts: Sequence[Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    needs_form: bool,
) -> list[Tensor] | None:
    """Write those of dq, dk and dv that are not None. Returns the form's gradients."""
    bias, cfg, dims = problem.bias, problem.cfg, problem.dims
    inputs = problem.biased(parts)

    do = strided(grad_out)
    delta, lse2 = torch.empty_like(lse), torch.empty_like(lse)
    q_tiles = triton.cdiv(problem.seqlen_q, _DELTA_BLOCK_M)
    delta_kernel[(problem.batch * problem.heads * q_tiles,)](
        do, strided(out), grad_lse, lse, delta, lse2, problem.seqlen_q, problem.heads, q_tiles, cfg, BLOCK_M=_DELTA_BLOCK_M
    )
    ranges = key_ranges(problem, parts, (lse, delta))

    tiles = problem.tiles("dq")
    q_tiles = triton.cdiv(problem.seqlen_q, tiles.block_m)
    row_sums = bias.row_sums(delta, q_tiles) if needs_form else {}
    grads = Gradients(
        do=do,
        delta=delta,
        lse2=lse2,
        dq=None if dq is None else strided(dq),
        dk=None if dk is None else strided(dk),
        dv=None if dv is None else strided(dv),
        d_band=row_sums.get("d_band"),
        future_ds=row_sums.get("future_ds"),
        row_da=row_sums.get("row_da"),
        segment_sums=row_sums.get("segment_sums"),
        d_key_potential=torch.empty_like(inputs.potential.key) if needs_form and inputs.potential is not None else None,
    )
    if dq is not None or row_sums:
        dq_kernel[(problem.batch * problem.heads * q_tiles,)](
            inputs,
            grads,
            ranges,
            *dims,
            q_tiles,
            cfg,
            **tiles.options(),
        )
    if dk is not None:
        tiles = problem.tiles("dkdv")
        kv_tiles = triton.cdiv(problem.seqlen_k, tiles.block_n)
        dkdv_kernel[(problem.batch * problem.kv_heads * kv_tiles,)](
            inputs,
            grads,
            ranges,
            *dims,
            kv_tiles,
            cfg,
            **tiles.options(),
        )
    d_form = None
    if needs_form:
        diagonals = sum_diagonals(problem, inputs, grads, ranges, *bias.offsets_summed())
        d_form = bias.gradients(grads, diagonals, lse, grad_lse)
        if grads.d_key_potential is not None:
            d_form += potential_gradients(grads.d_key_potential, lse, grad_lse)
    if problem.call.scale < 0 and dq is not None:
        dq.neg_()  # the kernels were given -query
    return d_form
