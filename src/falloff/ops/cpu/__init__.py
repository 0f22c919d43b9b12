"""Attention on the CPU by the C++ kernels of `csrc/`: O(N) memory, forward and backward, all three forms.

The kernels are one extension module, `_kernels`, that holds several instruction sets and links nothing of torch. Where it
was not built (no compiler at installation), this implementation refuses and says so.
"""

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from falloff.forms import Warp
from falloff.ops.call import Call, empty_output

_DTYPES = (torch.float32, torch.bfloat16)


def unavailable() -> str | None:
    """Why the kernels cannot run on this machine, or None."""
    module = _module()
    if module is None:
        return "falloff was installed without its CPU kernels, which GCC compiles; install it again where there is one"
    if not module.instruction_sets():
        return "this processor has not AVX2, the least that the kernels need on x86"
    return None


def instruction_set() -> str:
    """The instruction set in use: the best that this machine has, or the one that FALLOFF_CPU_ISA names.

    Raises:
        ValueError: if FALLOFF_CPU_ISA names one that is not there.
    """
    module = _module()
    available = module.instruction_sets() if module is not None else []
    asked = os.environ.get("FALLOFF_CPU_ISA")
    if asked is not None and asked not in available:
        raise ValueError(f"FALLOFF_CPU_ISA: got {asked!r}, expected one of {', '.join(available)}")
    return asked or available[0]


def refusal(query: Tensor, key: Tensor, call: Call) -> str | None:
    """Why this implementation cannot serve a call, or None."""
    if query.device.type != "cpu":
        return f"it runs on the CPU, and query is on {query.device}"
    if query.dtype not in _DTYPES:
        return f"it takes float32 and bfloat16, and query is {query.dtype}"
    form = call.form
    if isinstance(form, Warp):
        rising = bool((form.g.diff() >= 0).all()) and bool(form.g.isfinite().all())
        if not rising or not bool(((form.a >= 0) & form.a.isfinite()).all()):
            return "it takes a warp only where g is finite and rises and a is finite and not negative"
    return unavailable()


@cache
def _module() -> ModuleType | None:
    try:
        return import_module("falloff.ops.cpu._kernels")
    except ImportError:
        return None


def _readable(tensor: Tensor) -> Tensor:
    """With its last dimension contiguous, as kernels read: else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _labels(call: Call, num_queries: int, batch: int) -> tuple[Tensor | None, Tensor | None]:
    """A label for each row (B, N) and key (B, M), int32: a row sees the keys of its label. Padding has label -1."""
    if call.document_ids is not None:
        rows = torch.unique(call.document_ids, return_inverse=True)[1].to(torch.int32)
        keys = rows if call.key_mask is None else torch.where(call.key_mask, rows, -1)
        return rows.contiguous(), keys.contiguous()
    if call.key_mask is not None:
        keys = call.key_mask.to(torch.int32) - 1
        return torch.zeros(batch, num_queries, dtype=torch.int32), keys.contiguous()
    return None, None


def _problem(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Any:
    module = _module()
    assert module is not None  # refusal() said so
    row_labels, key_labels = _labels(call, query.shape[2], query.shape[0])
    form = call.form
    return module.Call(
        query=_readable(query),
        key=_readable(key),
        value=_readable(value),
        scale=call.scale,
        query_start=call.query_start,
        causal=call.causal,
        window=call.window,
        row_labels=row_labels,
        key_labels=key_labels,
        seed=None if call.seed is None else int(call.seed),
        dropout_p=call.dropout_p,
        form="" if form is None else form.kind,
        form_tensors=[] if form is None else [t.detach().to(torch.float32).contiguous() for t in form.tensors],
        form_start=getattr(form, "start", 0),
        isa=instruction_set(),
        threads=torch.get_num_threads(),
    )


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp of each row (B, H, N)."""
    out = empty_output(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if out.numel() > 0:
        _problem(query, key, value, call).forward(out, lse)
    return out, lse


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    call: Call,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
    """The gradients of query, key, value and the form's tensors, only those that `needs` asks for."""
    grad_query, grad_key, grad_value = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if needed else None
        for tensor, needed in zip((query, key, value), needs[:3], strict=True)
    )
    form = call.form
    grad_form = [torch.zeros_like(t, dtype=torch.float32).contiguous() for t in form.tensors] if form and needs[3] else []
    if out.numel() > 0 and key.shape[2] > 0:
        _problem(query, key, value, call).backward(
            _readable(grad_out),
            None if grad_lse is None else grad_lse.contiguous(),
            _readable(out),
            lse.contiguous(),
            grad_query,
            grad_key,
            grad_value,
            grad_form,
        )
    else:
        for grad in (grad_query, grad_key, grad_value):
            if grad is not None:
                grad.zero_()
    return grad_query, grad_key, grad_value, grad_form if needs[3] else None
