"""Triton's interpreter runs the GPU kernels where no GPU is, for every test of attention."""

from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(autouse=True)
def _in_the_interpreter(monkeypatch):
    if find_spec("triton") and not torch.cuda.is_available():
        from ops.triton import interpreted

        interpreted.settle(monkeypatch)
