"""What runs for a call: kernels, their grids, and sums of partial results in a fixed order. Nothing waits for the device."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from falloff.forms import Band, Form, Strip, Warp
from falloff.ops.call import Call, empty_output
from falloff.ops.offset_sums import at_distances, at_offsets
from falloff.ops.triton.kernels.backward import key_gradient_kernel, loss_kernel, query_gradient_kernel
from falloff.ops.triton.kernels.bias import BLOCK, PAD, SPARE, block_ranges, pad_strip, spread_g
from falloff.ops.triton.kernels.decode import decode_kernel, merge_kernel
from falloff.ops.triton.kernels.diagonals import diagonal_kernel
from falloff.ops.triton.kernels.forward import forward_kernel
from falloff.ops.triton.kernels.problem import (
    BandForm,
    Dropout,
    Gradients,
    Problem,
    Rows,
    Settings,
    StripForm,
    WarpForm,
)
from falloff.ops.triton.kernels.skip import SKIP_KEYS, SKIP_ROWS, bounds_kernel, key_norms
from falloff.ops.triton.tiles import LARGE, Tiles, tiles

_SHORT = 1024  # offsets within which the middle of a bias is not worth a loop apart from the edges' (see `zones`)
_DECODE_ROWS = 64  # query rows of all heads that share a key head, up to which the keys are split
_DECODE_PROGRAMS = 256  # about as many programs as fill a GPU: the keys are split by shape alone
_MERGED = 16384  # numbers that a program holds in registers while it merges the splits of a row
_SKIP_FROM = 1024  # keys from which looking for keys to skip can pay


class _Prepared(NamedTuple):
    """A call as kernels take it; where it stands; and what the host knows of its offsets."""

    problem: Problem
    settings: Settings
    place: tuple[int, ...]
    query_start: int
    lowest: int  # offset between a row and a key that it may see
    highest: int
    bounds: Tensor | None


def forward(query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """The output and the log-sum-exp of each row."""
    out = empty_output(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if out.numel() == 0 or key.shape[2] == 0:
        return out.zero_(), lse.fill_(-torch.inf)
    with _on_device(query):
        batch, heads, num_queries, _ = query.shape
        groups, num_keys = key.shape[1:3]
        split = heads // groups * num_queries <= _DECODE_ROWS and num_keys >= 256
        call_ = _prepare(query, key, value, call, None, skip=not split)
        if split:
            _decode(call_, query, groups, num_keys, out, lse)
            return out, lse
        sizes = _tiles("forward", call_.settings.BLOCK_D.value, query)
        blocks = triton.cdiv(num_queries, sizes.rows)
        forward_kernel[(batch * heads * blocks,)](
            call_.problem,
            _rows(out),
            lse,
            call_.bounds,
            *call_.place,
            blocks,
            call_.settings,
            ROWS=sizes.rows,
            KEYS=sizes.keys,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )
    return out, lse


def _decode(call: _Prepared, query: Tensor, groups: int, num_keys: int, out: Tensor, lse: Tensor) -> None:
    batch, heads, num_queries, head_size = query.shape
    sizes = _tiles("decode", call.settings.BLOCK_D.value, query)
    most = _MERGED // call.settings.BLOCK_D.value
    splits = min(triton.cdiv(_DECODE_PROGRAMS, batch * groups), triton.cdiv(num_keys, 2 * sizes.keys), most)
    span = triton.cdiv(triton.cdiv(num_keys, splits), sizes.keys) * sizes.keys
    splits = triton.cdiv(num_keys, span)
    sums = query.new_empty(batch, heads, num_queries, splits, head_size, dtype=torch.float32)
    maxima, totals = (query.new_empty(batch, heads, num_queries, splits, dtype=torch.float32) for _ in range(2))
    # Without zones, so that a text that grows past a reach compiles nothing anew.
    settings = call.settings._replace(PAST=tl.constexpr(False), MIDDLE=tl.constexpr("edge"), FUTURE=tl.constexpr(False))
    rows = max(sizes.rows, triton.next_power_of_2(heads // groups * num_queries))
    decode_kernel[(batch * groups * splits,)](
        call.problem,
        sums,
        maxima,
        totals,
        *call.place,
        splits,
        span,
        settings,
        ROWS=rows,
        KEYS=sizes.keys,
        num_warps=sizes.warps,
        num_stages=sizes.stages,
    )
    merge_kernel[(batch * heads * num_queries,)](
        sums,
        maxima,
        totals,
        _rows(out),
        lse,
        num_queries,
        heads,
        splits,
        settings,
        SPLITS=triton.next_power_of_2(splits),
        num_warps=8,
    )


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    call: Call,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None]:
    """The gradients of query, key, value and the form's tensors."""
    needs_query, needs_key, needs_value, needs_form = needs
    form = call.form
    grad_query, grad_key, grad_value = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
        for tensor, need in ((query, needs_query), (key, needs_key or needs_value), (value, needs_key or needs_value))
    )
    grad_form = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in form.tensors] if form and needs_form else None
    if query.numel() == 0 or key.numel() == 0:
        for grad in (grad_query, grad_key, grad_value):
            if grad is not None:
                grad.zero_()
        return grad_query, grad_key, grad_value, grad_form
    with _on_device(query):
        batch, heads, num_queries, _ = query.shape
        groups, num_keys = key.shape[1:3]
        prepared = _prepare(query, key, value, call, lse, skip=True)
        settings, block_d = prepared.settings, prepared.settings.BLOCK_D.value
        rows = [query.new_empty(batch, heads, num_queries, dtype=torch.float32) for _ in range(2)]
        grad_out = _readable(grad_out)
        blocks = triton.cdiv(num_queries, 64)
        loss_kernel[(batch * heads * blocks,)](
            _rows(grad_out),
            _rows(_readable(out)),
            None if grad_lse is None else grad_lse.contiguous(),
            lse.contiguous(),
            *rows,
            num_queries,
            heads,
            blocks,
            settings,
            ROWS=64,
        )

        sizes = _tiles("query", block_d, query)
        blocks = triton.cdiv(num_queries, sizes.rows)
        learned = form if needs_form else None
        band = torch.zeros_like(learned.values, memory_format=torch.contiguous_format) if isinstance(learned, Band) else None
        future = isinstance(learned, Strip) and prepared.lowest < learned.start
        grads = Gradients(
            out=_rows(grad_out),
            loss=rows[0],
            lse2=rows[1],
            query=None if grad_query is None else _rows(grad_query),
            key=None if grad_key is None else _rows(grad_key),
            value=None if grad_value is None else _rows(grad_value),
            band=band,
            future=torch.empty_like(rows[0]) if future else None,
            a=torch.empty_like(rows[0]) if isinstance(learned, Warp) else None,
            lines=query.new_empty(batch, heads, blocks, 2, settings.KNOTS.value, dtype=torch.float32)
            if isinstance(learned, Warp)
            else None,
        )
        if needs_query or band is not None or future or isinstance(learned, Warp):
            query_gradient_kernel[(batch * heads * blocks,)](
                prepared.problem,
                grads,
                prepared.bounds,
                *prepared.place,
                blocks,
                settings,
                ROWS=sizes.rows,
                KEYS=sizes.keys,
                num_warps=sizes.warps,
                num_stages=sizes.stages,
            )
        if needs_key or needs_value:
            sizes = _tiles("key", block_d, query)
            blocks = triton.cdiv(num_keys, sizes.keys)
            key_gradient_kernel[(batch * groups * blocks,)](
                prepared.problem,
                grads,
                prepared.bounds,
                *prepared.place,
                blocks,
                settings,
                ROWS=sizes.rows,
                KEYS=sizes.keys,
                num_warps=sizes.warps,
                num_stages=sizes.stages,
            )
        if isinstance(learned, Strip):
            grad_form = [_strip_gradient(prepared, grads, learned, query, grad_lse, lse)]
        if band is not None:
            grad_form = [band]
        if isinstance(learned, Warp):
            grad_form = _warp_gradients(prepared, grads, learned, query)
        if call.scale < 0 and grad_query is not None:
            grad_query.neg_()
    return grad_query, grad_key if needs_key else None, grad_value if needs_value else None, grad_form


