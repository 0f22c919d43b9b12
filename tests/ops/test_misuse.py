"""What does not fit is refused by the operators themselves, forward and backward, before a kernel touches memory.

Each case is run twice: here, for the error that it raises, and all of them in a process of their own, where a fault that no
error tells of (a segmentation fault) ends the process and so the test.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from falloff import Strip, attention
from falloff.ops import cpu

IMPLEMENTATIONS = ("cpu", "blockwise", "triton")
FORMS = ("", "strip", "band", "warp", "factored", "potential")
B, H, G, N, D = 2, 4, 2, 7, 8


def call(form="strip", **changes):
    """The arguments of the forward operator, by name: a valid call, changed."""
    tensors = {
        "": [],
        "strip": [torch.randn(H, 6)],
        "band": [torch.randn(B, H, N, 5)],
        "warp": [torch.arange(12.0), torch.rand(N), torch.arange(3.0), torch.randn(H, 4), torch.randn(H, 4)],
        "factored": [torch.randn(B, H, N, 3), torch.randn(H, 6, 3)],
        "potential": [torch.randn(B, H, N), torch.randn(B, H, N)],
    }[form]
    arguments = {
        "query": torch.randn(B, H, N, D),
        "key": torch.randn(B, G, N, D),
        "value": torch.randn(B, G, N, D),
        "impl": "cpu",
        "form_tensors": tensors,
        "key_mask": torch.rand(B, N) > 0.2,
        "document_ids": torch.zeros(B, N, dtype=torch.long),
        "seed": torch.tensor(5),
        "form_kind": form,
        "form_numbers": {"strip": [-2], "warp": [1], "factored": [-2, 0, 0]}.get(form, []),
        "causal": True,
        "scale": 0.3,
        "query_start": 0,
        "window": 5,
        "dropout_p": 0.1,
    }
    return arguments | changes


def without_storage(tensor):
    """A tensor whose memory was given back, as FSDP does between uses."""
    tensor.untyped_storage().resize_(0)
    return tensor


def with_less_storage(tensor):
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() - tensor.itemsize)
    return tensor


def warp(**changes):
    names = ("g", "a", "knots", "slope", "intercept")
    tensors = dict(zip(names, call("warp")["form_tensors"], strict=True)) | changes
    return call("warp", form_tensors=list(tensors.values()))


def factored(numbers=(-2, 0, 0), **changes):
    tensors = dict(zip(("states", "table"), call("factored")["form_tensors"], strict=True)) | changes
    return call("factored", form_tensors=list(tensors.values()), form_numbers=list(numbers))


def in_sum(kind, numbers, *tensors):
    return call(form_kind=kind, form_tensors=list(tensors), form_numbers=numbers)


def rows(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


# Name of the argument that the error names, and the call.
FORWARD = {
    "no heads in a strip": ("values", lambda: call(form_tensors=[torch.zeros(0, 6)])),
    "one head in a strip": ("values", lambda: call(form_tensors=[torch.zeros(1, 6)])),
    "no offsets in a strip": ("values", lambda: call(form_tensors=[torch.zeros(H, 0)])),
    "integers in a strip": ("values", lambda: call(form_tensors=[torch.zeros(H, 6, dtype=torch.int32)])),
    "freed strip": ("values", lambda: call(form_tensors=[without_storage(torch.zeros(H, 6))])),
    "strip on meta": ("device", lambda: call(form_tensors=[torch.zeros(H, 6, device="meta")])),
    "far start": ("start", lambda: call(form_numbers=[2**62])),
    "form without numbers": ("form_numbers", lambda: call(form_numbers=[])),
    "band without offsets": ("values", lambda: call("band", form_tensors=[torch.zeros(B, H, N, 0)])),
    "band of fewer rows": ("bias", lambda: call("band", form_tensors=[torch.zeros(B, H, 4, 5)])),
    "band of fewer entries": ("bias", lambda: call("band", form_tensors=[torch.zeros(1, H, N, 5)])),
    "band of fewer heads": ("values", lambda: call("band", form_tensors=[torch.zeros(B, 1, N, 5)])),
    "warp with a short a": ("bias", lambda: warp(a=torch.rand(4))),
    "warp with an a of another batch": ("bias", lambda: warp(a=torch.rand(1, N))),
    "warp without distances": ("g", lambda: warp(g=torch.rand(0))),
    "warp with more knots": ("slope", lambda: warp(knots=torch.rand(9))),
    "warp with fewer intercepts": ("intercept", lambda: warp(intercept=torch.rand(1, 4))),
    "warp of fewer heads": ("intercept", lambda: warp(slope=torch.rand(1, 4), intercept=torch.rand(1, 4))),
    "freed knots": ("knots", lambda: warp(knots=without_storage(torch.arange(3.0)))),
    "unknown form": ("form_kind", lambda: call(form_kind="spiral")),
    "form without a kind": ("form_tensors", lambda: call(form_kind="")),
    "form without tensors": ("form_tensors", lambda: call(form_tensors=[])),
    "form with too many tensors": ("form_tensors", lambda: call(form_tensors=[torch.zeros(H, 6)] * 2)),
    "key heads that do not divide": ("key", lambda: call(key=rows(B, 5, N, D), value=rows(B, 5, N, D))),
    "no key heads": ("key", lambda: call(key=rows(B, 0, N, D), value=rows(B, 0, N, D))),
    "no query heads": ("key", lambda: call(query=rows(B, 0, N, D))),
    "key of another batch": ("key", lambda: call(key=rows(1, G, N, D))),
    "key of another size": ("key", lambda: call(key=rows(B, G, N, D - 1), value=rows(B, G, N, D - 1))),
    "float64 key": ("key", lambda: call(key=rows(B, G, N, D, dtype=torch.float64))),
    "key of three dimensions": ("key", lambda: call(key=rows(B, N, D))),
    "query of three dimensions": ("query", lambda: call(query=rows(B, N, D))),
    "short value": ("value", lambda: call(value=rows(B, G, N - 3, D))),
    "bfloat16 value": ("value", lambda: call(value=rows(B, G, N, D, dtype=torch.bfloat16))),
    "integer query": ("query", lambda: call(query=torch.zeros(B, H, N, D, dtype=torch.int32))),
    "large heads": ("query", lambda: call(query=rows(B, H, N, 400), key=rows(B, G, N, 400), value=rows(B, G, N, 400))),
    "heads of size 0": ("query", lambda: call(query=rows(B, H, N, 0), key=rows(B, G, N, 0), value=rows(B, G, N, 0))),
    "key on meta": ("device", lambda: call(key=torch.zeros(B, G, N, D, device="meta"))),
    "freed query": ("query", lambda: call(query=without_storage(rows(B, H, N, D)))),
    "freed key": ("key", lambda: call(key=without_storage(rows(B, G, N, D)))),
    "freed value": ("value", lambda: call(value=without_storage(rows(B, G, N, D)))),
    "value that ends early": ("value", lambda: call(value=with_less_storage(rows(B, G, N, D)))),
    "strided key that ends early": ("key", lambda: call(key=with_less_storage(rows(B, N, G, D).transpose(1, 2)))),
    "short mask": ("key_mask", lambda: call(key_mask=torch.ones(B, N - 2, dtype=torch.bool))),
    "mask of integers": ("key_mask", lambda: call(key_mask=torch.ones(B, N, dtype=torch.long))),
    "mask of one entry": ("key_mask", lambda: call(key_mask=torch.ones(1, N, dtype=torch.bool))),
    "freed mask": ("key_mask", lambda: call(key_mask=without_storage(torch.ones(B, N, dtype=torch.bool)))),
    "short documents": ("document_ids", lambda: call(document_ids=torch.zeros(B, N - 2, dtype=torch.long))),
    "documents of floats": ("document_ids", lambda: call(document_ids=torch.zeros(B, N))),
    "documents of fewer queries": ("document_ids", lambda: call("", query=rows(B, H, 3, D))),
    "freed documents": ("document_ids", lambda: call(document_ids=without_storage(torch.zeros(B, N, dtype=torch.long)))),
    "seed of int32": ("seed", lambda: call(seed=torch.tensor(5, dtype=torch.int32))),
    "two seeds": ("seed", lambda: call(seed=torch.tensor([5, 6]))),
    "no seed": ("seed", lambda: call(seed=None)),
    "freed seed": ("seed", lambda: call(seed=without_storage(torch.tensor(5)))),
    "far query_start": ("query_start", lambda: call(query_start=2**63 - 1)),
    "far query_start in the past": ("query_start", lambda: call(query_start=-(2**63))),
    "window of none": ("window", lambda: call(window=0)),
    "window before all": ("window", lambda: call(window=-(2**63))),
    "probability above 1": ("dropout_p", lambda: call(dropout_p=1.5)),
    "no probability": ("dropout_p", lambda: call(dropout_p=float("nan"))),
    "unknown implementation": ("impl", lambda: call(impl="spiral")),
    "an implementation yet to be chosen": ("impl", lambda: call(impl="auto")),
}

# Of forms that the GPU kernels do not take.
OTHER_FORMS = {
    "states of fewer rows": ("bias", lambda: factored(states=rows(B, H, 4, 3))),
    "states of fewer keys": ("bias", lambda: factored([-2, 0, 1], states=rows(B, H, 4, 3))),
    "states of fewer entries": ("bias", lambda: factored(states=rows(1, H, N, 3))),
    "states of fewer heads": ("heads", lambda: factored(states=rows(B, 1, N, 3), table=rows(1, 6, 3))),
    "states of another size": ("table", lambda: factored(states=rows(B, H, N, 2))),
    "states without numbers": ("states", lambda: factored(states=rows(B, H, N, 0), table=rows(H, 6, 0))),
    "integers in states": ("states", lambda: factored(states=torch.zeros(B, H, N, 3, dtype=torch.int32))),
    "freed states": ("states", lambda: factored(states=without_storage(rows(B, H, N, 3)))),
    "table of two heads": ("table", lambda: factored(table=rows(2, 6, 3))),
    "table without offsets": ("table", lambda: factored(table=rows(H, 0, 3))),
    "table that ends early": ("table", lambda: factored(table=with_less_storage(rows(H, 6, 3)))),
    "table far away": ("start", lambda: factored([2**62, 0, 0])),
    "outside in no known way": ("outside", lambda: factored([0, 2, 0])),
    "states of a third side": ("side", lambda: factored([0, 0, 7])),
    "potential of fewer rows": ("bias", lambda: call("potential", form_tensors=[rows(B, H, 4), rows(B, H, N)])),
    "potential of fewer keys": ("bias", lambda: call("potential", form_tensors=[rows(B, H, N), rows(B, H, 4)])),
    "potential of other heads": ("key", lambda: call("potential", form_tensors=[rows(B, H, N), rows(B, 1, N)])),
    "freed potential": ("key", lambda: call("potential", form_tensors=[rows(B, H, N), without_storage(rows(B, H, N))])),
    "a part twice": ("forms", lambda: in_sum("potential+potential", [], *[rows(B, H, N)] * 4)),
    "a part of other heads": ("potential", lambda: in_sum("strip+potential", [0], rows(H, 6), *[rows(B, 1, N)] * 2)),
    "parts in another order": ("form_kind", lambda: in_sum("potential+strip", [0], *[rows(B, H, N)] * 2, rows(H, 6))),
}

ROWS, LSE = (B, H, N, D), (B, H, N)
# What the backward is given beside a valid call.
BACKWARD = {
    "short grad_out": ("grad_out", lambda: {"grad_out": rows(B, H, N - 1, D)}),
    "grad_out of another dtype": ("grad_out", lambda: {"grad_out": rows(*ROWS, dtype=torch.float64)}),
    "freed grad_out": ("grad_out", lambda: {"grad_out": without_storage(rows(*ROWS))}),
    "grad_out on meta": ("device", lambda: {"grad_out": torch.zeros(ROWS, device="meta")}),
    "short out": ("out", lambda: {"out": rows(B, H, N, D - 1)}),
    "out of another dtype": ("out", lambda: {"out": rows(*ROWS, dtype=torch.bfloat16)}),
    "out that ends early": ("out", lambda: {"out": with_less_storage(rows(*ROWS))}),
    "short lse": ("lse", lambda: {"lse": rows(B, H, N - 1)}),
    "lse of another dtype": ("lse", lambda: {"lse": rows(*LSE, dtype=torch.float64)}),
    "lse of one number": ("lse", lambda: {"lse": torch.tensor(0.0)}),
    "freed lse": ("lse", lambda: {"lse": without_storage(rows(*LSE))}),
    "short grad_lse": ("grad_lse", lambda: {"grad_lse": rows(B, H, 1)}),
    "grad_lse of another dtype": ("grad_lse", lambda: {"grad_lse": rows(*LSE, dtype=torch.float64)}),
    "freed grad_lse": ("grad_lse", lambda: {"grad_lse": without_storage(rows(*LSE))}),
    "short lowered call": ("lowered", lambda: {"lowered": torch.zeros(5, dtype=torch.int32)}),
    "lowered call of another dtype": ("lowered", lambda: {"lowered": torch.zeros(16, dtype=torch.float64)}),
    "three needs": ("needs", lambda: {"needs": [True] * 3}),
}


def forward(arguments):
    return torch.ops.falloff.attention(*arguments.values())


def backward(arguments, **changes):
    beside = {"grad_out": rows(*ROWS), "grad_lse": rows(*LSE)}
    inputs = {name: arguments[name] for name in ("query", "key", "value")}
    lowered = changes.pop("lowered", None)
    if lowered is None:
        try:  # of the size that this call needs, with nothing in it
            lowered = torch.zeros_like(forward(arguments)[2])
        except ValueError:
            lowered = torch.zeros(0, dtype=torch.int32)
    results = {"out": rows(*ROWS), "lse": rows(*LSE), "lowered": lowered, "needs": [True] * 4}
    first = beside | inputs | results | changes
    rest = [argument for name, argument in arguments.items() if name not in inputs]
    return torch.ops.falloff.attention_backward(*first.values(), *rest)


@cache
def lowered_size(impl, form):
    """Of a valid call, found by running it: which takes a second in Triton's interpreter."""
    return forward(call(form, impl=impl))[2].shape


