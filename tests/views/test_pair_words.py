import pytest

from falloff import FIRE, ALiBi
from falloff.views.pair_words import pairs_in_words
from falloff.views.pairs import pair_bias


def test_a_pair_is_what_the_dense_bias_has_there():
    fire = FIRE(2, init_L=8)
    pair = pair_bias(fire, 27, 23)
    assert pair.offset == 4
    assert pair.values == pytest.approx(fire.dense(28, 28)[:, 27, 23].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("scheme", "pairs", "said"),
    [
        (FIRE(1, init_L=8), [(7, 3), (27, 23)], "The offset is the same, the bias is not"),
        (FIRE(1, init_L=8), [(7, 3), (8, 4), (27, 23)], "The offset is the same, the bias is not"),
        (
            FIRE(1, init_L=8),
            [(7, 3), (27, 23), (8, 4)],
            "before query 27. The offset is the same, the bias is not",
        ),
        (FIRE(1), [(7, 3), (27, 23)], "The query's position begins to matter where it exceeds L"),
        (ALiBi(1), [(7, 3), (27, 23)], "here the offset alone decides"),
        (ALiBi(1), [(7, 3), (28, 23)], "The offsets differ (4, 5): these pairs do not show"),
    ],
)
def test_pairs_in_words(scheme, pairs, said):
    assert said in pairs_in_words(scheme, [pair_bias(scheme, *pair) for pair in pairs])


def test_one_pair_shows_nothing():
    assert pairs_in_words(ALiBi(1), [pair_bias(ALiBi(1), 7, 3)]) == ""
