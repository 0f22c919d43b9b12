"""The tests of the GPU kernels run on a GPU where there is one, and else in Triton's interpreter, at smaller sizes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def _on_the_gpu():
    if not torch.cuda.is_available():
        yield
        return
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.fixture(autouse=True)
def _in_the_interpreter(monkeypatch):
    """Larger tiles of float32, for the interpreter takes its time for each; and bfloat16, which it knows but half."""
    if torch.cuda.is_available():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    from falloff.ops.triton import tiles

    size = tiles.Tiles(64, 64, 4, 1)
    table = {kernel: {256: size} for kernel in ("forward", "query", "key", "diagonal")}
    table["decode"] = {256: tiles.Tiles(16, 64, 4, 1)}
    monkeypatch.setattr(tiles, "FLOAT32", table)

    convert_other = interpreter._convert_float

    def convert(data, source, target, rounding):
        """The interpreter holds bfloat16 as its bits, and truncates where a GPU rounds to nearest even."""
        if (source, target) == (tl.bfloat16, tl.float32):
            return data.astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            bits = np.ascontiguousarray(data).view(np.uint32)
            rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
            return np.where(np.isnan(data), 0x7FFF, rounded).astype(np.uint16)
        return convert_other(data, source, target, rounding)

    dot_other = interpreter.InterpreterBuilder.create_dot

    def dot(builder, a, b, *rest):
        """Without this, it multiplies the bits."""
        a, b = (
            interpreter.TensorHandle(convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)
            if x.dtype.scalar == tl.bfloat16
            else x
            for x in (a, b)
        )
        return dot_other(builder, a, b, *rest)

    monkeypatch.setattr(interpreter, "_convert_float", convert)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def pytest_terminal_summary(terminalreporter):
    """Where FALLOFF_TEST_REPORT names a file: what ran and how it ended, for a machine that keeps nothing else."""
    path = os.environ.get("FALLOFF_TEST_REPORT")
    if path is None:
        return
    ended = {how: [report.nodeid for report in terminalreporter.stats.get(how, [])] for how in ("passed", "failed", "error")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "interpreter"
    counts = {how: len(names) for how, names in ended.items()}
    report = {"device": device, "torch": torch.__version__, **counts, "not_passed": ended["failed"] + ended["error"]}
    Path(path).write_text(json.dumps(report, indent=1) + "\n")
