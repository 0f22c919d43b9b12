"""Fused attention for autograd, for compilers, and under torch's transforms of functions.

`torch.func.grad`, `vjp`, `vmap`, `jacrev` and `functional_call` work, in any nesting with one derivative. Forward-mode
derivatives (`jvp`, `jacfwd`, dual tensors) and second derivatives need formulas that the kernels do not have. They are
refused here: an operator under them would give tangents of zero, and no error.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from falloff.ops.call import Call
from falloff.ops.operators import fused_attention, fused_attention_backward, refuse_second_derivative


def call_fused(query: Tensor, key: Tensor, value: Tensor, call: Call, impl: str) -> tuple[Tensor, Tensor]:
    """A call by way of the operator, which autograd, torch.compile and torch.export know.

    Raises:
        ValueError: for tensors with a tangent.
    """
    form = call.form
    kind, start = (form.kind, getattr(form, "start", 0)) if form is not None else ("", 0)
    form_tensors = form.tensors if form is not None else []
    masks = (call.key_mask, call.document_ids, call.seed)
    settings = (call.causal, call.scale, call.query_start, call.window, call.dropout_p, impl)
    if torch._C._are_functorch_transforms_active():
        if torch.compiler.is_compiling():
            raise ValueError(
                "impl: got a fused implementation in a compiled torch.func transform, expected torch.func of a compiled "
                "function, or impl='reference'"
            )
        return _Attention.apply(kind, start, settings, query, key, value, *masks, *form_tensors)  # type: ignore[no-untyped-call]
    if forward_ad._current_level >= 0:
        _refuse_tangents(*(forward_ad.unpack_dual(t).tangent for t in (query, key, value, *form_tensors)))
    out, lse = fused_attention(query, key, value, kind, form_tensors, start, *masks, *settings)
    return out, lse


def _refuse_tangents(*tangents: Tensor | None) -> None:
    if any(tangent is not None for tangent in tangents):
        raise ValueError(
            "impl: got a fused implementation, expected impl='reference' for forward-mode derivatives (O(N M) memory)"
        )


class _Attention(torch.autograd.Function):
    """The operator and its gradient once more, as torch.func needs them: its transforms do not know operators' autograd."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        kind: str,
        start: int,
        settings: tuple[Any, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_mask: Tensor | None,
        document_ids: Tensor | None,
        seed: Tensor | None,
        *form_tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out, lse = fused_attention(query, key, value, kind, form_tensors, start, key_mask, document_ids, seed, *settings)
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.kind, ctx.start, ctx.settings, query, key, value, *others = inputs
        ctx.save_for_backward(query, key, value, *output, *others)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
        _, _, _, *of_inputs, _, _, _ = ctx.needs_input_grad[:9]
        of_form = ctx.needs_input_grad[9:]
        needs = (*of_inputs, any(of_form))
        query, key, value, *grads = _Backward.apply(
            needs, ctx.kind, ctx.start, ctx.settings, grad_out, grad_lse, *ctx.saved_tensors
        )  # type: ignore[no-untyped-call]
        grads = [grad if need else None for grad, need in zip(grads, of_form, strict=True)]
        grads_of_inputs = (grad if need else None for grad, need in zip((query, key, value), of_inputs, strict=True))
        return None, None, None, *grads_of_inputs, None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, None]:
        _refuse_tangents(*tangents[3:])
        return None, None


class _Backward(torch.autograd.Function):
    """The backward operator, which has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        needs: tuple[bool, ...],
        kind: str,
        start: int,
        settings: tuple[Any, ...],
        grad_out: Tensor,
        grad_lse: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        key_mask: Tensor | None,
        document_ids: Tensor | None,
        seed: Tensor | None,
        *form_tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        masks = (key_mask, document_ids, seed)
        inputs = (grad_out, grad_lse, query, key, value, out, lse, needs)
        return tuple(fused_attention_backward(*inputs, kind, form_tensors, start, *masks, *settings))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.outputs = len(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
        _refuse_tangents(*tangents[4:])
        return (None,) * ctx.outputs
