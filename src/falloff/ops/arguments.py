"""The checks of the arguments of `falloff.attention`. Errors name the argument, what was got and what is expected.

A message is built only if a check fails: torch.compile makes a length in a message a constant, and would compile again for
each length.
"""

import math
from typing import NoReturn

import torch
from torch import Tensor

from falloff.offsets import is_position
from falloff.ops.checks import DTYPES, INTEGERS, MAX_HEAD_SIZE, check_storage, refuse
from falloff.ops.implementations import IMPLEMENTATIONS

OTHER_WORDS = {
    "attn_mask": "key_mask for padding, causal, window or document_ids; a bias goes into bias, as a scheme or form",
    "mask": "key_mask for padding, causal, window or document_ids",
    "key_padding_mask": "key_mask, which is True where a key may be attended to",
    "attn_bias": "bias, as a scheme or form",
    "position_bias": "bias, as a scheme or form",
    "alibi_slopes": "bias=ALiBi(num_heads)",
    "is_causal": "causal",
    "dropout": "dropout_p",
    "softmax_scale": "scale",
    "window_size": "window",
    "enable_gqa": "nothing: key and value may have fewer heads than query",
    "return_softmax_lse": "return_lse",
    "implementation": "impl",
    "backend": "impl",
}
"""Arguments of other attention functions, and falloff's name for each."""
_NUMBER = int | float | torch.SymFloat
_IMPLS = ("auto", "reference", *IMPLEMENTATIONS)


def refuse_other_words(arguments: dict[str, object]) -> NoReturn:
    """Raise Python's own error for an unknown argument of `attention`, with falloff's name for it if there is one."""
    name = next((name for name in arguments if name in OTHER_WORDS), next(iter(arguments)))
    hint = f"; falloff's word is {OTHER_WORDS[name]}" if name in OTHER_WORDS else ""
    raise TypeError(f"attention() got an unexpected keyword argument {name!r}{hint}")


