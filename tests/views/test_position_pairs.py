import pytest

from falloff import FIRE, ALiBi, ProfileMixture
from falloff.views.position_pairs import pair_biases, pairs_in_words
from falloff.views.properties import scheme_properties


def test_fire_differs_at_the_same_offset():
    fire = FIRE(2, init_L=8)
    early, late = pair_biases(fire, [(3, 7), (27, 23)], head=1)
    assert (early.query, early.key, late.query, late.key) == (7, 3, 27, 23)
    assert early.bias == pytest.approx(fire.dense(8, 8)[1, 7, 3].item(), rel=1e-6)
    assert late.bias == pytest.approx(fire.dense(28, 28)[1, 27, 23].item(), rel=1e-6)
    assert early.bias != late.bias


@pytest.mark.parametrize(
    ("scheme", "pairs", "said"),
    [
        (FIRE(1, init_L=8), [(3, 7), (23, 27)], "At the same offset 4 the biases differ: from row 9 on, "),
        (FIRE(1), [(3, 7), (23, 27)], "At the same offset 4 the biases are equal, since both rows lie before row 513: "),
        (ALiBi(1), [(3, 7), (23, 27)], "At the same offset 4 the biases are equal: the offset alone decides."),
        (ALiBi(1), [(3, 7), (23, 28)], "The offsets differ (4, 5), so these pairs tell nothing"),
        (ALiBi(1), [(3, 7)], ""),
    ],
)
def test_pairs_in_words(scheme, pairs, said):
    words = pairs_in_words(pair_biases(scheme, pairs), scheme_properties(scheme))
    assert words.startswith(said)
    assert bool(words) == bool(said)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"head: got 1, expected 0 \.\. 0"):
        pair_biases(ALiBi(1), [(0, 1)], head=1)
    with pytest.raises(ValueError, match="pairs: got 3,999999999, expected positions from 0 to 131072"):
        pair_biases(ALiBi(1), [(3, 999999999)])
    with pytest.raises(ValueError, match="depends on what the tokens say"):
        pair_biases(ProfileMixture(1), [(3, 7)])
