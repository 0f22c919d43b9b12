"""The checks of what an implementation gets, before its kernels read and write raw memory. C++ has its own, check.cpp.

`falloff.attention` checks its arguments in the caller's terms (arguments.py). But anyone may call the registered operators
with any arguments, and a form may come from a user's scheme: after these checks, kernels stay within the tensors.
"""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from falloff.forms import Form
from falloff.offsets import is_position
from falloff.ops.call import Call, sum_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
MAX_HEAD_SIZE = 256


def refuse(argument: str, got: object, expected: str) -> NoReturn:
    """Raise the ValueError for an argument that does not fit."""
    raise ValueError(f"{argument}: got {got}, expected {expected}")


def check_inputs(query: Tensor, key: Tensor, value: Tensor, call: Call) -> None:
    """Check that query, key and value fit each other and the call.

    Raises:
        ValueError: naming the argument, what was got and what is expected.
    """
    for name, tensor in (("query", query), ("key", key)):
        if tensor.dim() != 4:
            refuse(name, f"shape {tuple(tensor.shape)}", "four dimensions (B, heads, length, D)")
    batch, heads, num_queries, head_size = query.shape
    _, groups, num_keys, _ = key.shape
    if query.dtype not in DTYPES:
        refuse("query", f"dtype {query.dtype}", "float32, bfloat16, float16 or float64")
    if not 1 <= head_size <= MAX_HEAD_SIZE:
        refuse("query", f"head size {head_size}", f"a head size D of 1 .. {MAX_HEAD_SIZE}")
    if groups == 0 or heads == 0 or heads % groups:
        refuse("key", f"{groups} heads", f"a number of heads that divides the {heads} heads of query")
    _check_tensor("query", query, query.shape, query.dtype, query.device)
    _check_tensor("key", key, (batch, groups, num_keys, head_size), query.dtype, query.device)
    _check_tensor("value", value, key.shape, query.dtype, query.device)
    if not is_position(call.query_start):
        refuse("query_start", call.query_start, "a position within 2^60")
    if call.window is not None and call.window < 1:
        refuse("window", call.window, "None or an int of at least 1")
    if not 0 <= call.dropout_p <= 1:
        refuse("dropout_p", call.dropout_p, "a probability from 0 to 1")
    if call.key_mask is not None:
        _check_tensor("key_mask", call.key_mask, (batch, num_keys), torch.bool, query.device)
    if call.document_ids is not None:
        if num_queries != num_keys:
            refuse("document_ids", f"{num_queries} queries and {num_keys} keys", "as many queries as keys")
        integers = call.document_ids.dtype if call.document_ids.dtype in INTEGERS else torch.int64
        _check_tensor("document_ids", call.document_ids, (batch, num_queries), integers, query.device)
    if call.seed is not None:
        _check_tensor("seed", call.seed, (), torch.int64, query.device)
    elif call.dropout_p > 0:
        refuse("seed", None, "an int64 tensor of shape () where dropout_p is above 0")
    if call.form is not None:
        _check_form(call.form, query, num_keys)


def check_gradients(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    out: Tensor,
    lse: Tensor,
    needs: Sequence[bool],
) -> None:
    """Check that the further arguments of the backward fit the inputs.

    Raises:
        ValueError: naming the argument, what was got and what is expected.
    """
    _check_tensor("grad_out", grad_out, query.shape, query.dtype, query.device)
    _check_tensor("out", out, query.shape, query.dtype, query.device)
    _check_tensor("lse", lse, query.shape[:3], sum_dtype(query), query.device)
    if grad_lse is not None:
        _check_tensor("grad_lse", grad_lse, query.shape[:3], sum_dtype(query), query.device)
    if len(needs) != 4:
        refuse("needs", f"{len(needs)} flags", "four: for query, key, value and the form")


def check_devices(query: Tensor, others: Sequence[Tensor | None]) -> None:
    """Check that all tensors are on one device. If one were on "meta", torch would compute shapes only, without an error."""
    for tensor in others:
        if tensor is not None and tensor.device != query.device:
            refuse("query", f"device {query.device} beside a tensor on {tensor.device}", "all tensors on one device")


def check_lowered(lowered: Tensor, query: Tensor, size: int) -> None:
    """Check that a lowered call has the size that the implementation writes. Any values are safe.

    Raises:
        ValueError: naming the argument, what was got and what is expected.
    """
    _check_tensor("lowered", lowered, (size,), torch.int32, query.device)


def _check_form(form: Form, query: Tensor, num_keys: int) -> None:
    batch, heads, num_queries, _ = query.shape
    if form.num_heads != heads:
        refuse(form.tensor_names[-1], f"{form.num_heads} heads", f"the {heads} heads of query")
    form.check_call(batch, num_queries, num_keys)
    for name, tensor in zip(form.tensor_names, form.tensors, strict=True):
        dtype = tensor.dtype if tensor.dtype in DTYPES else torch.float32
        _check_tensor(name, tensor, tensor.shape, dtype, query.device)


def _check_tensor(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    if tensor.shape != shape:
        refuse(name, f"shape {tuple(tensor.shape)}", f"shape {tuple(shape)}")
    if tensor.dtype != dtype:
        refuse(name, f"dtype {tensor.dtype}", str(dtype))
    if tensor.device != device:
        refuse(name, f"device {tensor.device}", f"query's device {device}")
    check_storage(name, tensor)


def check_storage(name: str, tensor: Tensor) -> None:
    """Check that a tensor's storage is as large as its shape and strides need.

    Needed before torch's own arithmetic too, which would read freed memory.
    """
    # FSDP frees a tensor's storage between uses: only the storage's size shows it.
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous():
        end = tensor.storage_offset() + tensor.numel()
    else:
        end = tensor.storage_offset() + 1
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            end += (size - 1) * stride
    there = tensor.untyped_storage().nbytes()
    if end * tensor.itemsize > there:
        refuse(name, f"a storage of {there} bytes", f"one of {end * tensor.itemsize} at least, which shape and strides need")
