import pytest
import torch
from safetensors.torch import save_file

from falloff import SCHEMES, T5Bias


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
        *("mass_reach", "beyond", "always"),
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
    assert "values      fixed" in falloff("explain", "alibi", "--learned").stdout
    assert "\nvalues" not in falloff("explain", "alibi").stdout


def test_what_is_learned_is_a_fact_of_the_instance(falloff, read):
    """`explain alibi --learned` said "Nothing is learned" of a scheme that has parameters."""
    printed = " ".join(falloff("explain", "alibi", "--learned").stdout.split())
    assert "kind learned: training moves it" in printed
    assert "Nothing is learned" not in printed
    assert "The slopes are learned" in printed
    assert read("explain", "alibi", "--learned")["kind"] == "learned"
    assert read("explain", "alibi")["kind"] == "heuristic"
    assert "Nothing is learned" in read("explain", "alibi")["reading"]


def test_several_schemes_side_by_side(falloff, read):
    printed = falloff("explain", "t5", "alibi", "fire", "rope", columns=120).stdout
    rows = {line.split("  ")[0].strip(): line for line in printed.splitlines() if line.strip()}
    assert rows["reach"].split() == ["reach", "113", "none", "none", "-"]
    assert rows["parameters"].split() == ["parameters", "256", "0", "330", "0"]
    assert "no, from row 513 *" in rows["Toeplitz"]
    assert "* for the present values of the parameters" in printed
    several = read("explain", "t5", "alibi", "--num-buckets", 4, "--learned", "--max-distance", 5)
    one = read("explain", "t5", "--num-buckets", 4, "--max-distance", 5)
    assert list(several) == ["schemes"]
    assert several["schemes"][0] == one
    assert several["schemes"][1]["settings"] == {"learned": True}


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_comparison_never_wraps_its_frame(falloff, columns):
    printed = falloff("explain", *SCHEMES, "rope", "none", columns=columns * 3).stdout
    assert all(len(line) <= columns * 3 for line in printed.splitlines())
    printed = falloff("explain", "t5", "alibi", "fire", columns=columns).stdout
    assert all(len(line) <= columns for line in printed.splitlines())


def test_what_holds_always_and_what_now(falloff, read):
    assert read("explain", "t5")["properties"]["always"] == ["toeplitz", "bounded", "reach", "beyond"]
    lines = falloff("explain", "t5", columns=120).stdout.splitlines()
    assert any(line.startswith("bounded         always  yes") for line in lines)
    assert any(line.startswith("monotone        now     no") for line in lines)
    assert not any("now" in line.split() for line in falloff("explain", "alibi", columns=120).stdout.splitlines())


def test_the_buckets_of_t5_in_numbers(falloff):
    printed = " ".join(falloff("explain", "t5", "--num-buckets", 4, "--max-distance", 5).stdout.split())
    assert "e = b // 2" in printed
    assert "bucket(n) = n if n < 2, else min(3, 2 + floor(ln(n/2) / ln(5/2) * 2))" in printed


@pytest.mark.parametrize("name", ["rope", "none", "RoPE"])
def test_what_is_no_bias_is_explained(falloff, read, name):
    explained = read("explain", name)
    assert explained["properties"] is None
    assert "no bias" in explained["kind"] or "no positions" in explained["kind"]
    assert explained["reading"] in " ".join(falloff("explain", name).stdout.split())


def test_the_values_of_a_checkpoint(falloff, read, tmp_path):
    scheme = T5Bias(2, num_buckets=4, max_distance=5)
    with torch.no_grad():
        scheme.weight.copy_(-torch.arange(4.0)[:, None].expand(4, 2))
    save_file({"scheme.weight": scheme.weight.detach()}, tmp_path / "t5.safetensors")
    explained = read("explain", "t5", "--checkpoint", "t5.safetensors", "--max-distance", 5)
    assert (explained["num_heads"], explained["seed"]) == (2, None)
    assert explained["settings"]["num_buckets"] == 4
    assert (explained["properties"]["monotone"], explained["properties"]["lowest"]) == (True, -3.0)
    printed = falloff("explain", "t5", "--checkpoint", "t5.safetensors", "--n-b", 3, "--dist-max", 5).stdout
    assert "of t5.safetensors, scheme" in printed


def test_pairs_of_positions(falloff, read):
    for order in (["fire", "--pairs", "3,7", "23,27"], ["--pairs", "3,7", "23,27", "fire"]):
        found = read("explain", *order, "--init-l", 8)
        assert [(pair["query"], pair["key"], pair["offset"]) for pair in found["pairs"]] == [(7, 3, 4), (27, 23, 4)]
        assert found["pairs_in_words"].startswith("At the same offset 4 the biases differ")
    printed = falloff("explain", "fire", "alibi", "--pairs", "3,7", "23,27").stdout
    assert "fire: pairs of positions, head 0" in printed
    assert "the offset alone decides" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kerple"], "(did you mean kerple-log or kerple-power?)"),
        (["kerpel-log"], "(did you mean kerple-log or kerple-power?)"),
        (["T5Bias"], "(did you mean t5?)"),
        (["3,7"], "SCHEME: got nothing, expected a scheme"),
        (["t5", "fire", "--dim", "4"], "--dim: t5 and fire do not take it"),
        (["rope", "--dim", "4"], "--dim: rope does not take it"),
        (["t5", "--pairs", "3-7"], "--pairs: got '3-7', expected pairs of positions, as 3,7 23,27"),
        (["t5", "--pairs", "3,999999999"], "--pairs: got 3,999999999, expected positions from 0 to 131072"),
        (["t5", "--pairs", "3,7", "--head", "9"], "--head: got 9, expected 0 .. 7"),
        (["t5", "--prefix", "encoder"], "--prefix: got no --checkpoint, expected the file that it is in"),
        (["t5", "--checkpoint", "none.safetensors"], "none.safetensors: No such file or directory"),
        (["t5", "fire", "--checkpoint", "none.safetensors"], "--checkpoint: got it with 2 schemes, expected one scheme"),
        (["rope", "--checkpoint", "none.safetensors"], "--checkpoint: got it with rope, expected a scheme with parameters"),
        (["t5"] * 33, "SCHEME: got 33, expected at most 32"),
    ],
)
def test_what_cannot_be_explained_is_one_line(falloff, arguments, message):
    result = falloff("explain", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
