"""A call of fused attention, with as little of torch's machinery as the call allows: `call_fused`.

- Plain tensors, and at most autograd: directly to the implementation, with `_Attention` for the derivative.
- A compiler, or a mode that intercepts operators: through the operators of `operators.py`, registered with torch's
  dispatcher.
- torch.func's transforms: `_Attention` around the operators, since transforms do not use operators' derivatives. `grad`,
  `vjp`, `vmap`, `jacrev` and `functional_call` work, in any nesting with one derivative.

Forward-mode derivatives (`jvp`, `jacfwd`, dual tensors) and second derivatives need formulas that the kernels do not have.
They raise an error here: an operator would give tangents of zero without one.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from falloff.ops import operators
from falloff.ops.call import Call
from falloff.ops.checks import check_gradients, check_inputs
from falloff.ops.implementations import IMPLEMENTATIONS, choose


def call_fused(query: Tensor, key: Tensor, value: Tensor, call: Call, impl: str) -> tuple[Tensor, Tensor]:
    """The output and the log-sum-exp of a call, by the implementation `impl`; for "auto", by the first that can serve it.

    Raises:
        ValueError: for an implementation that cannot serve the call; for tensors with a tangent.
    """
    name = choose(impl, query, key, call)
    if torch._C._are_functorch_transforms_active():
        if torch.compiler.is_compiling():
            raise ValueError(
                "impl: got a fused implementation in a compiled torch.func transform, expected torch.func of a compiled "
                "function, or impl='reference'"
            )
        return _Attention.call(name, query, key, value, call)
    tensors = (query, key, value, *call.tensors)
    if forward_ad._current_level >= 0:
        _refuse_tangents(*(forward_ad.unpack_dual(tensor).tangent for tensor in tensors if tensor is not None))
    if not _are_plain(tensors):
        out, lse, _ = operators.fused_attention(query, key, value, name, *call.flatten())
        return out, lse
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _Attention.call(name, query, key, value, call)
    chosen = IMPLEMENTATIONS[name]
    if not chosen.CHECKS_INPUTS:
        check_inputs(query, key, value, call)
    with operators.without_autocast(query):
        return chosen.forward(query, key, value, call, None)


_TYPES = (Tensor, torch.nn.Parameter)
_plain_keys: dict[str, set[int]] = {}  # dispatch keys of plain tensors by device type; "" holds those of all types


def _are_plain(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether all have values and memory of their own, and no compiler or mode intercepts operators.

    A tensor's dispatch keys show whether torch's dispatcher would do anything before a kernel: for fake, batched and sparse
    tensors, lazily negated views, and zeros without memory.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    keys_of = torch._C._dispatch_keys
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _TYPES:
            return False
        if keys_of(tensor).raw_repr() not in _plain_keys[""]:
            device = tensor.device.type
            if device in _plain_keys:
                return False
            _learn_keys(device)
            return _are_plain(tensors)
    return True


def _learn_keys(device: str) -> None:
    found = {torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr()}
    with torch.inference_mode():
        found.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    _plain_keys[device] = found
    _plain_keys[""] = set().union(*_plain_keys.values())


_learn_keys("cpu")


def _refuse_tangents(*tangents: Tensor | None) -> None:
    if any(tangent is not None for tangent in tangents):
        raise ValueError(
            "impl: got a fused implementation, expected impl='reference' for forward-mode derivatives (O(N M) memory)"
        )


class _Attention(torch.autograd.Function):
    """Fused attention with its derivative. Autograd only sees tensors that are arguments, so a call is passed in parts."""

    generate_vmap_rule = True

    @staticmethod
    def call(impl: str, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        form_tensors, key_mask, document_ids, seed, *settings = call.flatten()
        tensors = (query, key, value, key_mask, document_ids, seed, *form_tensors)
        out, lse, _ = _Attention.apply(impl, settings, *tensors)  # type: ignore[no-untyped-call]
        return out, lse

    @staticmethod
    def forward(impl: str, settings: list[Any], *tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, key_mask, document_ids, seed, *form_tensors = tensors
        flat = (form_tensors, key_mask, document_ids, seed, *settings)
        if _are_plain(tensors):
            call = Call.unflatten(*flat)
            if not IMPLEMENTATIONS[impl].CHECKS_INPUTS:
                check_inputs(query, key, value, call)
            return operators.forward(query, key, value, impl, call)
        return operators.fused_attention(query, key, value, impl, *flat)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.impl, ctx.settings, *tensors = inputs
        ctx.save_for_backward(*tensors[:3], *output, *tensors[3:])
        ctx.mark_non_differentiable(output[2])
        if not torch._C._are_functorch_transforms_active():  # their vmap takes tensors alone
            ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        if grad_out is None:
            grad_out = torch.zeros_like(ctx.saved_tensors[3])
        needs = (*needed[:3], any(needed[6:]))
        query, key, value, *of_form = _Backward.apply(ctx.impl, ctx.settings, needs, grad_out, grad_lse, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        grads = (query, key, value, None, None, None, *of_form)
        return None, None, *(grad if need else None for grad, need in zip(grads, needed, strict=True))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, None, None]:
        _refuse_tangents(*tangents[2:])
        return None, None, None


class _Backward(torch.autograd.Function):
    """The backward of fused attention, which has no derivative of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(impl: str, settings: list[Any], needs: tuple[bool, ...], *tensors: Any) -> tuple[Tensor, ...]:
        grad_out, grad_lse, query, key, value, out, lse, lowered, key_mask, document_ids, seed, *form_tensors = tensors
        of_call = (form_tensors, key_mask, document_ids, seed, *settings)
        inputs = (grad_out, grad_lse, query, key, value, out, lse, lowered, needs, impl)
        if _are_plain(tensors):
            call = Call.unflatten(*of_call)
            if not IMPLEMENTATIONS[impl].CHECKS_INPUTS:
                check_inputs(query, key, value, call)
                check_gradients(grad_out, grad_lse, query, out, lse, needs)
            return tuple(operators.backward(*inputs, call))
        return tuple(operators.fused_attention_backward(*inputs, *of_call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.outputs = len(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        operators.refuse_second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
        _refuse_tangents(*tangents[3:])
        return (None,) * ctx.outputs