def misuses(impl):
    """Every case for one implementation, as (name, argument, what runs)."""
    for name, (argument, make) in (FORWARD if impl == "triton" else FORWARD | OTHER_FORMS).items():
        asked = {} if argument == "impl" else {"impl": impl}
        for run in (forward, backward):
            yield f"{run.__name__}: {name}", argument, lambda run=run, make=make, asked=asked: run(make() | asked)
    for name, (argument, make) in BACKWARD.items():
        for form in FORMS if impl != "triton" else FORMS[:4]:

            def run(form=form, make=make):
                lowered = torch.zeros(lowered_size(impl, form), dtype=torch.int32)
                return backward(call(form, impl=impl), **({"lowered": lowered} | make()))

            yield f"{form}: {name}", argument, run


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_does_not_fit_is_refused(impl):
    """No input may reach memory outside its tensors: the process that runs all cases must live, and each is a ValueError."""
    script = Path(__file__)
    environment = os.environ | {"PYTHONPATH": str(script.parents[1]), "FALLOFF_SHAPE_CHECKS": "0"}
    done = subprocess.run([sys.executable, script, impl], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name, argument, run in misuses(impl):
        print(name)  # shown where the test fails
        with pytest.raises(ValueError, match=rf"(^|\W){argument}\b"):
            run()


@pytest.mark.parametrize(
    ("impl", "form"), [(impl, form) for impl in IMPLEMENTATIONS for form in (FORMS if impl != "triton" else FORMS[:4])]
)
def test_what_fits_is_not_refused(impl, form):
    """The call that the cases above change is a valid one."""
    valid = call(form, impl=impl)
    out, lse, lowered = forward(valid)
    assert out.isfinite().all()
    grads = backward(valid, out=out, lse=lse, lowered=lowered)
    assert [grad.shape[:1] for grad in grads[:3]] == [(B,)] * 3


def test_a_tensor_that_shares_a_longer_storage_fits():
    """Views of any offset and stride: a slice, an expanded head, rows of another order, and nothing at all."""
    whole = torch.randn(3, G, N, D)
    expanded = torch.randn(B, 1, N, D).expand(B, G, N, D)
    for key in (whole[1:], expanded, torch.randn(B, N, G, D).transpose(1, 2), torch.randn(B, G, D, N).mT):
        forward(call(key=key))
    none = {"form_tensors": [], "form_kind": "", "form_numbers": []}
    empty = {"query": rows(B, H, 0, D), "key": rows(B, G, 0, D), "value": rows(B, G, 0, D)} | none
    masks = {"key_mask": None, "document_ids": None}
    assert forward(call(**empty, **masks))[0].shape == (B, H, 0, D)


def of_factored(states, table, outside, side):
    return {"form_kind": "factored", "form_tensors": [states, table], "form_numbers": [0, outside, side]}


def kernels(direction="forward", **changes):
    """The C++ kernels' own functions: a valid call, changed."""
    tensors = {"query": rows(B, H, N, D), "key": rows(B, G, N, D), "value": rows(B, G, N, D)}
    masks = {"key_mask": torch.ones(B, N, dtype=torch.bool), "document_ids": torch.zeros(B, N, dtype=torch.long)}
    numbers = {"scale": 1.0, "query_start": 0, "causal": True, "window": None, "seed": None, "dropout_p": 0.0, "threads": 1}
    form = {"form_kind": "strip", "form_tensors": [rows(H, 6)], "form_numbers": [0]}
    outputs = {"out": rows(*ROWS), "lse": rows(*LSE), "lowered": torch.zeros(4240, dtype=torch.int32)}
    gradients = {
        "grad_out": rows(*ROWS),
        "grad_lse": rows(*LSE),
        "grad_query": rows(*ROWS),
        "grad_key": rows(B, G, N, D),
        "grad_value": rows(B, G, N, D),
        "grad_form": [rows(H, 6)],
    }
    given = outputs | (gradients if direction == "backward" else {}) | tensors | masks | numbers | form | changes
    of_call = "query key value threads form_tensors key_mask document_ids seed form_kind form_numbers causal scale"
    call = tuple(given.pop(name) for name in (*of_call.split(), "query_start", "window", "dropout_p"))
    return getattr(cpu._module, direction)(**given, call=call)


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("query", {"query": rows(B, H, N, 0), "key": rows(B, G, N, 0), "value": rows(B, G, N, 0)}),
        ("query", {"query": rows(B, H, N, D, dtype=torch.float64)}),
        ("query", {"query": rows(B, H, D, N).mT}),
        ("query", {"query": without_storage(rows(B, H, N, D))}),
        ("query", {"query": with_less_storage(rows(B, H, N, D))}),
        ("query", {"query": rows(B, H, N, D).numpy()}),
        ("query", {"query": torch.zeros(B, H, N, D, device="meta")}),
        ("key", {"key": rows(B, 5, N, D)}),
        ("value", {"value": rows(B, G, N, D).bfloat16()}),
        ("key_mask", {"key_mask": torch.ones(B, N - 1, dtype=torch.bool)}),
        ("key_mask", {"key_mask": torch.ones(B, N, dtype=torch.uint8)}),
        ("key_mask", {"key_mask": with_less_storage(torch.ones(B, N, dtype=torch.bool))}),
        ("document_ids", {"document_ids": torch.zeros(B, N)}),
        ("document_ids", {"document_ids": without_storage(torch.zeros(B, N, dtype=torch.int8))}),
        ("values", {"form_tensors": [rows(0, 6)]}),
        ("values", {"form_tensors": [rows(6, H).T]}),
        ("values", {"form_tensors": [without_storage(rows(H, 6))]}),
        ("form_tensors", {"form_tensors": []}),
        ("form", {"form_kind": "spiral"}),
        ("start", {"form_numbers": [2**62]}),
        ("form_numbers", {"form_numbers": []}),
        ("states", of_factored(rows(B, H, N, 2), rows(H, 6, 3), 0, 0)),
        ("states", of_factored(rows(B, H, 4, 3), rows(1, 6, 3), 0, 1)),
        ("table", of_factored(rows(B, H, N, 3), rows(2, 6, 3), 0, 0)),
        ("table", of_factored(rows(B, H, N, 3), with_less_storage(rows(H, 6, 3)), 0, 0)),
        ("outside", of_factored(rows(B, H, N, 3), rows(H, 6, 3), -1, 0)),
        ("side", of_factored(rows(B, H, N, 3), rows(H, 6, 3), 0, 2)),
        ("row", {"form_kind": "potential", "form_tensors": [rows(B, H, 4), rows(B, H, N)], "form_numbers": []}),
        ("key", {"form_kind": "potential", "form_tensors": [rows(B, H, N), rows(B, H, 4)], "form_numbers": []}),
        ("form", {"form_kind": "strip+strip", "form_tensors": [rows(H, 6)] * 2, "form_numbers": [0, 0]}),
        ("query_start", {"query_start": -(2**62)}),
        ("window", {"window": 0}),
        ("threads", {"threads": 0}),
        ("dropout_p", {"dropout_p": -0.5}),
        ("seed", {"dropout_p": 0.5}),
    ],
)
def test_the_kernels_check_for_themselves(argument, changes):
    """They take raw memory, so that they do not trust who calls them."""
    with pytest.raises(ValueError, match=f"^{argument}\\b"):
        kernels(**changes)


