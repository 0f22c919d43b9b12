"""`falloff.attention`: check the arguments, turn the bias into a form, call an implementation."""

import math
from functools import reduce
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from falloff.eager import is_eager
from falloff.forms import Factored, Form, Potential
from falloff.offsets import check_query_start, first_query_position
from falloff.ops import reference
from falloff.ops.arguments import (
    as_taken,
    autocasts,
    check_memory,
    check_settings,
    check_sink,
    check_tensors,
    checked_document_ids,
    checked_key_mask,
    refuse_other_words,
)
from falloff.ops.call import Call, sum_dtype
from falloff.ops.checks import refuse
from falloff.ops.dropout import new_seed
from falloff.ops.fused import call_fused
from falloff.ops.mask import text_start
from falloff.ops.operators import ONNX
from falloff.schemes import Scheme
from falloff.shapes import Bool, Float, Integer


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    sink: Tensor | None = None,
    return_lse: Literal[False] = False,
    impl: str = "auto",
) -> Tensor: ...
@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: nn.Module | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    dropout_p: float = 0.0,
    sink: Tensor | None = None,
    return_lse: Literal[True],
    impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def attention(
    query: Float[Tensor, "B H N D"],
    key: Float[Tensor, "B G M D"],
    value: Float[Tensor, "B G M V"],
    bias: nn.Module | Form | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias_scale: float = 1.0,
    query_start: int | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "#B M"] | Integer[Tensor, "#B M"] | None = None,
    document_ids: Integer[Tensor, "#B N"] | None = None,
    dropout_p: float = 0.0,
    sink: Float[Tensor, " H"] | Float[Tensor, "B H N"] | None = None,
    return_lse: bool = False,
    impl: str = "auto",
    **other_words: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention with a relative positional bias, in memory linear in the length, with gradients of the bias.

    weights = softmax(scale * query key^T + bias_scale * bias + mask); the result is weights @ value.

    Args:
        query: (B, H, N, D), D at most 256.
        key: (B, G, M, D), where G divides H: query heads share key heads in order, H / G of them each.
        value: (B, G, M, D); or (B, G, M, V) with another size V of at most 256, which costs a copy.
        bias: a scheme (`T5Bias(...)`), a form (`Strip`, `Band`, `Warp`, `Factored`, `Potential`, `Sum`) or None. A scheme is
            called as a module, so it may be wrapped, or be any module with the call of `Scheme.forward`.
        causal: whether keys in the future of a query are hidden.
        scale: factor of the scores; 1 / sqrt(D) by default. T5 takes 1.
        bias_scale: factor of the bias; D ** -0.5 if the bias is divided by sqrt(D) too (KERPLE's Eq. 1, Falcon).
        query_start: position of the first query, counted from the first key; M - N by default, so that one query against
            a cache of M keys is the last row of the square case.
        window: keys more than window - 1 in the past are hidden; at least 1.
        key_mask: (B, M) or (1, M), True where a key may be attended to: padding on either side. Integers 0 and 1 are taken
            too.
        document_ids: (B, N) or (1, N) integers for packed documents: attention only within one. Needs N = M, and query_start
            None or 0.
        dropout_p: probability with which a weight is dropped; the seed comes from torch's generator. For training: pass 0
            when evaluating.
        sink: (H,) or (B, H, N), a score that takes its share of each row's softmax and has no value (GPT-OSS, Inkling-2): as
            of one more key, with a value of zeros. The scale does not multiply it, nor does dropout drop it.
        return_lse: whether to return the log-sum-exp of each row too, its sink included. It has a gradient.
        impl: "auto" for the fastest implementation that can serve the call, or a name: "reference" (the definition, O(N M)
            memory), "blockwise" (plain torch, O(N) memory), "cpu" (C++ kernels, float32 and bfloat16, O(N) memory) or
            "triton" (kernels for GPUs, float32, bfloat16 and float16, O(N) memory; TF32 only if
            `torch.set_float32_matmul_precision` allows it).

    Returns:
        (B, H, N, V) in query's dtype; with `return_lse` also (B, H, N) in float32 (float64 for float64). If a row may attend
        to nothing, its output and gradients are zero and its log-sum-exp is -inf, or that of its sink.

    Keys and values that `key_mask` hides may be NaN or infinite: they affect nothing, and their gradients are zero. Keys and
    values hidden by `causal`, `window` or `document_ids` alone must be finite, as in PyTorch's attention: they get a weight
    of 0, and 0 * NaN is NaN for some rows of that batch entry and key head. A row that sees a NaN is NaN.

    If padding or packed documents shift the start of a text, a bias that is not Toeplitz (FIRE) counts query positions from
    the first key of that text. So a padded or packed batch equals its texts run one by one.

    Keys may be passed in parts, whose outputs are merged by their log-sum-exps. For the part that begins at key s, count
    query_start from s; it may lie beyond the part's keys. For a bias that is not Toeplitz, pass
    `bias.form(N, M_s, query_start - s, text_start=-s)` in place of the scheme, so that it knows where the text begins.

    Raises:
        ValueError: for an argument that does not fit, naming it, what was got and what is expected, before anything runs;
            for an implementation asked for by name that cannot serve the call.

    >>> from falloff import ALiBi, attention
    >>> query, key, value = (torch.randn(2, 8, 5, 16) for _ in range(3))
    >>> attention(query, key, value, ALiBi(8), causal=True).shape
    torch.Size([2, 8, 5, 16])
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        refuse("query", "one of torch.jit.trace, where sizes are tensors", f"torch.export.export; for ONNX {ONNX}")
    if other_words:
        refuse_other_words(other_words)
    check_tensors(query, key, value)
    check_settings(causal, scale, bias_scale, window, dropout_p, return_lse, impl)
    check_query_start(query_start)
    key_mask = checked_key_mask(query, key, key_mask)
    document_ids = checked_document_ids(query, key, document_ids, query_start)
    check_sink(query, sink)
    out, lse = attend(
        query,
        key,
        value,
        bias,
        causal=causal,
        scale=scale,
        bias_scale=bias_scale,
        query_start=query_start,
        window=window,
        key_mask=key_mask,
        document_ids=document_ids,
        dropout_p=dropout_p,
        seed=None,
        sink=sink,
        impl=impl,
    )
    return (out, lse) if return_lse else out


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: object,
    *,
    causal: bool,
    scale: float | None,
    bias_scale: float,
    query_start: int | None,
    window: int | None,
    key_mask: Tensor | None,
    document_ids: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    sink: Tensor | None,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of `attention`, whose arguments have been checked. Without a seed, dropout draws one."""
    query, key, value = autocasted(query, key, value)
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
        seed=(new_seed(query.device) if seed is None else seed) if dropout_p > 0 else None,
    )
    if impl == "reference":
        with torch.autocast(query.device.type, enabled=False):
            return reference.attention(query, key, value, dense, call, _for_rows(sink))
    out, lse = _fused(query, key, value, call, impl)
    return (out, lse) if sink is None else with_sink(out, lse, sink)


def _for_rows(sink: Tensor | None) -> Tensor | None:
    """A sink (H,) as (H, 1), which broadcasts to (B, H, N)."""
    return sink if sink is None or sink.dim() == 3 else sink[:, None]


def with_sink(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of rows with a sink, from those without: the sink takes its share of the weights."""
    check_memory(sink=sink)
    sink = _for_rows(sink).to(lse.dtype)  # type: ignore[union-attr]
    nothing = lse == -torch.inf
    share = torch.sigmoid((lse - sink).masked_fill(nothing, -torch.inf))  # not -inf - -inf
    out = (out * share[..., None]).to(out.dtype)
    nothing = nothing & (sink == -torch.inf)
    return out, torch.logaddexp(lse.masked_fill(nothing, 0.0), sink).masked_fill(nothing, -torch.inf)


def _fused(query: Tensor, key: Tensor, value: Tensor, call: Call, impl: str) -> tuple[Tensor, Tensor]:
    """Call a kernel, which takes one head size for query, key and value: the shorter ones are padded with zeros."""
    head_size, value_size = query.shape[3], value.shape[3]
    if head_size == value_size:
        return call_fused(query, key, value, call, impl)
    check_memory(query=query, key=key, value=value)
    query, key, value = (pad(t, (0, max(head_size, value_size) - t.shape[3])) for t in (query, key, value))
    out, lse = call_fused(query, key, value, call, impl)
    return out[..., :value_size], lse


def autocasted(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, under autocast in its dtype, as in PyTorch's own attention."""
    if not autocasts(query):
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
    check_bias(bias)
    batch, heads, num_queries, _ = query.shape
    num_keys = key.shape[2]
    form: Form | None = None
    matrix: Tensor | None = None
    if isinstance(bias, Form):
        if bias.device != query.device:
            refuse("bias", f"device {bias.device}", f"query's device {query.device}")
        bias.check_call(batch, num_queries, num_keys)
        form = _hiding(bias.settled() if is_eager() else bias, key_mask)
        if dense:  # in the precision of the scores, as in the tiles of a kernel
            matrix = form.to(sum_dtype(query)).dense(num_queries, num_keys, query_start)
    else:
        # A module that does not declare itself Toeplitz, such as a wrapper, gets the starts of the texts.
        start = None if getattr(bias, "toeplitz", False) else text_start(num_queries, key_mask, document_ids)
        assert isinstance(bias, nn.Module)
        built = built_by(bias, query, num_queries, num_keys, query_start, start, dense)
        form, matrix = (_hiding(built, key_mask), None) if isinstance(built, Form) else (None, built)
    bias_heads = form.num_heads if form is not None else matrix.shape[-3] if matrix is not None else heads
    if bias_heads != heads:
        refuse("bias", f"{bias_heads} heads", f"the {heads} heads of query{as_taken(query)}")
    if bias_scale != 1:
        if form is not None:
            _check_memory(form)
            # Converted before the product, which could overflow in half precision, and is too coarse in float32 for float64.
            dtypes = (tensor.dtype for tensor in form.tensors)
            form = form.to(reduce(torch.promote_types, dtypes, sum_dtype(query))).scaled(bias_scale)
        matrix = None if matrix is None else matrix * bias_scale
    return form, matrix


def check_bias(bias: object) -> None:
    """Raise ValueError for what is neither a module nor a form."""
    if isinstance(bias, type) or not isinstance(bias, nn.Module | Form):
        got = bias.__name__ + ", a class" if isinstance(bias, type) else type(bias).__name__
        expected = "a scheme such as T5Bias(num_heads), a form (Strip, Band, Warp, Factored, Potential, Sum), or None"
        if isinstance(bias, Tensor):
            got = f"a tensor of shape {tuple(bias.shape)}"
            expected += ": nothing takes (H, N, M). A bias by offset is a Strip; key_mask and document_ids hide keys"
        refuse("bias", got, expected)


def built_by(
    scheme: nn.Module,
    query: Tensor,
    num_queries: int,
    num_keys: int,
    query_start: int | None,
    start: Tensor | None,
    dense: bool,
) -> Form | Tensor:
    """The form of a scheme for the batch of query, or its dense bias; `start` is the `text_start` of `Scheme.form`."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    more = {"text_start": start, "device": query.device, "dtype": dtype} | ({"dense": True} if dense else {})
    built = _call(scheme, num_queries, num_keys, query_start, more)
    _check_built(built, scheme, query, num_queries, num_keys, dense)
    return built


def _hiding(form: Form, key_mask: Tensor | None) -> Form:
    """The form without what belongs to hidden keys, which may be NaN."""
    if key_mask is None or not any(isinstance(part, Factored | Potential) for part in form.parts):
        return form
    _check_memory(form)
    return form.hiding(key_mask)


def _check_memory(form: Form) -> None:
    check_memory(**dict(zip(form.tensor_names, form.tensors, strict=True)))


def _call(scheme: nn.Module, num_queries: int, num_keys: int, query_start: int | None, more: dict[str, Any]) -> Any:
    """Call a scheme or its wrapper as a module, so that hooks run, such as those that fetch its weights."""
    try:
        return scheme(num_queries, num_keys, query_start, **more)
    except TypeError as error:
        if any(isinstance(part, Scheme) for part in scheme.modules()):
            raise
        message = f"bias: got {type(scheme).__name__}, expected a scheme, or a module that is called as Scheme.forward is"
        raise ValueError(message) from error


def _check_built(built: object, scheme: nn.Module, query: Tensor, num_queries: int, num_keys: int, dense: bool) -> None:
    """Check the form or dense bias of a scheme, which may be a user's own: kernels do not check again what they read."""
    batch = query.shape[0]
    name = f"{type(scheme).__name__}.{'dense' if dense else 'form'}"
    if not isinstance(built, Tensor if dense else Form):
        refuse("bias", f"{type(built).__name__} from {name}", "a tensor" if dense else "a form, such as a Strip")
    if isinstance(built, Form):
        built.check_call(batch, num_queries, num_keys)
    elif isinstance(built, Tensor):
        fits = built.dim() in (3, 4) and built.shape[-2] == num_queries and built.shape[-1] == num_keys
        if not fits or (built.dim() == 4 and built.shape[0] != batch):
            refuse("bias", f"{tuple(built.shape)} from {name}", f"(H, {num_queries}, {num_keys}), or ({batch}, H, ...)")
    if isinstance(built, Tensor | Form) and built.device != query.device:
        refuse("bias", f"device {built.device} from {name}", f"query's device {query.device}")
