"""`falloff.attention`: check what was asked, turn the bias into a form, and hand over to an implementation."""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from falloff.forms import Form, form_from_tensors
from falloff.offsets import check_query_start, first_query_position, is_position
from falloff.ops import operators, reference
from falloff.ops.call import Call, sum_dtype
from falloff.ops.dropout import new_seed
from falloff.ops.masks import text_start
from falloff.schemes import Scheme
from falloff.shapes import Bool, Float, Int

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MAX_HEAD_SIZE = 256


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Scheme | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[False] = False,
    impl: str = "auto",
) -> Tensor: ...
@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Scheme | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[True],
    impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def attention(
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B G M D"],
    value: Float[Tensor, "B G M D"],
    bias: Scheme | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "B M"] | None = None,
    document_ids: Int[Tensor, "B N"] | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention with a relative positional bias, in memory linear in the length, with gradients of the bias.

    weights = softmax(scale * query key^T + bias_scale * bias + mask); the result is weights @ value.

    Args:
        query: (B, H, N, D), D at most 256.
        key, value: (B, G, M, D), where G divides H: query heads share key heads in order, H / G of them each.
        bias: a scheme (`T5Bias(...)`), a form (`Strip`, `Band`, `Warp`), or None.
        causal: whether keys in the future of a query are hidden.
        scale: factor of the scores; 1 / sqrt(D) by default. T5 takes 1.
        bias_scale: factor of the bias; D ** -0.5 for the notation that divides the bias by sqrt(D) too (KERPLE's Eq. 1,
            Falcon).
        query_start: position of the first query, counted from the first key; M - N by default, so that one query against
            a cache of M keys is the last row of the square case.
        window: keys more than window - 1 in the past are hidden; at least 1.
        key_mask: (B, M) bool, True where a key may be attended to: padding on either side.
        document_ids: (B, N) integers for packed documents: attention only within one. Needs N = M, query_start
            None or 0.
        dropout_p: probability with which a weight is dropped; the seed comes from torch's generator. For training: pass 0
            when evaluating.
        return_lse: whether to return the log-sum-exp of each row too. It has a gradient.
        impl: "auto" for the fastest that serves the call; or by name "reference" (the definition, O(N M) memory) or
            "blockwise" (plain torch, O(N) memory), "cpu" (C++ kernels, float32 and bfloat16, O(N) memory), "triton" (kernels
            for GPUs, float32, bfloat16 and float16, O(N) memory; float32 products by TF32 only where
            `torch.set_float32_matmul_precision` allows it).

    Returns:
        (B, H, N, D) in query's dtype; with `return_lse` also (B, H, N) in float32 (float64 for float64). A row that may
        attend to nothing is zero, its log-sum-exp -inf and its gradients zero.

    Where padding or packed documents shift the start of a text, a bias that is not Toeplitz (FIRE) counts query positions
    from the first key of that text: a padded or packed batch equals its texts run one by one.

    Raises:
        ValueError: for what does not fit, naming the argument, what was got and what is expected, before anything runs;
            and for an implementation asked for by name that cannot serve the call.

    >>> from falloff import ALiBi, attention
    >>> query, key, value = (torch.randn(2, 8, 5, 16) for _ in range(3))
    >>> attention(query, key, value, ALiBi(8), causal=True).shape
    torch.Size([2, 8, 5, 16])
    """
    _check_tensors(query, key, value)
    _check_settings(causal, scale, bias_scale, window, dropout_p, return_lse, impl)
    check_query_start(query_start)
    _check_masks(query, key, key_mask, document_ids, query_start)
    query, key, value = _autocast(query, key, value)
    form, dense = _form_of(bias, query, key, query_start, key_mask, document_ids, bias_scale, impl == "reference")
    call = Call(
        form=form,
        causal=causal,
        scale=1 / math.sqrt(query.shape[3]) if scale is None else scale,
        query_start=first_query_position(query.shape[2], key.shape[2], query_start),
        window=window,
        key_mask=key_mask,
        document_ids=document_ids,
        dropout_p=dropout_p,
        seed=new_seed(query.device) if dropout_p > 0 else None,
    )
    if impl == "reference":
        with torch.autocast(query.device.type, enabled=False):
            out, lse = reference.attention(query, key, value, dense, call)
    else:
        out, lse = operators.call_fused(query, key, value, call, impl)
    return (out, lse) if return_lse else out


def _refuse(argument: str, got: object, expected: str) -> None:
    raise ValueError(f"{argument}: got {got}, expected {expected}")


def _check_tensors(query: object, key: object, value: object) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            _refuse(name, type(tensor).__name__, "a tensor of shape (B, heads, length, D)")
            return
        if tensor.dim() != 4:
            _refuse(name, f"shape {tuple(tensor.shape)}", "four dimensions (B, heads, length, D)")
        if tensor.dtype not in _DTYPES:
            _refuse(name, f"dtype {tensor.dtype}", "float32, bfloat16, float16 or float64")
    assert isinstance(query, Tensor)
    assert isinstance(key, Tensor)
    assert isinstance(value, Tensor)
    batch, heads, _, head_size = query.shape
    if not 1 <= head_size <= _MAX_HEAD_SIZE:
        _refuse("query", f"head size {head_size}", f"a head size D of 1 .. {_MAX_HEAD_SIZE}")
    groups = key.shape[1]
    if key.shape[0] != batch or key.shape[3] != head_size:
        _refuse("key", f"shape {tuple(key.shape)}", f"(B, G, M, D) with B = {batch} and D = {head_size} as in query")
    if heads == 0:
        _refuse("query", "0 heads", "at least one")
    if groups == 0 or heads % groups:
        _refuse("key", f"{groups} heads", f"a number of heads that divides the {heads} heads of query")
    if value.shape != key.shape:
        _refuse("value", f"shape {tuple(value.shape)}", f"the shape of key, {tuple(key.shape)}")
    if query.device.type == "meta":
        _refuse("query", "device meta", "a device that computes")
    for name, tensor in (("key", key), ("value", value)):
        if tensor.device != query.device:
            _refuse(name, f"device {tensor.device}", f"query's device {query.device}")
        if tensor.dtype != query.dtype and not _autocasts(query):
            _refuse(name, f"dtype {tensor.dtype}", f"query's dtype {query.dtype}")


def _check_settings(
    causal: object,
    scale: object,
    bias_scale: object,
    window: object,
    dropout_p: object,
    return_lse: object,
    impl: object,
) -> None:
    for name, flag in (("causal", causal), ("return_lse", return_lse)):
        if not isinstance(flag, bool):
            _refuse(name, repr(flag), "True or False")
    for name, factor in (("scale", 1.0 if scale is None else scale), ("bias_scale", bias_scale)):
        number = isinstance(factor, int | float | torch.SymFloat) and not isinstance(factor, bool)
        if not number or not -math.inf < factor < math.inf:  # type: ignore[operator]
            _refuse(name, repr(factor), "a finite number" + (" or None" if name == "scale" else ""))
    if window is not None and (not is_position(window) or window < 1):  # type: ignore[operator]
        _refuse("window", repr(window), "None or an int of at least 1")
    if not isinstance(dropout_p, int | float) or isinstance(dropout_p, bool) or not 0 <= dropout_p <= 1:
        _refuse("dropout_p", repr(dropout_p), "a probability from 0 to 1")
    names = ("auto", "reference", *operators.IMPLEMENTATIONS)
    if impl not in names:
        _refuse("impl", repr(impl), "one of " + ", ".join(map(repr, names)))


def _check_masks(query: Tensor, key: Tensor, key_mask: object, document_ids: object, query_start: int | None) -> None:
    batch, num_queries, num_keys = query.shape[0], query.shape[2], key.shape[2]
    if key_mask is not None:
        expected = f"None or a bool tensor of shape ({batch}, {num_keys}) on {query.device}"
        if not isinstance(key_mask, Tensor):
            _refuse("key_mask", type(key_mask).__name__, expected)
            return
        if key_mask.dtype != torch.bool or key_mask.shape != (batch, num_keys) or key_mask.device != query.device:
            _refuse("key_mask", f"{key_mask.dtype} {tuple(key_mask.shape)} on {key_mask.device}", expected)
    if document_ids is not None:
        expected = f"None or an integer tensor of shape ({batch}, {num_queries}) on {query.device}"
        if not isinstance(document_ids, Tensor):
            _refuse("document_ids", type(document_ids).__name__, expected)
            return
        dtype = document_ids.dtype
        integers = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        if not integers or document_ids.shape != (batch, num_queries) or document_ids.device != query.device:
            _refuse("document_ids", f"{document_ids.dtype} {tuple(document_ids.shape)} on {document_ids.device}", expected)
        if num_queries != num_keys:
            _refuse("document_ids", f"{num_queries} queries and {num_keys} keys", "as many queries as keys")
        if query_start is not None and query_start != 0:
            _refuse("query_start", query_start, "None or 0 where document_ids are given")


def _autocasts(query: Tensor) -> bool:
    return torch.is_autocast_enabled(query.device.type) and query.dtype != torch.float64


def _autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast, query, key and value in autocast's dtype, as PyTorch's own attention takes them."""
    if not _autocasts(query):
        return query, key, value
    dtype = torch.get_autocast_dtype(query.device.type)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _form_of(
    bias: object,
    query: Tensor,
    key: Tensor,
    query_start: int | None,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    bias_scale: float,
    dense: bool,
) -> tuple[Form | None, Tensor | None]:
    """The bias as a form, or as a dense tensor from its definition."""
    if bias is None:
        return None, None
    if isinstance(bias, type) or not isinstance(bias, Scheme | Form):
        got = bias.__name__ + ", a class" if isinstance(bias, type) else type(bias).__name__
        _refuse("bias", got, "a scheme such as T5Bias(num_heads), a form (Strip, Band, Warp), or None")
        return None, None
    batch, heads, num_queries, _ = query.shape
    num_keys = key.shape[2]
    # A scheme without parameters follows the query's device.
    tensors = bias.tensors if isinstance(bias, Form) else bias.parameters()
    device = next((tensor.device for tensor in tensors), query.device)
    if device != query.device:
        _refuse("bias", f"device {device}", f"query's device {query.device}")
    form: Form | None = None
    matrix: Tensor | None = None
    if isinstance(bias, Form):
        bias.check_call(batch, num_queries, num_keys)
        form = bias
        if dense:  # computed in the precision of the scores, as the tiles of a kernel are
            raised = [tensor.to(sum_dtype(query)) for tensor in bias.tensors]
            matrix = form_from_tensors(bias.kind, raised, getattr(bias, "start", 0)).dense(
                num_queries, num_keys, query_start
            )
    else:
        dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        start = None if bias.toeplitz else text_start(num_queries, key_mask, document_ids)
        build = bias.dense if dense else bias.form
        built = build(num_queries, num_keys, query_start, text_start=start, device=device, dtype=dtype)
        form, matrix = (built, None) if isinstance(built, Form) else (None, built)
    bias_heads = form.num_heads if form is not None else matrix.shape[-3] if matrix is not None else heads
    if bias_heads != heads:
        _refuse("bias", f"{bias_heads} heads", f"the {heads} heads of query")
    if bias_scale != 1:
        form = None if form is None else form.scaled(bias_scale)
        matrix = None if matrix is None else matrix * bias_scale
    return form, matrix