def test_the_kernels_check_what_they_write_into():
    kernels()
    kernels("backward")
    for argument, changed in (
        ("out", rows(B, H, N - 1, D)),
        ("out", rows(*ROWS, dtype=torch.bfloat16)),
        ("lse", rows(B, H, N - 1)),
        ("lse", rows(B, N, H).mT),
        ("lowered", torch.zeros(4224, dtype=torch.int32)),
        ("lowered", with_less_storage(torch.zeros(4240, dtype=torch.int32))),
    ):
        for direction in ("forward", "backward"):
            with pytest.raises(ValueError, match=f"^{argument}\\b"):
                kernels(direction, **{argument: changed})
    for name, shape in {"grad_out": ROWS, "grad_lse": LSE, "grad_query": ROWS, "grad_key": (B, G, N, D)}.items():
        with pytest.raises(ValueError, match=f"^{name}\\b"):
            kernels("backward", **{name: rows(*shape)[:, :, :-1].contiguous()})
    for form in ([rows(H, 5)], [rows(H, 6)] * 2):
        with pytest.raises(ValueError, match=r"^grad_form"):
            kernels("backward", grad_form=form)


def main(impl):
    """Run every case, whatever it raises: what is told to a process's parent is whether it lived."""
    for name, _, run in misuses(impl):
        print(name, flush=True)
        try:
            run()
        except Exception as error:
            if not isinstance(error, ValueError):
                raise
        else:
            raise SystemExit(f"{name}: no error")


if __name__ == "__main__":
    os.environ.setdefault("TRITON_INTERPRET", "1")
    main(*sys.argv[1:])


PLAIN = torch.zeros(2, 4, 300, 64)
FREED = {
    "query of another size than value": (lambda freed: attention(freed, PLAIN, PLAIN[..., :8]), PLAIN),
    "a strip that is scaled": (
        lambda freed: attention(PLAIN, PLAIN, PLAIN, Strip(freed), bias_scale=0.5),
        torch.zeros(4, 90000),
    ),
    "a mask of integers": (
        lambda freed: attention(*[PLAIN[..., :1, :].expand(-1, -1, 90000, -1)] * 3, key_mask=freed),
        torch.ones(2, 90000, dtype=torch.long),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FREED)
def test_memory_that_was_freed_is_refused_where_torch_computes_first(name):
    run, tensor = FREED[name]
    freed = tensor.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"(query|values|key_mask): got a storage of 0 bytes"):
        run(freed)
