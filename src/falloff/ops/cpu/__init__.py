"""Attention on the CPU by the C++ kernels of `csrc/`: O(N) memory, forward and backward, all forms.

The kernels are one extension module, `_kernels`. It contains code for several instruction sets and does not link to torch.
If it was not built (no compiler at installation), `unavailable` returns this reason. It checks its arguments itself: see
`csrc/check.h`.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from falloff.forms import Factored, Potential, Strip, Warp
from falloff.ops.call import Call, empty_lse, empty_output
from falloff.ops.checks import check_storage

CHECKS_INPUTS = True
_DTYPES = (torch.float32, torch.bfloat16)


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension module, and why it cannot be used on this machine, or None."""
    try:
        module = import_module("falloff.ops.cpu._kernels")
    except ImportError:
        return None, "falloff was installed without its CPU kernels: install it again where GCC or clang can compile them"
    if not module.instruction_sets():
        return module, "this processor has no AVX2, which the kernels need on x86"
    return module, None


# At import, which takes a millisecond: torch.compile can trace a constant, and nothing of the extension.
_module, _why_not = _load()


def unavailable() -> str | None:
    """Why the kernels cannot run on this machine, or None."""
    return _why_not


def instruction_set() -> str:
    """The instruction set in use: the one that FALLOFF_CPU_ISA names, or else the best of this machine.

    Call it only if `unavailable()` is None.

    Raises:
        ValueError: if this machine does not have the one that FALLOFF_CPU_ISA names.
    """
    available = _loaded().instruction_sets()
    forced = os.environ.get("FALLOFF_CPU_ISA")
    if forced is not None and forced not in available:
        raise ValueError(f"FALLOFF_CPU_ISA: got {forced!r}, expected one of {', '.join(available)}")
    return forced or available[0]


def refusal(query: Tensor, key: Tensor, call: Call) -> str | None:
    """Why this implementation cannot serve a call, or None."""
    if query.device.type != "cpu":
        return f"it runs on the CPU, and query is on {query.device}"
    if query.dtype not in _DTYPES:
        return f"it takes float32 and bfloat16, and query is {query.dtype}"
    for part in () if call.form is None else call.form.parts:
        if isinstance(part, Warp) and not part.rising:
            return "it takes a warp only if g is finite and rises, and a is finite and not negative (Warp(..., rising=True))"
    return unavailable()


