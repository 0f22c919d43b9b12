"""A fuzzer of `falloff.attention`: it compares random calls with the definition in float64.

    python tests/fuzz/attention.py --cases 10000 --seed 1        every instruction set of this machine, on all its cores
    python tests/fuzz/attention.py --seed 1 --case 45            one case alone, printed in full
    python tests/fuzz/attention.py --impl cpu --isa avx2         one instruction set

A case depends on its seed and number alone. It is run on every target that serves it: `cpu` with each instruction set,
`blockwise`, `reference`, and `triton` if named. Exit status 1 if any case failed.

What is checked:
- output, log-sum-exp and every gradient are those of the definition, within rounding (see definition.py), or within four
  times the error of the dense formula in plain torch in the call's dtype;
- a row that sees no key is zero, its log-sum-exp -inf, its gradients zero;
- a row that sees a NaN is NaN. No other batch entry and no other key head is affected. Not checked: rows from which causal,
  window or documents alone hide a key that is not finite;
- a key that `key_mask` hides may have any values: they affect no result, and its gradients are zero;
- the same call gives the same bits again, and changes none of its inputs.
"""

import argparse
import multiprocessing
import os
import queue
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from falloff import attention
from falloff.ops import cpu
from falloff.ops.dropout import new_seed
from fuzz import biases, definition
from fuzz.draw import Draw

NAN, INF = float("nan"), float("inf")