def _strip_gradient(
    call: _Prepared, grads: Gradients, form: Strip, query: Tensor, grad_lse: Tensor | None, lse: Tensor
) -> Tensor:
    """Diagonals within the strip; what lies at and beyond its ends from sums along rows.

    The score gradients of a row sum to the gradient of its log-sum-exp, so what lies beyond the last offset is the rest.
    """
    size, first, last = form.values.shape[1], form.start, form.start + form.values.shape[1] - 1
    rest = call.highest > last
    start = max(call.lowest, first + 1 if grads.future is not None else first)
    stop = min(call.highest, last - 1 if rest else last)
    grad = query.new_zeros(form.num_heads, size, dtype=torch.float64)
    if start <= stop:
        grad = at_offsets(_sums_by_offset(call, grads, query, start, stop), start, first, size)
    if grads.future is not None:
        grad[:, 0] += grads.future.double().sum((0, 2))
    if rest:
        total = 0.0 if grad_lse is None else torch.where(lse == -torch.inf, 0.0, grad_lse).double().sum((0, 2))
        grad[:, -1] += total - grad.sum(1)
    return grad


def _warp_gradients(call: _Prepared, grads: Gradients, form: Warp, query: Tensor) -> list[Tensor]:
    by_head = _sums_by_offset(call, grads, query, call.lowest, call.highest)
    grad_g = at_distances(by_head.sum(0, keepdim=True), call.lowest, form.g.shape[0])[0]
    grad_a = grads.a.double().sum((0, 1) if form.a.dim() == 1 else 1)
    lines = grads.lines[..., : form.slope.shape[1]].double().sum((0, 2))
    return [grad_g, grad_a, torch.zeros_like(form.knots), lines[:, 0], lines[:, 1]]


