"""Shapes in annotations are checked at every call while the tests run: the hook must come before falloff is imported.

FALLOFF_SHAPE_CHECKS=0 turns the checks off, for tests that trace the code. They are also off without jaxtyping or beartype:
the tests of the GPU kernels need only torch, triton, pytest and hypothesis.
"""

import ast
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton looks when it is imported

_checked = os.environ.get("FALLOFF_SHAPE_CHECKS", "1") != "0" and find_spec("jaxtyping") and find_spec("beartype")


def _modules():
    """Every module of falloff except device code, whose source Triton reads."""
    source = Path(__file__).parents[1] / "src"
    for path in (source / "falloff").rglob("*.py"):
        if path.stem != "__init__" and "kernels" not in path.parts:
            yield ".".join(path.relative_to(source).with_suffix("").parts)


if _checked:
    import jaxtyping
    from jaxtyping import _import_hook

    class _OutsideFunctions(_import_hook.JaxtypingTransformer):
        """Wraps no function inside a function: that would compile its checks anew at each call of the outer one."""

        def generic_visit(self, node):
            if not isinstance(node, ast.FunctionDef):
                super().generic_visit(node)

    _import_hook.JaxtypingTransformer = _OutsideFunctions
    _hook = jaxtyping.install_import_hook(list(_modules()), "shape_checks.check")


_many_locals = " = ".join(f"x{i}" for i in range(20000))
_frame: dict = {}
exec(
    f"def call_from_large_frame(call, /, **arguments):\n if not call: {_many_locals} = 0\n return call(**arguments)", _frame
)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Call each test from a frame with 20000 locals.

    Python stores frames in chunks of 16 KB. If a loop calls a function just at the end of a chunk, each call allocates and
    frees the next chunk. A large frame gets a chunk with room for all frames after it.
    Triton's interpreter is such a loop: without the frame, OMP_NUM_THREADS=1 pytest tests/ops/conformance -k "triton and
    padding and float32 and 83" took 33 s of CPU instead of 26, of which 10 are the start (two runs of each in turn).
    """
    pyfuncitem.obj = partial(_frame["call_from_large_frame"], pyfuncitem.obj)


@pytest.fixture
def unchecked(monkeypatch):
    """Without the checks of jaxtyping, so that falloff's own errors are raised, as for users."""
    if not _checked:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def one_thread():
    """torch has one thread on the CPU, or as many as the test sets; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