def lowered_size(query: Tensor, key: Tensor, call: Call) -> int:
    """How many int32 numbers the lowered call takes: the parts of `csrc/lower.cpp`, each rounded up to a cache line."""
    batch, heads, num_queries, _ = query.shape
    groups, num_keys = key.shape[1:3]
    forms = {} if call.form is None else {part.slot: part for part in call.form.parts}
    strip, warp, potential = forms.get("strip"), forms.get("warp"), forms.get("potential")
    parts: list[int] = []
    if call.key_mask is not None or call.document_ids is not None:
        parts += [batch * num_queries, batch * num_keys]
    if isinstance(strip, Strip):
        parts.append(heads * (strip.values.shape[1] + 2 * _STRIP_PAD))
    if forms and set(forms) <= {"strip", "potential"}:  # what certified skipping needs
        parts += [heads * _blocks(strip.values.shape[1])] * 2 if isinstance(strip, Strip) else []
        parts += [batch * heads * _blocks(num_keys)] * 2 if isinstance(potential, Potential) else []
        parts += [*[batch * groups * _blocks(num_keys)] * 2, 1]
    for part in forms.values():
        if isinstance(part, Factored):
            tables, length, size = part.table.shape
            parts.append(tables * size * ((length + 2 * _STRIP_PAD + 30) // 16 * 16))
    if isinstance(warp, Warp):
        parts += [num_queries + num_keys + 2 * _STRIP_PAD, warp.a.numel() * warp.knots.shape[0]]
    return sum((part + 15) // 16 * 16 for part in parts)  # 16 numbers are 64 bytes


_STRIP_PAD, _BLOCK = 512, 64  # as in csrc/problem.h: STRIP_PAD; KEY_BLOCK and STRIP_BLOCK


def _blocks(count: int) -> int:
    return (count + _BLOCK - 1) // _BLOCK


def _readable(name: str, tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it, with a contiguous last dimension, which the kernels need."""
    if tensor.stride(-1) == 1 or tensor.shape[-1] == 1:
        return tensor
    check_storage(name, tensor)  # torch would copy freed memory too
    return tensor.contiguous()


def _as_float(name: str, tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it, contiguous and in float32, as the kernels read forms, lse and grad_lse.

    Rows of states may lie apart: often they are the queries or keys themselves.
    """
    if tensor.dtype == torch.float32 and (tensor.is_contiguous() or (name == "states" and tensor.stride(-1) == 1)):
        return tensor
    check_storage(name, tensor)
    return tensor.detach().to(torch.float32).contiguous()


def _arguments(query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Any, ...]:
    """The arguments that forward and backward pass to the kernels, in the order of `arguments_of` in csrc/module.cpp."""
    form = call.form
    if call.seed is not None:
        check_storage("seed", call.seed)
    return (
        _readable("query", query),
        _readable("key", key),
        _readable("value", value),
        torch.get_num_threads(),
        [] if form is None else [_as_float(*pair) for pair in zip(form.tensor_names, form.tensors, strict=True)],
        call.key_mask,
        call.document_ids,
        None if call.seed is None else int(call.seed),
        "" if form is None else form.kind,
        [] if form is None else form.numbers,
        call.causal,
        call.scale,
        call.query_start,
        call.window,
        call.dropout_p,
    )


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call, lowered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, N, D) and the log-sum-exp of each row (B, H, N)."""
    out, lse = empty_output(query), empty_lse(query)
    if out.numel() > 0:
        _loaded().forward(out, lse, lowered, _arguments(query, key, value, call))
    return out, lse


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
    """The gradients of query, key, value and the form's tensors, only those that `needs` asks for."""
    needs_query, needs_key, needs_value, needs_form = needs
    grad_query, grad_key, grad_value = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if needed else None
        for tensor, needed in ((query, needs_query), (key, needs_key), (value, needs_value))
    )
    form = call.form
    grad_form = [_zeros_like(tensor) for tensor in form.tensors] if form and needs_form else []
    if out.numel() > 0 and key.shape[2] > 0:
        _loaded().backward(
            _readable("grad_out", grad_out),
            None if grad_lse is None else _as_float("grad_lse", grad_lse),
            _readable("out", out),
            _as_float("lse", lse),
            lowered,
            grad_query,
            grad_key,
            grad_value,
            grad_form,
            _arguments(query, key, value, call),
        )
    else:
        for grad in (grad_query, grad_key, grad_value):
            if grad is not None:
                grad.zero_()
    return grad_query, grad_key, grad_value, grad_form if needs_form else None


VISIT_Q_TILE, VISIT_KV_TILE = 48, 256  # as in csrc/problem.h


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)


def visits(query: Tensor, key: Tensor, value: Tensor, call: Call, lse: Tensor) -> tuple[Tensor, Tensor]:
    """For each tile of 48 query rows and 256 keys: how many keys the span has that its rows see, and how many are visited.

    Spans begin and end with whole panels of keys, so they may have a few that no row sees.

    The others are skipped: with the log-sum-exps `lse` (B, H, N) of the rows, as in the backward. The forward knows only the
    maximum so far and may visit a little more.

    Returns:
        Two tensors (B, H, q tiles, kv tiles), int32.
    """
    batch, heads, num_queries, _ = query.shape
    shape = batch, heads, -(-num_queries // VISIT_Q_TILE), -(-key.shape[2] // VISIT_KV_TILE)
    seen, visited = query.new_zeros(shape, dtype=torch.int32), query.new_zeros(shape, dtype=torch.int32)
    if seen.numel() > 0:
        _loaded().visits(_as_float("lse", lse), seen, visited, _arguments(query, key, value, call))
    return seen, visited


def _loaded() -> ModuleType:
    assert _module is not None  # otherwise `unavailable` has said so
    return _module