def check_tensors(query: object, key: object, value: object) -> None:
    """Raise ValueError unless these are three tensors whose shapes, dtypes and devices fit."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            refuse(name, type(tensor).__name__, "a tensor of shape (B, heads, length, D)")
        if tensor.is_nested:
            refuse(name, "a nested tensor", "a padded one with key_mask, or texts packed into one with document_ids")
        if tensor.dim() != 4:
            refuse(name, f"shape {tuple(tensor.shape)}", "four dimensions (B, heads, length, D)")
        if tensor.dtype not in DTYPES:
            refuse(name, f"dtype {tensor.dtype}", "float32, bfloat16, float16 or float64")
    assert isinstance(query, Tensor)
    assert isinstance(key, Tensor)
    assert isinstance(value, Tensor)
    batch, heads, _, head_size = query.shape
    key_batch, groups, num_keys, key_size = key.shape
    value_batch, value_groups, num_values, value_size = value.shape
    if not 1 <= head_size <= MAX_HEAD_SIZE:
        refuse("query", f"head size {head_size}", f"a head size D of 1 .. {MAX_HEAD_SIZE}")
    if key_batch != batch or key_size != head_size:
        refuse("key", f"shape {tuple(key.shape)}", f"(B, G, M, D) with B = {batch} and D = {head_size} as in query")
    if heads == 0:
        refuse("query", "0 heads", "at least one")
    if groups == 0 or heads % groups:
        refuse("key", f"{groups} heads", f"a number of heads that divides the {heads} heads of query{as_taken(query)}")
    if value_batch != batch or value_groups != groups or num_values != num_keys:
        refuse("value", f"shape {tuple(value.shape)}", f"(B, G, M, any size) as the shape of key, {tuple(key.shape)}")
    if not 1 <= value_size <= MAX_HEAD_SIZE:
        refuse("value", f"head size {value_size}", f"a size of 1 .. {MAX_HEAD_SIZE}")
    if query.is_meta:
        refuse("query", "device meta", "a device that computes")
    device, dtype = query.device, query.dtype
    for name, tensor in (("key", key), ("value", value)):
        if tensor.device != device:
            refuse(name, f"device {tensor.device}", f"query's device {device}")
        if tensor.dtype != dtype and not autocasts(query):
            refuse(name, f"dtype {tensor.dtype}", f"query's dtype {dtype}")


def as_taken(query: Tensor) -> str:
    """How the shape of query was read, as a hint for a caller who has (B, N, H, D)."""
    return f" (a query of shape {tuple(query.shape)} is taken as (B, H, N, D); tensor.transpose(1, 2) turns (B, N, H, D) so)"


def check_settings(
    causal: object,
    scale: object,
    bias_scale: object,
    window: object,
    dropout_p: object,
    return_lse: object,
    impl: object,
) -> None:
    """Raise ValueError for a setting of a wrong type or out of range."""
    for name, flag in (("causal", causal), ("return_lse", return_lse)):
        if not isinstance(flag, bool):
            refuse(name, repr(flag), "True or False")
    for name, factor in (("scale", 1.0 if scale is None else scale), ("bias_scale", bias_scale)):
        number = isinstance(factor, _NUMBER) and not isinstance(factor, bool)
        if not number or not -math.inf < factor < math.inf:  # type: ignore[operator]
            refuse(name, repr(factor), "a finite number" + (" or None" if name == "scale" else ""))
    if window is not None and (not is_position(window) or window < 1):  # type: ignore[operator]
        refuse("window", repr(window), "None or an int of at least 1")
    if not isinstance(dropout_p, _NUMBER) or isinstance(dropout_p, bool) or not 0 <= dropout_p <= 1:
        refuse("dropout_p", repr(dropout_p), "a probability from 0 to 1")
    if impl not in _IMPLS:
        refuse("impl", repr(impl), "one of " + ", ".join(map(repr, _IMPLS)))


def checked_key_mask(query: Tensor, key: Tensor, mask: object) -> Tensor | None:
    """The key mask as bool (B, M), from bool or integers 0 and 1, (B, M) or (1, M)."""
    if mask is None:
        return None
    batch, num_keys = key.shape[0], key.shape[2]

    def expected() -> str:
        return f"None or a bool tensor of shape ({batch}, {num_keys}) on {query.device}"

    if not isinstance(mask, Tensor):
        refuse("key_mask", type(mask).__name__, expected())
    if mask.dtype.is_floating_point or mask.dtype.is_complex:
        # Ambiguous: it may hold 1 and 0, or 0 and -inf to add to the scores.
        refuse("key_mask", f"{mask.dtype} {tuple(mask.shape)} on {mask.device}", expected() + ": mask.bool(), or mask == 0")
    if mask.dim() != 2 or mask.shape[0] not in (1, batch) or mask.shape[1] != num_keys or mask.device != query.device:
        refuse("key_mask", f"{mask.dtype} {tuple(mask.shape)} on {mask.device}", expected())
    if mask.dtype != torch.bool:
        if torch._C._are_functorch_transforms_active():  # values cannot be read there
            refuse("key_mask", f"{mask.dtype} under torch.func", expected() + ": mask.bool()")
        check_memory(key_mask=mask)
        certain = ((mask == 0) | (mask == 1)).all()
        if mask.device.type != "cpu" or not _is_plain(mask):  # do not wait for a device; other tensors have no values
            torch._assert_async(certain, "key_mask: got integers, expected only 0 and 1")
        elif not certain:
            other = mask[(mask != 0) & (mask != 1)][0].item()
            refuse("key_mask", f"{mask.dtype} with {other}", "0 and 1 alone, or a bool tensor: mask.bool(), or mask == 0")
        mask = mask != 0
    return mask.expand(batch, -1)


def checked_document_ids(query: Tensor, key: Tensor, ids: object, query_start: int | None) -> Tensor | None:
    """The document ids as integers (B, N), from (B, N) or (1, N)."""
    if ids is None:
        return None
    batch, num_queries, num_keys = query.shape[0], query.shape[2], key.shape[2]

    def expected() -> str:
        return f"None or an integer tensor of shape ({batch}, {num_queries}) on {query.device}"

    if not isinstance(ids, Tensor):
        refuse("document_ids", type(ids).__name__, expected())
    fits = ids.dim() == 2 and ids.shape[0] in (1, batch) and ids.shape[1] == num_queries
    if ids.dtype not in INTEGERS or not fits or ids.device != query.device:
        refuse("document_ids", f"{ids.dtype} {tuple(ids.shape)} on {ids.device}", expected())
    if num_queries != num_keys:
        refuse("document_ids", f"{num_queries} queries and {num_keys} keys", "as many queries as keys")
    if query_start is not None and query_start != 0:
        refuse("query_start", query_start, "None or 0 where document_ids are given")
    return ids.expand(batch, -1)


def check_sink(query: Tensor, sink: object) -> None:
    """Raise ValueError unless this is None or a sink for the heads or rows of query."""
    if sink is None:
        return
    batch, heads, num_queries, _ = query.shape
    fits = isinstance(sink, Tensor) and sink.shape in ((heads,), (batch, heads, num_queries)) and sink.is_floating_point()
    if not fits or sink.device != query.device:  # type: ignore[attr-defined]
        # The message is built only on failure: torch.compile makes a length in a message a constant.
        shown = f"{sink.dtype} {tuple(sink.shape)} on {sink.device}" if isinstance(sink, Tensor) else type(sink).__name__
        expected = (
            f"None or a floating point tensor of shape ({heads},) or ({batch}, {heads}, {num_queries}) on {query.device}"
        )
        refuse("sink", shown, expected)


def check_memory(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor with too little memory, if torch computes with it before an operator checks it."""
    for name, tensor in tensors.items():
        if _is_plain(tensor):
            check_storage(name, tensor)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has values and memory of its own: not under a compiler or torch.func, nor for other tensor types."""
    standing_in = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not standing_in and type(tensor) in (Tensor, torch.nn.Parameter)


def autocasts(query: Tensor) -> bool:
    """Whether autocast chooses the dtype of query, key and value."""
    any_device = torch._C._is_any_autocast_enabled()
    return any_device and torch.is_autocast_enabled(query.device.type) and query.dtype != torch.float64
