"""What a comparison refuses to compare."""

import pytest
import torch

from ops.cases import tensors
from ops.conformance.budget import Case


def test_a_leaf_in_two_places_is_refused():
    """As key and value it has one gradient, the sum of both: dK and dV would not be compared."""
    query, key, _ = tensors(1, 1, 1, 4, 4, 4, torch.float32)
    with pytest.raises(ValueError, match="in two places"):
        Case(query, key, key)
    with pytest.raises(ValueError, match="in two places"):
        Case(*tensors(1, 1, 1, 4, 4, 4, torch.float32), leaves=[query, query])
