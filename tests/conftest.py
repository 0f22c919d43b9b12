"""Shapes in annotations are checked at every call while the tests run: the hook must come before falloff is imported.

FALLOFF_SHAPE_CHECKS=0 leaves it out, for what traces the code.
"""

import os

import jaxtyping

if os.environ.get("FALLOFF_SHAPE_CHECKS", "1") != "0":
    _hook = jaxtyping.install_import_hook("falloff", "shape_checks.check")

import pytest
import torch


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's checks: what users meet are falloff's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
