"""Which GPUs are refused, and what is done for a GPU and a version of Triton, without any of them."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import interpreter

from falloff.ops import implementations
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from falloff.ops.triton import hardware, tiles
from falloff.ops.triton.host import device
from falloff.ops.triton.host import problem as host_problem
from ops.triton.test_road import problem

CALL = Call(None, False, 1.0, 0, None, None, None, 0.0, None)


@pytest.fixture
def gpu(monkeypatch):
    """Calls with the properties of a GPU, for a query on it."""
    asked = []

    def found(version=None, **properties):
        hardware._refusal.cache_clear()
        monkeypatch.setattr(torch.version, "hip", version)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: asked.append(index) or SimpleNamespace(**properties)
        )
        with FakeTensorMode():
            return torch.empty(1, 1, 64, 64, dtype=torch.float16, device="cuda:0"), asked

    yield found
    hardware._refusal.cache_clear()


def test_too_old_a_gpu_is_refused_with_the_reason(gpu):
    query, asked = gpu(name="Tesla T4", major=7, minor=5)
    assert "8.0, and Tesla T4 has 7.5" in implementation.refusal(query, query, CALL)
    with pytest.raises(ValueError, match=r"'triton', which cannot serve this call: .*Tesla T4"):
        implementations.choose("triton", query, query, CALL)
    assert implementations.choose("auto", query, query, CALL) == "blockwise"
    assert asked == [0]  # once


def test_a_gpu_with_tensor_cores_is_served(gpu):
    for major, minor in ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        query, _ = gpu(name="a GPU", major=major, minor=minor)
        assert implementations.choose("auto", query, query, CALL) == "triton"


@pytest.mark.parametrize(
    ("name", "served"),
    [("gfx942:sramecc+:xnack-", True), ("gfx950", True), ("gfx1100", False), ("gfx1201", False), ("gfx906", False)],
)
def test_of_amd_those_with_matrix_cores_are_served(gpu, name, served):
    query, _ = gpu("7.0", gcnArchName=name)
    reason = implementation.refusal(query, query, CALL)
    assert (reason is None) if served else (f"this is {name}" in reason)


def test_a_compiler_takes_the_refusal_as_a_constant(gpu):
    gpu(name="Tesla T4", major=7, minor=5)
    compiled = torch.compile(lambda x: x + len(hardware.refusal(0)), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)) == len(hardware.refusal(0))


def test_a_machine_whose_gpus_are_all_refused_has_none(gpu, monkeypatch):
    monkeypatch.setattr(implementation, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu(name="Tesla T4", major=7, minor=5)
    assert "Tesla T4" in implementation.unavailable()
    gpu(name="H100", major=9, minor=0)
    assert implementation.unavailable() is None


def test_tables_are_chosen_by_backend():
    """MI350 has as much shared memory as an A100, and other registers."""
    found = [
        tiles.tiles("dkdv", 128, torch.float16, target, capability, 160 * 1024, "strip", True)
        for target, capability in (("cuda", 80), ("cuda", 90), ("cuda", 100), ("gfx950", 0))
    ]
    tables = (tiles.HALF_AMPERE, tiles.HALF, tiles.HALF_BLACKWELL, tiles.HALF_AMD)
    assert found == [table["dkdv"][128] for table in tables]


def test_registers_are_limited_only_where_little_else_takes_them():
    """maxnreg is an option of NVIDIA's backend alone. Other masks, dropout, bands and warps would spill."""

    def limit(kernel="forward", block_d=64, target="cuda", capability=90, kind="strip", plain=True):
        sizes = tiles.tiles(kernel, block_d, torch.float16, target, capability, 160 * 1024, kind, plain)
        return sizes.options().get("maxnreg")

    assert limit() == limit(kind="none") == 128
    others = ({"kernel": "dq"}, {"block_d": 128}, {"capability": 80}, {"target": "gfx950", "capability": 0})
    for other in (*others, {"kind": "warp"}, {"kind": "band"}, {"plain": False}):
        assert limit(**other) is None


@pytest.mark.parametrize(("precision", "found"), [("ieee", (64, 16, 16, 1)), ("tf32", (64, 32, 4, 1))])
def test_warps_of_decode_grow_with_the_rows_of_float32(precision, found):
    few = tiles.Tiles(16, 32, 4, 1)
    many = tiles.decode_tiles(few, 64, precision == "tf32")
    assert many == tiles.Tiles(*found)
    assert tiles.decode_tiles(few, 8, precision == "tf32") == few


@pytest.mark.parametrize(
    ("text", "numbers"), [("3.6.0", (3, 6, 0)), ("3.10.0+git12ab", (3, 10, 0)), ("3.7.1.post2", (3, 7, 1)), ("main", ())]
)
def test_versions_are_compared_as_numbers(text, numbers):
    assert device.version(text) == numbers


@pytest.mark.parametrize(
    ("version", "capability", "form", "ahead"),
    [
        ((3, 6, 0), 90, "t5", False),
        ((3, 7, 0), 90, "none", False),
        ((3, 7, 1), 90, "alibi", True),
        ((3, 7, 1), 90, "fire", True),
        ((3, 10, 0), 90, "fire", True),
        ((3, 6, 0), 80, "fire", True),
        ((3, 6, 0), 100, "t5", True),
        ((3, 6, 0), 0, "fire", True),
    ],
)
def test_hopper_copies_nothing_ahead_where_triton_sets_no_fence(version, capability, form, ahead, monkeypatch):
    monkeypatch.setattr(device, "_triton_version", lambda: version)
    found = device.Device("cuda" if capability else "gfx942", capability, tiles.LARGE)
    monkeypatch.setattr(host_problem, "device_of", lambda tensor: found)
    call = host_problem.Problem(*problem(form))
    for kernel in ("forward", "dq", "dkdv", "diagonal"):
        table = tiles.tiles(kernel, call.block_d, torch.bfloat16, *found, call.bias.kind, True)
        assert call.tiles(kernel) == (table if ahead else table._replace(num_stages=1))
    few, many = (host_problem.Problem(*problem(form, rows)).tiles("decode") for rows in (1, 20))
    assert few.num_stages > 1  # too few rows for products of warpgroups
    assert (many.num_stages > 1) == ahead


def test_multiply_adds_are_asked_for(monkeypatch):
    """Triton 3.10 fuses them only where it is told to."""
    asked = {}
    monkeypatch.setattr(
        interpreter.GridExecutor, "__call__", lambda grid, *_, **options: asked.setdefault(grid.fn.__name__, options)
    )
    query, key, value, call = problem("t5")
    lowered = torch.zeros(implementation.lowered_size(query, key, call), dtype=torch.int32)
    out, lse = implementation.forward(query, key, value, call, lowered)
    implementation.backward(out, None, query, key, value, out, lse, lowered, call, [True] * 4)
    for kernel in ("forward_kernel", "dq_kernel", "dkdv_kernel", "diagonal_kernel"):
        assert asked[kernel]["enable_fp_fusion"] is True
