"""The road on the host: what a call launches, counted while the kernels do nothing; and what is lowered for it, once."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from falloff import Band, Strip, T5Bias, Warp, attention
from falloff.ops import fused
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from falloff.ops.triton.host import device

GPU = torch.cuda.is_available()
B, H, G, N, D = 2, 4, 2, 2048, 16
FORMS = {
    "none": lambda rows: None,
    "t5": lambda rows: Strip(torch.zeros(H, 114)),
    "t5 bidirectional": lambda rows: Strip(torch.zeros(H, 183), -91),
    "alibi": lambda rows: Strip(torch.zeros(H, rows + N - 1), 1 - N),
    "band": lambda rows: Band(torch.zeros(B, H, rows, 64)),
    "fire": lambda rows: Warp(torch.zeros(N), torch.zeros(rows), torch.zeros(32), torch.zeros(H, 33), torch.zeros(H, 33)),
}
GRADIENTS = ["delta_kernel", "dq_kernel", "dkdv_kernel"]


class Launches(TorchDispatchMode):
    """The kernels and operators of torch that a device would be asked to run: views and new memory are free."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.kernels, self.operators = [], []
        monkeypatch.setattr(
            interpreter.GridExecutor, "__call__", lambda grid, *_, **__: self.kernels.append(grid.fn.__name__)
        )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if not function.is_view and name not in ("empty", "empty_like", "new_empty", "_unsafe_view"):
            self.operators.append(name)
        return function(*args, **(kwargs or {}))

    def taken(self):
        """The kernels and the number of operators since this was last asked for."""
        found = list(self.kernels), len(self.operators)
        self.kernels.clear()
        self.operators.clear()
        return found


def problem(form, rows=N, **masks):
    query = torch.zeros(B, H, rows, D, dtype=torch.bfloat16)
    key, value = (torch.zeros(B, G, N, D, dtype=torch.bfloat16) for _ in range(2))
    call = {"causal": True, "scale": 0.25, "query_start": N - rows, "window": None, "dropout_p": 0.0} | masks
    masks = {"key_mask": None, "document_ids": None, "seed": None} | call
    return query, key, value, Call(form=FORMS[form](rows), **masks)


def lowered_of(query, key, value, call):
    return torch.zeros(implementation.lowered_size(query, key, call), dtype=torch.int32)


def all_masks():
    return {
        "window": 5000,
        "key_mask": torch.ones(B, N, dtype=torch.bool),
        "document_ids": torch.zeros(B, N, dtype=torch.int64),
        "dropout_p": 0.1,
        "seed": torch.tensor(7),
    }


@pytest.mark.skipif(GPU, reason="counts in the interpreter")
@pytest.mark.parametrize("masks", [dict, all_masks])
@pytest.mark.parametrize(
    ("form", "lowering", "lowering_operators", "gathering", "gathering_operators"),
    [
        ("none", [], 0, [], 0),
        ("t5", ["pad_strip_kernel"], 0, ["diagonal_kernel", "gather_strip_kernel"], 0),
        ("t5 bidirectional", ["pad_strip_kernel"], 0, ["diagonal_kernel", "gather_strip_kernel"], 0),
        (
            "alibi",
            ["pad_strip_kernel", "key_norms_kernel", "bounds_kernel"],
            0,
            ["diagonal_kernel", "gather_strip_kernel"],
            0,
        ),
        ("band", [], 0, [], 1),
        ("fire", ["lower_warp_kernel"], 1, ["diagonal_kernel", "gather_warp_kernel"], 1),
    ],
)
def test_launches_of_a_call(form, lowering, lowering_operators, gathering, gathering_operators, masks, monkeypatch):
    """The backward starts from what the forward lowered. Only the range of keys depends on the log-sum-exp and delta."""
    query, key, value, call = problem(form, **masks())
    skipping = ["key_ranges_kernel"] if form == "alibi" else []
    skipping += ["document_ranges_kernel"] if call.document_ids is not None else []
    with Launches(monkeypatch) as launches:
        lowered = lowered_of(query, key, value, call)
        launches.taken()
        out, lse = implementation.forward(query, key, value, call, lowered)
        assert launches.taken() == ([*lowering, *skipping, "forward_kernel"], lowering_operators)
        implementation.backward(out, lse, query, key, value, out, lse, lowered, call, [True, True, True, False])
        knots = 1 if form == "fire" else 0  # their padding
        assert launches.taken() == ([GRADIENTS[0], *skipping, *GRADIENTS[1:]], knots)
        implementation.backward(out, None, query, key, value, out, lse, lowered, call, [True] * 4)
        assert launches.taken() == (
            [GRADIENTS[0], *skipping, *GRADIENTS[1:], *gathering],
            gathering_operators,
        )


