"""The variant of a test is chosen while it runs."""

import pytest


@pytest.fixture(autouse=True)
def _chosen(request):
    variant = getattr(request.node, "callspec", None) and request.node.callspec.params.get("variant")
    if variant is None:
        yield
        return
    with variant.chosen():
        yield
