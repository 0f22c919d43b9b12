"""The bias and the tensors of a call, as ranks tell one another of them."""

import torch
from torch import Tensor, nn

from falloff.distributed.forms import axes_of
from falloff.eager import is_eager
from falloff.forms import Form, Warp
from falloff.ops.api import check_bias
from falloff.ops.checks import refuse


def facts_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    sink: Tensor | None,
) -> dict[str, object]:
    """What all ranks must agree on: everything of these but values, this rank's lengths and which GPU they are on."""
    batch, heads, _, size = query.shape
    return {
        "query": f"{query.dtype} (B = {batch}, H = {heads}, n, D = {size})" + _graph(query),
        "key": f"(B, G = {key.shape[1]}, m, D)" + _graph(key),
        "value": f"(B, G, m, V = {value.shape[3]})" + _graph(value),
        "bias": _described(bias),
        "key_mask": None if key_mask is None else "a mask",
        "document_ids": None if document_ids is None else str(document_ids.dtype),
        "sink": None if sink is None else f"{sink.dtype} of {sink.dim()} dimensions" + _graph(sink),
    }


def checked_bias(bias: object, query: Tensor, key: Tensor) -> nn.Module | Form | None:
    """The bias, after what `falloff.attention` checks of it, against this rank's rows and keys."""
    if bias is None:
        return None
    check_bias(bias)
    if isinstance(bias, Form):
        if bias.device != query.device:
            refuse("bias", f"device {bias.device}", f"query's device {query.device}")
        bias.check_call(query.shape[0], query.shape[2], key.shape[2])
        check_heads(bias, query)
        return bias.settled() if is_eager() else bias
    assert isinstance(bias, nn.Module)
    return bias


def check_heads(form: Form, query: Tensor) -> None:
    """Raise ValueError for a form of another number of heads."""
    if form.num_heads != query.shape[1]:
        refuse("bias", f"{form.num_heads} heads", f"the {query.shape[1]} heads of query (B, H, n, D)")


def _graph(tensor: Tensor) -> str:
    """Whether a gradient will be asked for, on which the exchanges of the backward depend."""
    return ", with a gradient" if tensor.requires_grad and torch.is_grad_enabled() else ""


def _described(bias: nn.Module | Form | None) -> str | None:
    """What ranks must agree on in a bias: all but values and this rank's lengths."""
    if isinstance(bias, nn.Module):
        trained = any(map(_graph, bias.parameters()))
        heads = getattr(bias, "num_heads", None)  # of a wrapped scheme they may not be known
        of_heads = "" if heads is None else f" of {heads} heads"
        return type(bias).__name__ + of_heads + (", with a gradient" if trained else "")
    if bias is None:
        return None
    names = [
        f"{name} {tensor.dtype} {tuple(size if dim != axes.length else 'n' for dim, size in enumerate(tensor.shape))}"
        + _graph(tensor)
        for name, tensor, axes in zip(bias.tensor_names, bias.tensors, axes_of(bias), strict=True)
    ]
    numbers = [number for part in bias.parts if not isinstance(part, Warp) for number in part.numbers]
    return f"{bias.kind} of {'; '.join(names)}; {numbers}"


def rises(bias: object) -> bool:
    """Whether each warp of a form rises on this rank."""
    parts = bias.parts if isinstance(bias, Form) else ()
    return all(part.rising for part in parts if isinstance(part, Warp))
