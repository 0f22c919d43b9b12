"""Attention on GPUs by Triton kernels: O(N) memory, forward and backward, gradients without atomics.

A `Factored` with query states becomes a band, of (B, H, N, K) numbers in the dtype of its states, as long as the call lasts.
A `Potential` may be added to any form. For other sums, and for key states, it refuses, and "auto" takes the blockwise
implementation.

Triton is optional and imported at the first call. TRITON_INTERPRET=1, set before that, runs the kernels on the CPU in
Triton's interpreter: correct and very slow, for tests.

The path of a call: host/forward.py -> host/lower.py (lowers the call once) -> kernels/forward.py; then host/backward.py,
which starts from the lowered call -> kernels/backward.py. A module has the same name in host/ and kernels/. Mask and dropout
have no module in host/: they are a few numbers in problem.

    hardware.py                     which GPUs are served
    tiles.py                        the sizes of tiles
    host/       device              the properties of a device, queried once
                problem             one call as arguments of its kernels
                bias, potential     a class for each form: what is lowered, what kernels read, how the gradient is summed
                lower, skip         lowering; which keys can be skipped
                forward, backward, diagonals        launches
    kernels/    arguments           the tuples that kernels take
                lower, forward, decode, backward, diagonals, skip        kernels
                tails, gather       kernels of host/skip, and of host/bias: a form's gradient from its sums
                memory, mask, dropout, bias, warp, zones                 device functions that kernels share
"""

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from falloff.forms import Factored, Potential
from falloff.ops.call import Call
from falloff.ops.triton import hardware

CHECKS_INPUTS = False
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NOT_INSTALLED = "triton is not installed (pip install triton; PyTorch's CUDA and ROCm builds bring it)"
_MOST = 2**30  # kernels hold lengths and offsets in 32 bits, addresses in 64


def unavailable() -> str | None:
    """Why the kernels cannot run on this machine, or None."""
    if not _installed():
        return _NOT_INSTALLED
    if _interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch knows"
    refusals = [hardware.refusal(index) for index in range(torch.cuda.device_count())]
    return refusals[0] if all(refusals) else None


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def refusal(query: Tensor, key: Tensor, call: Call) -> str | None:
    """Why this implementation cannot serve a call, or None."""
    if query.device.type != "cuda" and not (query.device.type == "cpu" and _interpreted()):
        return f"it runs on GPUs (CUDA or ROCm), and query is on {query.device}"
    if query.dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, and query is {query.dtype}"
    refused = _refused_form(query, key, call)
    if refused:
        return refused
    lengths = [query.shape[2], key.shape[2], *(tensor.shape[-1] for tensor in (call.form.tensors if call.form else []))]
    if max(lengths) >= _MOST:
        return f"it takes lengths below 2^30, and there is one of {max(lengths)}"
    if not query.is_cuda:
        return unavailable()
    return _NOT_INSTALLED if not _installed() else hardware.refusal(query.get_device())


def _refused_form(query: Tensor, key: Tensor, call: Call) -> str | None:
    others = [part for part in (call.form.parts if call.form is not None else ()) if not isinstance(part, Potential)]
    if len(others) > 1 or any(isinstance(part, Factored) and part.side == "key" for part in others):
        taken = "a strip, a band, a warp or products of query states and a table"
        return f"it takes {taken}, and a potential beside it, and the form is {call.form.slot}"  # type: ignore[union-attr]
    form = others[0] if others else None
    if not isinstance(form, Factored):
        return None
    # Products become a band, of the table's extent. Ends that go on would make it as long as the text.
    lowest, highest = call.query_start - (key.shape[2] - 1), call.query_start + query.shape[2] - 1
    lowest = max(lowest, 0) if call.causal else lowest
    highest = highest if call.window is None else min(highest, call.window - 1)
    covered = form.start <= lowest and highest < form.start + form.table.shape[1]
    if form.outside == "zero" or covered:
        return None
    return "it takes products that are clamped only if the table has a row for every offset of the call"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def lowered_size(query: Tensor, key: Tensor, call: Call) -> int:
    """The size of the lowered call in int32 numbers: see host/lower.py."""
    if call.form is None:
        return 0
    from falloff.ops.triton.host import problem  # imports triton, as all of host does

    batch, groups, num_keys, _ = key.shape
    return problem.lowered_size(call.form, batch, groups, query.shape[2], num_keys)


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp of each row (B, H, N)."""
    from falloff.ops.triton.host.forward import forward as run

    return run(query, key, value, call, lowered)


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
    from falloff.ops.triton.host.backward import backward as run

    return run(grad_out, grad_lse, query, key, value, out, lse, lowered, call, needs)