@pytest.mark.skipif(GPU, reason="counts in the interpreter")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_launches_of_a_call_with_a_scheme(bidirectional, monkeypatch):
    """All that `attention` with T5's bias and autograd ask of a GPU: beside attention, at most 3 and then 6 launches.

    Operators of torch count as one each; its sum into a parameter takes more.
    """
    monkeypatch.setattr(fused, "_are_plain", lambda tensors: True)  # although a mode counts
    scheme = T5Bias(H, bidirectional=bidirectional)
    query, key, value, _ = problem("none")
    leaves = [tensor.requires_grad_() for tensor in (query, key, value, scheme.weight)]
    for _ in range(2):  # the first call computes the buckets
        with Launches(monkeypatch) as launches:
            out = attention(query, key, value, scheme, causal=True, impl="triton")
            assert launches.kernels == ["pad_strip_kernel", "forward_kernel"]
            forward = [name for name in launches.operators if name != "new_zeros"]  # a GPU's lowered call is not cleared
            launches.taken()
            torch.autograd.grad(out, leaves, out)
            assert launches.kernels == [*GRADIENTS, "diagonal_kernel", "gather_strip_kernel"]
            backward = list(launches.operators)
    assert forward == ["index", "clone"]
    assert backward == ["new_zeros", "index_put"]


@pytest.mark.skipif(GPU, reason="counts in the interpreter")
@pytest.mark.parametrize(
    ("form", "lowering", "operators"),
    [
        ("none", [], 0),
        ("t5", ["pad_strip_kernel"], 0),
        ("alibi", ["pad_strip_kernel"], 0),  # nothing is skipped, so nothing is looked for
        ("band", [], 0),
        ("fire", ["lower_warp_kernel"], 1),
    ],
)
def test_launches_of_decoding(form, lowering, operators, monkeypatch):
    with Launches(monkeypatch) as launches:
        inputs = problem(form, rows=1)
        launches.taken()
        implementation.forward(*inputs, None)
        assert launches.taken() == ([*lowering, "split_kernel", "merge_kernel"], operators)


@pytest.mark.skipif(GPU, reason="counts in the interpreter")
@pytest.mark.parametrize(
    ("form", "needs", "kernels"),
    [
        ("t5", "q", ["delta_kernel", "dq_kernel"]),
        ("t5", "v", ["delta_kernel", "dkdv_kernel"]),
        ("t5", "f", ["delta_kernel", "diagonal_kernel", "gather_strip_kernel"]),
        # causal: nothing lies in the future
        ("t5 bidirectional", "f", ["delta_kernel", "diagonal_kernel", "gather_strip_kernel"]),
        ("band", "f", ["delta_kernel", "dq_kernel"]),
        ("fire", "f", ["delta_kernel", "dq_kernel", "diagonal_kernel", "gather_warp_kernel"]),
        ("none", "f", []),
        ("t5", "", []),
    ],
)
def test_what_is_not_needed_launches_nothing(form, needs, kernels, monkeypatch):
    query, key, value, call = problem(form)
    lowered, lse = lowered_of(query, key, value, call), query.new_zeros(query.shape[:3], dtype=torch.float32)
    with Launches(monkeypatch) as launches:
        needs = [letter in needs for letter in "qkvf"]
        *_, of_form = implementation.backward(query, None, query, key, value, query, lse, lowered, call, needs)
        assert launches.taken()[0] == kernels
    assert (of_form is None) == (not needs[3] or form == "none")


@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_what_is_lowered_asks_nothing_of_symbolic_lengths(form, unchecked):
    """A comparison would make a guard: torch.compile would compile anew where its outcome changes."""
    sizes = []
    for rows in (N, 100):
        query, key, _, call = problem(form, rows)
        environment = ShapeEnv()
        mode = FakeTensorMode(shape_env=environment)
        fake = [mode.from_tensor(t, static_shapes=False) for t in (query, key)]
        symbolic = implementation.lowered_size(*fake, call)
        assert not environment.guards
        sizes.append(implementation.lowered_size(query, key, call))
        assert int(symbolic) == sizes[-1]
    assert (sizes[0] == 0) == (form in ("none", "band"))


def test_a_device_is_asked_once(monkeypatch):
    query, key, value, call = problem("t5")
    implementation.forward(query[:, :, :1], key[:, :, :20], value[:, :, :20], call, None)
    asked = device._ask.cache_info().misses
    implementation.forward(query[:, :, :1], key[:, :, :20], value[:, :, :20], call, None)
    assert device._ask.cache_info().misses == asked


@pytest.mark.parametrize("rows", [1, 100])
def test_what_was_lowered_is_read_and_not_written(rows):
    """Also by the backward of a call whose forward split the keys."""
    torch.manual_seed(0)
    query, key, value, call = (t[:, :, :300] if isinstance(t, torch.Tensor) else t for t in problem("t5", rows))
    out, lse = implementation.forward(query, key, value, call, lowered := lowered_of(query, key, value, call))
    before = lowered.clone()
    implementation.backward(out, None, query, key, value, out, lse, lowered, call, [True] * 4)
    assert torch.equal(lowered, before)
