"""The torch contracts of fused attention: schema, shapes for tracing, autograd, and the table of implementations.

A kernel is one file beside this one and one line in `IMPLEMENTATIONS`. The file has three functions:

    refusal(query, key, call) -> str | None       why it cannot serve this call, or None
    forward(query, key, value, call) -> (out, lse)
    backward(grad_out, grad_lse, query, key, value, out, lse, call, needs) -> (query, key, value and form gradients)

The reference is not among them: it is plain differentiable torch and needs no contract.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from falloff.ops.call import Call, empty_output, sum_dtype
from falloff.ops.checks import check_devices, check_gradients, check_inputs, form_of, refuse

IMPLEMENTATIONS = {  # in the order in which "auto" tries them; imported when first used
    "cpu": "falloff.ops.cpu",
    "triton": "falloff.ops.triton",
    "blockwise": "falloff.ops.blockwise",
}


ONNX = "torch.onnx.export(..., dynamo=True) of falloff.attention(..., impl='reference')"
"""The way to ONNX, for errors."""


@runtime_checkable
class Implementation(Protocol):
    """What the module of an implementation defines."""

    def refusal(self, query: Tensor, key: Tensor, call: Call) -> str | None: ...

    def forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]: ...

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        call: Call,
        needs: tuple[bool, bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]: ...


def choose(impl: str, query: Tensor, key: Tensor, call: Call) -> Implementation:
    """The implementation of that name, or for "auto" the first that serves the call.

    Raises:
        ValueError: if there is none of that name, or it cannot serve the call, saying why.
    """
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        refuse("impl", repr(impl), "'auto' or one of " + ", ".join(map(repr, IMPLEMENTATIONS)))
    for name in IMPLEMENTATIONS if impl == "auto" else (impl,):
        implementation = cast(Implementation, import_module(IMPLEMENTATIONS[name]))
        refusal = implementation.refusal(query, key, call)
        if refusal is None:
            return implementation
    raise ValueError(f"impl: got {impl!r}, which cannot serve this call: {refusal}")


@torch.library.custom_op("falloff::attention", mutates_args=())
def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    form_kind: str,
    form_tensors: Sequence[Tensor],
    form_start: int,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    query_start: int,
    window: int | None,
    dropout_p: float,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, N, D) and log-sum-exp (B, H, N). The form travels as its kind, tensors and start; kind "" is none."""
    call = _call(
        form_kind, form_tensors, form_start, key_mask, document_ids, seed, causal, scale, query_start, window, dropout_p
    )
    check_inputs(query, key, value, call)
    with torch.autocast(query.device.type, enabled=False):  # an implementation chooses its own precision
        return choose(impl, query, key, call).forward(query, key, value, call)


@fused_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    form_kind: str,
    form_tensors: Sequence[Tensor],
    form_start: int,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    seed: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    check_devices(query, (key, value, *form_tensors, key_mask, document_ids, seed))
    if torch.onnx.is_in_onnx_export():
        raise ValueError(f"impl: got one that is no operator of ONNX, expected 'reference': {ONNX}")
    return empty_output(query), query.new_empty(query.shape[:3], dtype=sum_dtype(query))


@torch.library.custom_op("falloff::attention_backward", mutates_args=())
def fused_attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    needs: Sequence[bool],
    form_kind: str,
    form_tensors: Sequence[Tensor],
    form_start: int,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    query_start: int,
    window: int | None,
    dropout_p: float,
    impl: str,
) -> list[Tensor]:
    """Gradients of query, key, value and each form tensor; an empty tensor stands for one that is not needed."""
    call = _call(
        form_kind, form_tensors, form_start, key_mask, document_ids, seed, causal, scale, query_start, window, dropout_p
    )
    check_inputs(query, key, value, call)
    check_gradients(grad_out, grad_lse, query, out, lse, needs)
    needs_query, needs_key, needs_value, needs_form = needs
    with torch.autocast(query.device.type, enabled=False):
        *grads, form_grads = choose(impl, query, key, call).backward(
            grad_out, grad_lse, query, key, value, out, lse, call, (needs_query, needs_key, needs_value, needs_form)
        )
    grads += form_grads if form_grads is not None else [None] * len(form_tensors)
    inputs = (query, key, value, *form_tensors)
    return [
        # Contiguous, as the fake promises, whatever strides an implementation's sums took over from the inputs.
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
    needs: Sequence[bool],
    form_kind: str,
    form_tensors: Sequence[Tensor],
    form_start: int,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    seed: Tensor | None,
    *_: Any,
) -> list[Tensor]:
    check_devices(query, (grad_out, grad_lse, key, value, out, lse, *form_tensors, key_mask, document_ids, seed))
    inputs = (query, key, value, *form_tensors)
    needed = (*needs[:3], *(needs[3] for _ in form_tensors))
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else tensor.new_empty(0)
        for tensor, need in zip(inputs, needed, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, kind, form_tensors, start, key_mask, document_ids, seed, *settings = inputs
    ctx.save_for_backward(query, key, value, *output, key_mask, document_ids, seed, *form_tensors)
    ctx.form_kind, ctx.form_start, ctx.settings = kind, start, settings
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    query, key, value, out, lse, key_mask, document_ids, seed, *form_tensors = ctx.saved_tensors
    needs_query, needs_key, needs_value, _, needs_form_tensors, *_ = ctx.needs_input_grad
    needs = [needs_query, needs_key, needs_value, any(needs_form_tensors)]
    grad_query, grad_key, grad_value, *form_grads = fused_attention_backward(
        torch.zeros_like(out) if grad_out is None else grad_out,
        grad_lse,
        query,
        key,
        value,
        out,
        lse,
        needs,
        ctx.form_kind,
        form_tensors,
        ctx.form_start,
        key_mask,
        document_ids,
        seed,
        *ctx.settings,
    )
    form_grads = [grad if need else None for grad, need in zip(form_grads, needs_form_tensors, strict=True)]
    return (
        grad_query if needs_query else None,
        grad_key if needs_key else None,
        grad_value if needs_value else None,
        None,
        form_grads,
        *(None for _ in range(10)),
    )


fused_attention.register_autograd(_backward, setup_context=_setup_context)


def refuse_second_derivative(*_: Any) -> NoReturn:
    """What the backward of the backward is: the kernels have no formula for it."""
    raise ValueError("impl: got a fused implementation, expected impl='reference' for second derivatives (O(N M) memory)")


fused_attention_backward.register_autograd(refuse_second_derivative)


def _one_by_one(operator: Any) -> Any:
    """The rule of an operator under vmap: a call for each entry. A call is long enough to be worth one of its own."""

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


def _refuse_older_vmap(*_: Any, **__: Any) -> NoReturn:
    raise ValueError("is_grads_batched: got True, expected torch.func.vmap over torch.func.vjp, or impl='reference'")


_library = torch.library.Library("falloff", "FRAGMENT")
for _operator in (fused_attention, fused_attention_backward):
    _operator.register_vmap(_one_by_one(_operator))
    _library.impl(_operator._name, _refuse_older_vmap, "Batched")  # the vmap of torch.autograd.grad(is_grads_batched=True)


def _call(
    form_kind: str,
    form_tensors: Sequence[Tensor],
    form_start: int,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    query_start: int,
    window: int | None,
    dropout_p: float,
) -> Call:
    return Call(
        form=form_of(form_kind, form_tensors, form_start),
        causal=causal,
        scale=scale,
        query_start=query_start,
        window=window,
        key_mask=key_mask,
        document_ids=document_ids,
        dropout_p=dropout_p,
        seed=seed,
    )
