import pytest

from falloff import FIRE, ALiBi
from falloff.views.by_offset import curves_by_offset


@pytest.mark.parametrize("scheme", [FIRE(1), ALiBi(1)], ids=repr)
@pytest.mark.parametrize("spacing", ["every", "even", "octaves"])
def test_a_single_position_has_offset_0(scheme, spacing):
    assert curves_by_offset(scheme, 1, spacing).offsets.tolist() == [0]