def _sums_by_offset(call: _Prepared, grads: Gradients, query: Tensor, start: int, stop: int) -> Tensor:
    """The sums of score gradients at the offsets start .. stop, for each head, (H, stop - start + 1), in float64."""
    if start > stop:
        return query.new_zeros(query.shape[1], 0, dtype=torch.float64)
    batch, heads, num_queries, _ = query.shape
    sizes = _tiles("diagonal", call.settings.BLOCK_D.value, query)
    side = sizes.rows
    diagonals = triton.cdiv(stop - start, side) + 1
    # A diagonal is cut into parts where there are too few programs to fill a GPU.
    parts = min(max(512 // (batch * heads * diagonals), 1), triton.cdiv(num_queries, 4 * side))
    sums = query.new_empty(batch, heads, diagonals, parts, 2 * side, dtype=torch.float32)
    diagonal_kernel[(batch * heads * diagonals * parts,)](
        call.problem,
        grads,
        call.bounds,
        sums,
        *call.place,
        call.query_start - stop,
        diagonals,
        parts,
        call.settings,
        SIDE=side,
        num_warps=sizes.warps,
        num_stages=sizes.stages,
    )
    halves = sums.double().sum((0, 3))
    by_lead = halves[:, :, side:]
    by_lead[:, :-1] += halves[:, 1:, :side]
    return by_lead.flatten(1)[:, : stop - start + 1].flip(1)


def _prepare(query: Tensor, key: Tensor, value: Tensor, call: Call, lse: Tensor | None, skip: bool) -> _Prepared:
    num_queries, head_size = query.shape[2:]
    num_keys, form = key.shape[2], call.form
    lowest, highest = call.query_start - (num_keys - 1), call.query_start + num_queries - 1
    if call.causal:
        lowest = max(lowest, 0)
    if call.window is not None:
        highest = min(highest, call.window - 1)

    shift, extent, past, middle, future, segments = 0, 1, True, "none", False, 1
    if isinstance(form, Strip):
        shift, extent = call.query_start - form.start, form.values.shape[1]
        past, future = highest >= form.start + extent, lowest < form.start
    elif isinstance(form, Band):
        shift, extent = call.query_start, form.values.shape[3]
        past, future = highest >= extent, lowest < 0
    elif isinstance(form, Warp):
        shift, extent, segments = call.query_start, form.g.shape[0], form.slope.shape[1]
        past = False
    if form is not None:
        middle = "edge" if extent <= _SHORT and not isinstance(form, Warp) else "near"
    settings = Settings(
        D=head_size,
        BLOCK_D=max(triton.next_power_of_2(head_size), 16),
        FORM="none" if form is None else form.kind,
        CAUSAL=call.causal,
        WINDOW=call.window is not None,
        LABELS=call.key_mask is not None or call.document_ids is not None,
        PAST=past,
        MIDDLE=middle,
        FUTURE=future,
        KNOTS=max(triton.next_power_of_2(segments), 16),
        PRECISION=_precision(query.dtype),
        NVIDIA=_target() == "cuda",
    )
    settings = Settings(*map(tl.constexpr, settings))
    # Beyond these ends nothing changes, so that all numbers fit into 32 bits wherever the queries stand.
    masks = (_clamp(position, -num_queries - 1, num_keys + 1) for position in _mask_positions(call))
    place = (
        num_queries,
        num_keys,
        query.shape[1],
        query.shape[1] // key.shape[1],
        *masks,
        _clamp(shift, -num_queries - extent - 1, num_keys + extent + 1),
        extent,
    )
    query, key, value = (_readable(tensor) for tensor in (query, key, value))
    problem = Problem(
        query=_rows(-query if call.scale < 0 else query),
        key=_rows(key),
        value=_rows(value),
        scale=float(abs(call.scale)),
        key_mask=None if call.key_mask is None else call.key_mask.contiguous().view(torch.uint8),
        documents=None if call.document_ids is None else call.document_ids.contiguous(),
        form=_form(form, num_queries, num_keys, place[-2], settings.KNOTS.value),
        dropout=_dropout(call),
    )
    bounds = None
    if skip and isinstance(form, Strip) and _may_fall_far(call, form, num_queries, num_keys, highest):
        lse = None if lse is None else lse.contiguous()
        bounds = _bounds(problem, settings, form, query, key, call.query_start, lse)
    return _Prepared(problem, settings, place, call.query_start, lowest, highest, bounds)


def _mask_positions(call: Call) -> tuple[int, int]:
    first = 0 if call.window is None else call.query_start - call.window + 1
    return first, call.query_start if call.causal else 0


def _form(
    form: Form | None, num_queries: int, num_keys: int, shift: int, num_knots: int
) -> StripForm | BandForm | WarpForm | None:
    if isinstance(form, Strip):
        heads, size = form.values.shape
        strip = form.values.new_empty(heads, size + 2 * PAD.value, dtype=torch.float32)
        values = form.values.contiguous()
        pad_strip[(triton.cdiv(strip.shape[1], 1024), heads)](values, strip, size, strip.shape[1], COUNT=1024)
        return StripForm(strip)
    if isinstance(form, Band):
        values = form.values.detach()
        return BandForm((values if values.itemsize in (2, 4) else values.float()).contiguous())
    if isinstance(form, Warp):
        g, a, knots, slope, intercept = (tensor.detach().float().contiguous() for tensor in form.tensors)
        knots = torch.nn.functional.pad(knots, (0, num_knots - knots.shape[0]), value=torch.inf)
        table = g.new_empty(num_queries + num_keys - 1 + 2 * PAD.value)
        grid = (triton.cdiv(table.shape[0], 1024),)
        spread_g[grid](g, table, table.shape[0], g.shape[0], shift + num_queries - 1, COUNT=1024)
        return WarpForm(
            table,
            a,
            a.shape[-1] if a.dim() == 2 else 0,
            knots,
            slope,
            intercept,
            slope.shape[1],
            *_block_ranges(table),
            *_block_ranges(a),
        )
    return None


def _block_ranges(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of each block of 64 values along the last dimension."""
    length = values.shape[-1]
    blocks = triton.cdiv(length, BLOCK.value)
    rows = values.numel() // length
    low, high = (values.new_empty(rows, blocks + SPARE.value) for _ in range(2))
    block_ranges[(rows * blocks,)](values, low, high, length, blocks)
    return low, high


def _dropout(call: Call) -> Dropout | None:
    if call.seed is None:
        return None
    threshold = round(call.dropout_p * 2**32)
    if threshold == 2**32:  # nothing is kept
        return Dropout(call.seed, 2**31 - 1, 0.0)
    return Dropout(call.seed, threshold - 2**31, 1 / (1 - call.dropout_p))


def _may_fall_far(call: Call, form: Strip, num_queries: int, num_keys: int, highest: int) -> bool:
    """By shape alone: a strip that ends within the past is constant from there on, and hides nothing further away."""
    near = max(abs(call.query_start), abs(form.start)) < 2**30
    return near and num_keys >= _SKIP_FROM and highest <= form.start + form.values.shape[1] - 1


def _bounds(
    problem: Problem, settings: Settings, form: Strip, query: Tensor, key: Tensor, query_start: int, lse: Tensor | None
) -> Tensor:
    """The keys that matter to each block of rows: see `skip`."""
    batch, heads, num_queries, _ = query.shape
    groups, num_keys = key.shape[1:3]
    row_blocks, key_blocks = triton.cdiv(num_queries, SKIP_ROWS.value), triton.cdiv(num_keys, SKIP_KEYS.value)
    norms = query.new_empty(batch, groups, key_blocks, dtype=torch.float32)
    key_norms[(norms.numel(),)](problem, norms, num_keys, groups, key_blocks, settings)
    # Tails are added up in float64: in float32, a large bias would swallow the logarithm of a count. What is rounded is
    # rounded upwards; 1e-3 covers the sums.
    values, keys = form.values.detach().float().contiguous(), math.log(num_keys)
    wide = values.double()
    past_tail = torch.logaddexp(wide.flip(1).logcumsumexp(1).flip(1), wide[:, -1:] + keys) + 1e-3
    future_tail = torch.logaddexp(wide.logcumsumexp(1), wide[:, :1] + keys) + 1e-3
    bounds = torch.empty(batch, heads, row_blocks, 2, dtype=torch.int32, device=query.device)
    bounds_kernel[(batch * heads * row_blocks,)](
        problem,
        lse,
        values,
        _rounded_up(past_tail),
        _rounded_up(future_tail),
        norms.cummax(-1).values,
        norms.flip(-1).cummax(-1).values.flip(-1),
        bounds,
        num_queries,
        num_keys,
        heads,
        heads // groups,
        query_start,
        form.start,
        values.shape[1],
        row_blocks,
        key_blocks,
        settings,
    )
    return bounds


def _rounded_up(values: Tensor) -> Tensor:
    """Float64 as float32, none of them less than it was."""
    nearest = values.float()
    return nearest.nextafter(torch.full_like(nearest, torch.inf))


def _tiles(kernel: str, block_d: int, query: Tensor) -> Tiles:
    shared_memory = LARGE
    if not triton.knobs.runtime.interpret:
        driver = triton.runtime.driver.active
        shared_memory = driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"]
    return tiles(kernel, block_d, query.dtype, shared_memory)


def _precision(dtype: torch.dtype) -> str:
    """Of products of float32: TensorFloat32 where PyTorch has been allowed it and the device has it."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and _target() in ("cuda", "gfx942") else "ieee"


def _target() -> str:
    """What kernels are compiled for: "cuda", an architecture of AMD's, or "interpreter"."""
    if triton.knobs.runtime.interpret:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    return "cuda" if target.backend == "cuda" else str(target.arch)


def _clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def _readable(tensor: Tensor) -> Tensor:
    """With its last dimension contiguous and strides within a tile of 32 bits, as kernels read: else a copy."""
    one = tensor.stride(-1) == 1 or tensor.shape[-1] == 1
    return tensor if one and tensor.stride(2) < 2**23 else tensor.contiguous()


def _rows(tensor: Tensor) -> Rows:
    return Rows(tensor, *tensor.stride()[:3])


def _on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
