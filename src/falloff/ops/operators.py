"""Fused attention as operators of torch: schema, shapes for tracing, derivative, vmap.

`falloff::attention` returns the output, the log-sum-exp and the lowered call; `falloff::attention_backward` takes all three.
`impl` names an implementation that can serve the call: see `implementations.choose`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor

from falloff.ops.call import Call, empty_lse, empty_output
from falloff.ops.checks import check_devices, check_gradients, check_inputs, check_lowered, refuse
from falloff.ops.implementations import IMPLEMENTATIONS, refuse_unserved

ONNX = "torch.onnx.export(..., dynamo=True) of falloff.attention(..., impl='reference')"
"""How to export to ONNX, for error messages."""


@torch.library.custom_op(
    "falloff::attention",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor value, str impl, {Call.SCHEMA}) -> (Tensor, Tensor, Tensor)",
)
def fused_attention(query: Tensor, key: Tensor, value: Tensor, impl: str, *flat: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, H, N, D), log-sum-exp (B, H, N) and the lowered call. `flat`: a call from `Call.flatten`."""
    call = Call.unflatten(*flat)
    check_inputs(query, key, value, call)
    refuse_unserved(impl, query, key, call)
    return forward(query, key, value, impl, call)


def forward(query: Tensor, key: Tensor, value: Tensor, impl: str, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """`fused_attention` without the checks and without torch's dispatcher."""
    chosen = IMPLEMENTATIONS[impl]
    # On a CPU zeros cost nothing. On a GPU they would be one more launch: what runs there writes every number.
    new = query.new_empty if query.is_cuda else query.new_zeros
    lowered = new(chosen.lowered_size(query, key, call), dtype=torch.int32)
    with without_autocast(query):
        out, lse = chosen.forward(query, key, value, call, lowered)
    return out, lse, lowered


def without_autocast(query: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast: an implementation chooses its own precision."""
    return torch.autocast(query.device.type, enabled=False) if torch._C._is_any_autocast_enabled() else nullcontext()


@fused_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, impl: str, *flat: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = Call.unflatten(*flat)
    check_devices(query, (key, value, *call.tensors))
    if torch.onnx.is_in_onnx_export():
        raise ValueError(f"impl: got one that is no operator of ONNX, expected 'reference': {ONNX}")
    lowered = query.new_empty(IMPLEMENTATIONS[impl].lowered_size(query, key, call), dtype=torch.int32)
    return empty_output(query), empty_lse(query), lowered


@torch.library.custom_op(
    "falloff::attention_backward",
    mutates_args=(),
    schema="(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, "
    f"Tensor lowered, bool[] needs, str impl, {Call.SCHEMA}) -> Tensor[]",
)
def fused_attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    needs: Sequence[bool],
    impl: str,
    *flat: Any,
) -> list[Tensor]:
    """Gradients of query, key, value and each form tensor; an empty tensor for each gradient that is not needed."""
    call = Call.unflatten(*flat)
    check_inputs(query, key, value, call)
    check_gradients(grad_out, grad_lse, query, out, lse, needs)
    refuse_unserved(impl, query, key, call)
    check_lowered(lowered, query, IMPLEMENTATIONS[impl].lowered_size(query, key, call))
    return backward(grad_out, grad_lse, query, key, value, out, lse, lowered, needs, impl, call)


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    needs: Sequence[bool],
    impl: str,
    call: Call,
) -> list[Tensor]:
    """`fused_attention_backward` without the checks and without torch's dispatcher."""
    form_tensors = call.form.tensors if call.form is not None else []
    with without_autocast(query):
        *grads, form_grads = IMPLEMENTATIONS[impl].backward(
            grad_out,
            grad_lse,
            query,
            key,
            value,
            out,
            lse,
            lowered,
            call,
            needs,
        )
    grads += form_grads if form_grads is not None else [None] * len(form_tensors)
    inputs = (query, key, value, *form_tensors)
    return [
        # Contiguous, as the fake operator returns them; an implementation's sums may have strides of the inputs.
        tensor.new_empty(0) if grad is None else grad.to(tensor.dtype).contiguous()
        for tensor, grad in zip(inputs, grads, strict=True)
    ]


@fused_attention_backward.register_fake
def _(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lowered: Tensor,
    needs: Sequence[bool],
    impl: str,
    *flat: Any,
) -> list[Tensor]:
    call = Call.unflatten(*flat)
    check_devices(query, (grad_out, grad_lse, key, value, out, lse, lowered, *call.tensors))
    form_tensors = call.form.tensors if call.form is not None else []
    inputs = (query, key, value, *form_tensors)
    needed = (*needs[:3], *(needs[3] for _ in form_tensors))
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else tensor.new_empty(0)
        for tensor, need in zip(inputs, needed, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value, ctx.impl, form_tensors, *masks, ctx.settings = *inputs[:8], inputs[8:]
    ctx.save_for_backward(query, key, value, *output, *masks, *form_tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *inputs, key_mask, document_ids, seed = ctx.saved_tensors[:9]
    flat = (ctx.saved_tensors[9:], key_mask, document_ids, seed, *ctx.settings)
    *needs, _, of_form = ctx.needs_input_grad[:5]
    if grad_out is None:
        grad_out = torch.zeros_like(inputs[3])
    grads = fused_attention_backward(grad_out, grad_lse, *inputs, [*needs, any(of_form)], ctx.impl, *flat)
    of_inputs = (grad if need else None for grad, need in zip(grads[:3], needs, strict=True))
    form_grads = [grad if need else None for grad, need in zip(grads[3:], of_form, strict=True)]
    # torch takes an empty list of numbers for a list of tensors, and expects a list of gradients for it.
    return *of_inputs, None, form_grads, *([] if isinstance(one, list) and not one else None for one in flat[1:])


fused_attention.register_autograd(_backward, setup_context=_setup_context)


def refuse_second_derivative(*_: Any) -> NoReturn:
    """Raise for a second derivative: the kernels have no formula for it."""
    raise ValueError("impl: got a fused implementation, expected impl='reference' for second derivatives (O(N M) memory)")


fused_attention_backward.register_autograd(refuse_second_derivative)


def _one_by_one(operator: Any) -> Any:
    """The vmap rule of an operator: one call for each entry, since a call takes far longer than its launch."""

    def entry(argument: Any, dim: Any, index: int) -> Any:
        if isinstance(argument, list | tuple):
            return [entry(*pair, index) for pair in zip(argument, dim, strict=True)]
        return argument if dim is None else argument.select(dim, index)

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            refuse("vmap", "a dimension of size 0", "at least 1")
        results = [
            operator(*(entry(argument, dim, index) for argument, dim in zip(arguments, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        kind = type(results[0])
        return kind(stacked), kind([0] * len(stacked))

    return rule


def refuse_older_vmap(*_: Any, **__: Any) -> NoReturn:
    """Raise for `torch.autograd.grad(..., is_grads_batched=True)`, whose vmap is not torch.func's."""
    raise ValueError("is_grads_batched: got True, expected torch.func.vmap over torch.func.vjp, or impl='reference'")


_library = torch.library.Library("falloff", "FRAGMENT")
for _operator in (fused_attention, fused_attention_backward):
    _operator.register_vmap(_one_by_one(_operator))
    _library.impl(_operator._name, refuse_older_vmap, "Batched")