@dataclass
class Case:
    """One call of attention, and how it is checked."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: biases.Bias
    geometry: biases.Geometry
    settings: dict
    grad_out: torch.Tensor | None
    grad_lse: torch.Tensor | None
    needed: list
    dropout_seed: int
    threads: int
    repeat: bool

    def __str__(self):
        tensors = ", ".join(
            f"{name} {tuple(t.shape)} strides {t.stride()}"
            for name, t in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        masks = {
            name: value.tolist() if isinstance(value, torch.Tensor) and value.numel() < 200 else value
            for name, value in self.settings.items()
        }
        back = [name for name in ("grad_out", "grad_lse") if getattr(self, name) is not None]
        needs = ["query", "key", "value", "bias"]
        needs = [name for name, needed in zip(needs, self.needed, strict=True) if needed]
        return f"{self.query.dtype}: {tensors}; bias {self.bias.label}; {masks}; {' and '.join(back)} to {', '.join(needs)}"


EDGES = [47, 48, 49, 63, 64, 65, 96, 127, 128, 129, 191, 192, 193, 255, 256, 257]


def _sizes(draw):
    """B, H, G, N, M, D."""
    kind = draw.pick(["small", "edge", "skipping", "decoding", "wide", "empty"], [75, 9, 4, 3, 4, 1])
    heads = draw.pick([(1, 1), (2, 1), (2, 2), (3, 1), (4, 2), (6, 2), (3, 3), (8, 1)], [4, 3, 4, 1, 2, 1, 1, 0.5])
    batch = draw.pick([1, 2, 3], [3, 2, 1])
    head_size = draw.pick([draw.integer(1, 17), draw.pick([16, 17, 24, 32, 33, 64])], [4, 1])
    if kind == "small":
        size = lambda: draw.pick([1, draw.integer(1, 9), draw.integer(1, 41), draw.integer(30, 71)], [1, 3, 4, 1])  # noqa: E731
        num_queries, num_keys = size(), size()
    elif kind == "edge":
        batch, heads = 1, draw.pick([(1, 1), (2, 1), (2, 2)])
        num_queries, num_keys = draw.pick([*EDGES, draw.integer(1, 60)]), draw.pick([*EDGES, 511, 512, 513])
    elif kind == "skipping":
        batch, heads = draw.pick([1, 2], [3, 1]), draw.pick([(1, 1), (2, 1), (2, 2)])
        num_queries, num_keys = draw.integer(32, 110), draw.integer(257, 600)
        head_size = draw.integer(1, 17)
    elif kind == "decoding":
        batch, heads = draw.pick([1, 2]), draw.pick([(1, 1), (2, 1), (4, 2)])
        num_queries, num_keys = draw.pick([1, 2, 4, 5]), draw.integer(200, 2600)
    elif kind == "wide":
        batch, heads = 1, draw.pick([(1, 1), (2, 1), (2, 2)])
        head_size = draw.pick([64, 65, 80, 128, 160, 255, 256])
        num_queries, num_keys = draw.integer(1, 40), draw.integer(1, 70)
    else:
        num_queries, num_keys = draw.pick([(0, 5), (5, 0), (0, 0), (3, 4)], [1, 3, 1, 1])
        batch = draw.pick([0, 1, 2], [1, 2, 2])
    if kind != "decoding" and num_queries > 0 and draw.chance(0.4):
        num_keys = num_queries if kind != "skipping" else num_keys
    return batch, *heads, num_queries, num_keys, head_size, kind


def _masks(draw, batch, num_queries, num_keys):
    settings = {}
    if draw.chance(0.5):
        settings["causal"] = True
    if draw.chance(0.3):
        settings["window"] = draw.pick([1, draw.integer(1, num_keys + 6), draw.integer(1, 9)])
    if draw.chance(0.3) and num_keys:
        kind = draw.pick(["bits", "left", "right", "few"])
        length = np.array([draw.integer(0, num_keys + 1) for _ in range(batch)])[:, None]
        index = np.arange(num_keys)[None]
        mask = {
            "bits": draw.uniform(0, 1, batch, num_keys) < 0.6,
            "left": index >= num_keys - length,
            "right": index < length,
            "few": draw.uniform(0, 1, batch, num_keys) < 0.05,
        }[kind]
        settings["key_mask"] = draw.laid_out(torch.from_numpy(np.ascontiguousarray(mask)))
    if num_queries == num_keys and draw.chance(0.35):
        ids = draw.integers(-1, 4, batch, num_keys)
        ids = np.sort(ids) if draw.chance(0.7) else ids
        dtype = draw.pick([torch.int64, torch.int32, torch.int16], [3, 1, 1])
        settings["document_ids"] = draw.laid_out(torch.from_numpy(ids).to(dtype))
        if draw.chance(0.2):
            settings["query_start"] = 0
    elif draw.chance(0.4):
        far = draw.pick([draw.integer(-num_keys - 5, num_keys + 6), 400, 100_000, -70], [8, 1, 0.5, 1])
        settings["query_start"] = far
    return settings


def _numbers(draw, shape, dtype, size):
    """Normal numbers; sometimes the same for all batch entries or heads, by a stride of 0."""
    if draw.chance(0.06) and 0 not in shape:
        axes = draw.pick([(0,), (1,), (0, 1)])
        part = draw.normal(*(1 if axis in axes else length for axis, length in enumerate(shape))) * size
        return torch.from_numpy(part).to(dtype).expand(shape)
    return draw.laid_out(torch.from_numpy(draw.normal(*shape) * size).to(dtype))


def _adversaries(draw, tensors, kind):
    """Large logits, tiny norms, a late maximum: written in place, before the tensors are used."""
    query, key, value = tensors
    if any(tensor.numel() == 0 or 0 in tensor.stride() for tensor in tensors) or query.dtype == torch.float16:
        return
    often = [3, 1, 2, 3, 8, 1] if kind == "skipping" else [14, 1, 2, 1, 0.5, 1]
    what = draw.pick(["none", "large", "late maximum", "large values", "tiny", "ties"], often)
    if what == "large":
        query.mul_(draw.pick([8, 100, 3000]))
    elif what == "late maximum":
        key[..., draw.integer(0, key.shape[2]), :].mul_(draw.pick([20, 200]))
    elif what == "large values":
        value[..., : draw.integer(1, value.shape[2] + 1), :].mul_(1e4)
    elif what == "tiny":
        key.mul_(1e-30)
        if draw.chance(0.5):  # so that a key skipped wrongly changes the output
            value[..., : draw.integer(1, value.shape[2] + 1), :].mul_(1e4)
    elif what == "ties":  # many equal scores
        query.round_()
        key.round_()


def make(seed, case):
    """The case of this seed and number."""
    draw = Draw(seed, case)
    batch, heads, groups, num_queries, num_keys, head_size, kind = _sizes(draw)
    dtype = draw.pick([torch.float32, torch.bfloat16, torch.float64, torch.float16], [10, 6, 1, 1])
    draw.wide = torch.float64 if dtype == torch.float64 else torch.float32
    settings = _masks(draw, batch, num_queries, num_keys)
    start = settings.get("query_start")
    geometry = biases.Geometry(
        batch,
        heads,
        num_queries,
        num_keys,
        num_keys - num_queries if start is None else start,
        definition.text_starts(num_queries, settings.get("key_mask"), settings.get("document_ids")),
    )
    bias = biases.bias(draw, geometry)
    tensors = [
        _numbers(draw, shape, dtype, draw.pick([1, 3, 0.1], [6, 1, 1]))
        for shape in [(batch, heads, num_queries, head_size), *[(batch, groups, num_keys, head_size)] * 2]
    ]
    _adversaries(draw, tensors, kind)
    if draw.chance(0.3):
        settings["scale"] = draw.pick([0.0, 1.0, -0.5, 0.3, 5.0], [1, 3, 3, 3, 1])
    if bias.make() is not None and draw.chance(0.2) and bool(all(leaf.isfinite().all() for leaf in bias.leaves)):
        settings["bias_scale"] = draw.pick([head_size**-0.5, -1.3, 0.0, 3])
    if draw.chance(0.2):
        settings["dropout_p"] = draw.pick([0.1, 0.5, 1.0], [3, 3, 0.5])
    back = draw.pick(["both", "out", "lse"], [5, 4, 1])
    grad_out = _numbers(draw, tensors[0].shape, dtype, 1) if back != "lse" else None
    lse_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    grad_lse = _numbers(draw, (1, *tensors[0].shape[:3]), lse_dtype, 1)[0] if back != "out" else None
    all_needed = draw.chance(0.8)
    needed = [all_needed or draw.chance(0.5) for _ in range(4)]
    _add_not_finite(draw, tensors, settings)
    for tensor, need in zip(tensors, needed, strict=False):
        tensor.requires_grad_(need)
    for leaf in bias.leaves:
        leaf.requires_grad_(needed[3])
    threads = 2 if draw.chance(0.02) else 1
    return Case(
        *tensors, bias, geometry, settings, grad_out, grad_lse, needed, draw.integer(0, 2**62), threads, draw.chance(0.03)
    )


def _add_not_finite(draw, tensors, settings):
    """Write NaN or an infinity into a visible element, and any values into keys that `key_mask` hides."""
    query, key, value = tensors
    if any(tensor.numel() == 0 or 0 in tensor.stride() for tensor in tensors):
        return
    random_index = lambda tensor: tuple(draw.integer(0, size) for size in tensor.shape)  # noqa: E731
    if draw.chance(0.04):
        target = draw.pick([query, key, value])
        at = random_index(target)
        mask = settings.get("key_mask")
        if target is query or mask is None or bool(mask[at[0], at[2]]):
            target[at] = draw.pick([NAN, INF, -INF], [3, 1, 1])
    if "key_mask" in settings and draw.chance(0.4):
        hidden = ~settings["key_mask"][:, None, :, None]
        for target in draw.pick([[key], [value], [key, value]]):
            anything = [NAN, INF, -INF, 3e38 if target.dtype != torch.float16 else 6e4]
            target.masked_fill_(hidden, draw.pick(anything))


@dataclass
class Expected:
    """The results of the definition, their tolerances, and which elements are checked (True), by name."""

    values: dict
    tolerances: dict
    checked: dict


def _finite(tensor):
    return torch.nan_to_num(tensor, 0.0, 0.0, 0.0)


def expect(case, dtype=torch.float64):
    """The definition in float64, or in another dtype as plain torch computes it."""
    query, key, value = (tensor.detach().to(dtype) for tensor in (case.query, case.key, case.value))
    settings, geometry = case.settings, case.geometry
    key_mask = settings.get("key_mask")
    if key_mask is not None:  # a hidden key affects nothing, whatever its values are
        key, value = (tensor.where(key_mask[:, None, :, None], 0.0) for tensor in (key, value))
    inputs = query, key, value
    query, key, value = (_finite(tensor) for tensor in inputs)

    wide = torch.promote_types(dtype, torch.float32)
    leaves = [leaf.detach().to(wide).requires_grad_(case.needed[3]) for leaf in case.bias.leaves]
    bias = size = None
    if case.bias.make() is not None:
        factor = settings.get("bias_scale", 1.0)
        bias, size = case.bias.dense(leaves)
        bias = factor * bias
        size = bias.detach().abs() if size is None else abs(factor) * size.detach()
    shape = (geometry.batch, geometry.heads, geometry.num_queries, geometry.num_keys)
    visible = definition.visible(
        shape,
        geometry.query_start,
        settings.get("causal", False),
        settings.get("window"),
        key_mask,
        settings.get("document_ids"),
    )
    kept = None
    probability = settings.get("dropout_p", 0.0)
    if probability > 0:
        torch.default_generator.manual_seed(case.dropout_seed)
        kept = definition.keep(int(new_seed(torch.device("cpu"))), probability, shape).to(dtype)
        kept = kept / (1 - probability) if probability < 1 else kept
    scale = settings.get("scale", query.shape[3] ** -0.5)
    grad_out = torch.zeros_like(query) if case.grad_out is None else case.grad_out.to(dtype)
    grad_lse = torch.zeros_like(query[..., 0]) if case.grad_lse is None else case.grad_lse.to(dtype)
    skips = geometry.num_queries >= 32 and geometry.num_keys > 256
    rounding = definition.Rounding.of(case.query.dtype, skips)
    with torch.no_grad():
        values, tolerances = definition.attend(
            query,
            key,
            value,
            None if bias is None else bias.detach().to(dtype),
            None if size is None else size.to(dtype),
            visible,
            scale,
            kept,
            grad_out,
            grad_lse,
            rounding,
        )
    _bias_gradients(case, bias, leaves, values, tolerances)
    return _not_finite(case, inputs, visible, Expected(values, tolerances, {}))


def _bias_gradients(case, bias, leaves, values, tolerances):
    """Replace the gradient of the dense bias by those of the leaves."""
    grad_bias, tolerance = values.pop("bias"), tolerances.pop("bias")
    if not case.needed[3] or not leaves or not bias.requires_grad:
        return
    # Batch entries or heads may share a bias: their gradients are added up.
    sum_to = lambda tensor: tensor.sum_to_size(bias.shape)  # noqa: E731
    grad_bias, tolerance = (sum_to(tensor).to(bias.dtype) for tensor in (grad_bias, tolerance))
    differentiated = [leaf for leaf in leaves if leaf.requires_grad]

    def back(grad, bias=bias):
        return torch.autograd.grad(bias, differentiated, grad, retain_graph=True, allow_unused=True, materialize_grads=True)

    exact = back(grad_bias)
    # Errors of random signs, and all of one sign: the largest possible error, if all derivatives have one sign.
    generator = torch.Generator().manual_seed(case.dropout_seed)
    mixed = [torch.randint(0, 2, shape, generator=generator) * 2.0 - 1 for shape in (bias.shape, (*bias.shape[:2], 1, 1))]
    sizes = [grad.abs() for grad in exact]
    errors = [back(tolerance), *(back(tolerance * sign) for sign in mixed)]
    if case.bias.partial is not None:
        partial = case.settings.get("bias_scale", 1.0) * case.bias.partial(leaves)
        errors += [back(tolerance, partial), *(back(tolerance * sign, partial) for sign in mixed)]
        sizes = [torch.maximum(*map(torch.abs, grads)) for grads in zip(exact, back(grad_bias, partial), strict=True)]
    linear = case.bias.label.startswith(("Strip", "Band", "t5", "per-offset"))
    factor = abs(case.settings.get("bias_scale", 1.0))
    for index, (grad, largest, *pushed) in enumerate(zip(exact, sizes, *errors, strict=True)):
        error = torch.stack(pushed).abs().amax(0)
        if error.numel() == 0:
            continue
        if not linear:  # one tolerance for the whole leaf
            error = 2 * error.amax().expand_as(error)
        stored, normal = (getattr(torch.finfo(case.bias.leaves[index].dtype), name) for name in ("eps", "smallest_normal"))
        name = f"bias leaf {index}"
        values[name] = grad
        tolerances[name] = error + stored * (largest if linear else largest.amax()) + stored * normal + 1e-37 * (1 + factor)


def _not_finite(case, inputs, visible, expected):
    """The expected results of NaN and infinities, and which elements are not checked because of them."""
    values, checked = expected.values, expected.checked
    for name, tensor in values.items():
        checked[name] = torch.ones_like(tensor, dtype=torch.bool)
    if all(bool(tensor.isfinite().all()) for tensor in inputs):
        if (
            case.bias.near_bend is not None
            and case.needed[3]
            and case.bias.near_bend([leaf.detach().double() for leaf in case.bias.leaves])
        ):
            for name in values:
                if name.startswith("bias"):
                    checked[name] = torch.zeros_like(checked[name])
        return expected
    query, key, value = inputs
    fold = query.shape[1] // key.shape[1]
    bad_key, bad_value = (~tensor.isfinite().all(-1).repeat_interleave(fold, 1) for tensor in (key, value))
    bad_query = ~query.isfinite().all(-1)
    visible = visible.expand(-1, query.shape[1], -1, -1)
    any_bad = lambda bad, where: (where & bad[:, :, None, :]).any(-1)  # noqa: E731  # (B, H, N)
    sees_key = any_bad(bad_key, visible)
    hidden = any_bad(bad_key | bad_value, ~visible)
    sees_any = visible.any(-1)
    nan = lambda tensor: tensor.isnan().any(-1)  # noqa: E731
    nan_key = any_bad(nan(key).repeat_interleave(fold, 1), visible)
    row_is_nan = (nan_key | (nan(query) & sees_any)) & ~hidden
    values["lse"] = values["lse"].where(~row_is_nan, NAN)
    values["out"] = values["out"].where(~row_is_nan[..., None], NAN)
    nan_channel = (visible[..., None] & value.isnan().repeat_interleave(fold, 1)[:, :, None]).any(-2)
    values["out"] = values["out"].where(~nan_channel, NAN)
    other_key = sees_key & ~nan_key | bad_query & ~nan(query)  # infinite: any result is allowed
    infinite_channel = (visible[..., None] & value.isinf().repeat_interleave(fold, 1)[:, :, None]).any(-2)
    checked["lse"] &= ~(hidden | other_key)
    checked["out"] &= ~(hidden | other_key)[..., None] & ~(infinite_channel & ~nan_channel)
    # Gradients: a key head with such a number, or whose queries have one, is not checked.
    bad_key_head = (bad_key | bad_value).any(-1).unflatten(1, (-1, fold)).any(-1)  # (B, G)
    bad_query_head = bad_query.any(-1).unflatten(1, (-1, fold)).any(-1)
    for name in ("key", "value"):
        checked[name] &= ~(bad_key_head | bad_query_head)[..., None, None]
    bad_rows = bad_key_head.repeat_interleave(fold, 1)[..., None] | bad_query
    checked["query"] &= ~bad_rows[..., None]
    for name in values:
        if name.startswith("bias"):
            checked[name] = torch.zeros_like(checked[name])
    return expected


def call(case, impl, threads=1):
    """The results of falloff, by the names of `Expected`."""
    torch.default_generator.manual_seed(case.dropout_seed)
    torch.set_num_threads(threads)
    out, lse = attention(case.query, case.key, case.value, case.bias.make(), impl=impl, return_lse=True, **case.settings)
    results = {"out": out.detach(), "lse": lse.detach()}
    inputs = {"query": case.query, "key": case.key, "value": case.value}
    inputs |= {f"bias leaf {index}": leaf for index, leaf in enumerate(case.bias.leaves)}
    inputs = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    back = [(result, grad) for result, grad in ((out, case.grad_out), (lse, case.grad_lse)) if grad is not None]
    back = [(result, grad) for result, grad in back if result.requires_grad]
    if inputs and back:
        outputs, grad_outputs = zip(*back, strict=True)
        grads = torch.autograd.grad(outputs, list(inputs.values()), grad_outputs, allow_unused=True)
        results |= zip(inputs, grads, strict=True)
    return results


def compare(case, expected, got):
    """Each wrong result, as one line."""
    wrong, plain = [], None
    for name, want in expected.values.items():
        tensor, needed = got.get(name), name in got
        if tensor is None and (not needed or not bool(want.any())):
            continue
        if tensor is None or tensor.shape != want.shape or tensor.dtype != _dtype(case, name):
            wrong.append(f"{name}: got {None if tensor is None else (tensor.dtype, tuple(tensor.shape))}")
            continue
        most, tolerance = torch.finfo(tensor.dtype).max, expected.tolerances[name]
        tensor = tensor.double()
        overflown = tensor.isinf() & (tensor.sign() == want.sign()) & (want.abs() + tolerance >= most)
        tensor = tensor.where(~overflown, want)  # a gradient that its dtype cannot hold
        if _fits(tensor, want, tolerance, expected.checked[name]).all():
            continue
        # Rounding may add up to more than the tolerance: allow a multiple of the error of plain torch in the same dtype.
        plain = plain or expect(case, case.query.dtype).values
        plain_error = torch.nan_to_num((plain[name].double() - want).abs(), 0.0, 0.0, 0.0)
        tolerance = tolerance + 4 * plain_error.max()
        fits = _fits(tensor, want, tolerance, expected.checked[name])
        if not fits.all():
            at = tuple((~fits).nonzero()[0].tolist())
            wrong.append(
                f"{name}: {int((~fits).sum())} of {fits.numel()} wrong; at {at} got {tensor[at].item():.9g}, expected "
                f"{want[at].item():.9g} within {tolerance[at].item():.3g}"
            )
    return wrong


def _dtype(case, name):
    if name == "lse":
        return torch.promote_types(case.query.dtype, torch.float32)
    return case.bias.leaves[int(name.split()[-1])].dtype if name.startswith("bias") else case.query.dtype


def _fits(got, want, tolerance, checked):
    return ((got - want).abs() <= tolerance) | (got == want) | (got.isnan() & want.isnan()) | ~checked


def _refused(error):
    """Whether the error says that an implementation does not serve this call, which is allowed."""
    return isinstance(error, ValueError) and "which cannot serve this call" in str(error)


def check(case, expected, impl):
    """Each wrong result of an implementation, as one line; None if it does not serve the case."""
    try:
        before = [t.detach().clone() for t in (case.query, case.key, case.value)] if case.repeat else []
        got = call(case, impl, case.threads)
        wrong = compare(case, expected, got)
        if case.repeat:
            again = call(case, impl)
            for name, tensor in got.items():
                if tensor is not None and not torch.equal(_bits(tensor), _bits(again[name])):
                    wrong.append(f"{name}: not the same bits again")
            for tensor, was in zip((case.query, case.key, case.value), before, strict=True):
                if not torch.equal(_bits(tensor.detach()), _bits(was)):
                    wrong.append("an input was changed")
        return wrong
    except Exception as error:
        if _refused(error):
            return None
        return [f"{type(error).__name__}: {error}"]


def _bits(tensor):
    return torch.nan_to_num(tensor, 1.25, 2.5, 5.0)


def targets(impls, isas):
    """(label, impl, instruction set): the CPU kernels once for each instruction set."""
    for impl in impls:
        for isa in isas if impl == "cpu" else [None]:
            yield (f"cpu/{isa}" if isa else impl), impl, isa


def run(seed, case_number, chosen):
    """The case, and for each target its wrong results (None: it does not serve the case)."""
    case, found = "not made", {}
    try:
        case = make(seed, case_number)
        expected = expect(case)
    except Exception:
        return case, {"the fuzzer itself": [traceback.format_exc()]}
    for label, impl, isa in chosen:
        if isa is not None:
            os.environ["FALLOFF_CPU_ISA"] = isa
        found[label] = check(case, expected, impl)
    return case, found


def set_up_process():
    """Fill uninitialized memory with NaN, so that an element that no kernel writes is found; one thread, no warnings."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)


