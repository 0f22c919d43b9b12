"""Shapes in annotations are checked at every call while the tests run: the hook must come before falloff is imported."""

import jaxtyping

_hook = jaxtyping.install_import_hook("falloff", "shape_checks.check")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's checks, for what users meet (falloff's own errors) and for what traces the code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
