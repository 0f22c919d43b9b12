import pytest

from falloff import SCHEMES


@pytest.mark.parametrize("name", SCHEMES)
def test_explain_every_scheme(falloff, name):
    result = falloff("explain", name)
    assert result.exit_code == 0
    printed = " ".join(result.stdout.split())
    assert SCHEMES[name].reading in printed
    assert SCHEMES[name].formula in printed


def test_explain_as_json(read):
    explained = read("explain", "t5", "--trained-length", 100)
    assert list(explained) == [
        *("scheme", "kind", "formula", "paper", "reading", "settings", "num_heads", "seed"),
        *("parameters", "num_parameters", "properties"),
    ]
    assert explained["parameters"] == [{"name": "weight", "shape": [32, 8], "count": 256}]
    found = explained["properties"]
    assert list(found) == [
        *("toeplitz", "monotone", "keys", "farthest", "rows_compared", "not_toeplitz_from", "falling_heads"),
        *("rising_heads", "bounded", "lowest", "highest", "sign_symmetric", "future_constant", "reach", "mass"),
        *("mass_reach", "beyond"),
    ]
    assert (found["toeplitz"], found["monotone"], found["bounded"], found["reach"]) == (True, False, True, 113)
    assert [list(entry) for entry in found["mass"]] == [["window", "least", "median", "largest"]] * 4
    assert [entry["window"] for entry in found["mass"]] == [16, 64, 256, 1024]
    assert found["beyond"]["trained_length"] == 100
    assert found["beyond"]["untrained_buckets"] == [31]


def test_explain_computes(read):
    assert read("explain", "fire")["properties"]["not_toeplitz_from"] == 513
    assert read("explain", "fire", "--init-l", 50)["properties"]["not_toeplitz_from"] == 51
    assert read("explain", "sandwich")["properties"]["monotone"] is False
    assert read("explain", "kerple-power")["properties"]["monotone"] is True
    assert read("explain", "profile-mixture")["properties"] is None


def test_explain_says_what_is_random(falloff):
    assert "random, seed 7" in falloff("explain", "tisa", "--seed", 7).stdout
    assert "start values  fixed" in falloff("explain", "alibi", "--learned").stdout
    assert "start values" not in falloff("explain", "alibi").stdout


def test_what_is_learned_is_a_fact_of_the_instance(falloff, read):
    """`explain alibi --learned` said "Nothing is learned" of a scheme that has parameters."""
    printed = " ".join(falloff("explain", "alibi", "--learned").stdout.split())
    assert "kind learned: training moves it" in printed
    assert "Nothing is learned" not in printed
    assert "The slopes are learned" in printed
    assert read("explain", "alibi", "--learned")["kind"] == "learned"
    assert read("explain", "alibi")["kind"] == "heuristic"
    assert "Nothing is learned" in read("explain", "alibi")["reading"]