def _work(seed, numbers, chosen, results, current):
    set_up_process()
    for number in numbers:
        current.value = number
        case, found = run(seed, number, chosen)
        failures = {label: wrong for label, wrong in found.items() if wrong}
        serves = {label: wrong is not None for label, wrong in found.items()}
        results.put((number, serves, failures, str(case) if failures else ""))
    results.put(None)


def fuzz(seed, first, cases, chosen, jobs):
    """Run cases on `jobs` processes, print each failure at once, and return the number of failed cases."""
    context = multiprocessing.get_context("fork")
    results, workers = context.Queue(), []
    for job in range(jobs):
        current = context.Value("q", -1)
        numbers = range(first + job, first + cases, jobs)
        worker = context.Process(target=_work, args=(seed, numbers, chosen, results, current), daemon=True)
        worker.start()
        workers.append((worker, current))
    served, failed, done, finished = dict.fromkeys((label for label, *_ in chosen), 0), 0, 0, 0
    start = last_report = time.monotonic()
    while finished < jobs:
        try:
            result = results.get(timeout=1)
        except queue.Empty:
            for worker, current in workers:
                if worker.exitcode:
                    print(f"case {current.value}: the process died with {worker.exitcode}; {_command(seed, current.value)}")
                    return failed + 1
            continue
        if result is None:
            finished += 1
            continue
        number, serves, failures, description = result
        done += 1
        for label in served:
            served[label] += serves.get(label, False)
        for label, wrong in failures.items():
            print(
                f"case {number} on {label}: " + "; ".join(wrong) + f"\n    {description}\n    {_command(seed, number)}",
                flush=True,
            )
        failed += bool(failures)
        if time.monotonic() - last_report > 30:
            last_report = time.monotonic()
            print(f"{done} of {cases} cases, {failed} wrong, {done / (last_report - start):.0f} a second", flush=True)
    counts = ", ".join(f"{label} {count}" for label, count in served.items())
    print(f"seed {seed}: {done} cases, {failed} wrong, in {time.monotonic() - start:.0f} s; served by {counts}")
    return failed


def _command(seed, number):
    return f"python tests/fuzz/attention.py --seed {seed} --case {number}"


def main():
    """The command line."""
    sets = cpu._module.instruction_sets() if cpu.unavailable() is None else []
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="how many [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case [%(default)s]")
    parser.add_argument("--case", type=int, help="this case alone, printed in full")
    parser.add_argument("--impl", nargs="*", default=["cpu", "blockwise", "reference"], help="implementations %(default)s")
    parser.add_argument("--isa", nargs="*", default=sets, help="instruction sets of cpu %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes [%(default)s]")
    settings = parser.parse_args()
    chosen = list(targets(settings.impl, settings.isa))
    if "triton" in settings.impl and not torch.cuda.is_available():
        from ops.triton.interpreted import mend  # imports triton

        mend()
    if settings.case is None:
        return bool(fuzz(settings.seed, settings.first, settings.cases, chosen, settings.jobs))
    set_up_process()
    case, found = run(settings.seed, settings.case, chosen)
    print(case)
    for label, wrong in found.items():
        print(f"{label}: " + ("does not serve it" if wrong is None else "\n    ".join(wrong) or "right"))
    return any(found.values())


if __name__ == "__main__":
    sys.exit(main())
