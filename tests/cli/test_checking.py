import json
import re

import pytest

SMALL = ["--num-buckets", "4", "--max-distance", "5"]
EXERCISE = "0 X X X X X\n1 0 X X X X\n2 1 0 X X X\n2 2 1 0 X X\n3 1 2 1 0 X\n3 3 2 2 1 0\n"
RIGHT = EXERCISE.replace("3 1 2 1 0", "3 2 2 1 0")


def test_the_exercise_has_one_wrong_cell(check):
    result = check(EXERCISE, *SMALL, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "wrong": [{"query": 4, "key": 1, "offset": 3, "found": 1, "expected": 2}],
        "checked": 36,
        "row_shifts": None,
    }
    printed = check(EXERCISE, *SMALL)
    assert printed.exit_code == 1
    assert "1 wrong" in printed.stdout
    assert re.search(r"^\s+4\s+1\s+3\s+1\s+2\s*$", printed.stdout, re.MULTILINE)


def test_a_grid_that_is_right(check):
    assert json.loads(check(RIGHT, *SMALL, "--json").stdout) == {"wrong": [], "checked": 36, "row_shifts": None}
    printed = check(RIGHT, *SMALL)
    assert printed.exit_code == 0
    assert "36 cells checked (21 visible, 15 masked)" in printed.stdout


def test_masks_are_checked(check):
    result = check("0 0\nX 0\n", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["wrong"] == [
        {"query": 0, "key": 1, "offset": -1, "found": 0, "expected": None},
        {"query": 1, "key": 0, "offset": 1, "found": None, "expected": 1},
    ]


def test_values_are_checked_to_the_written_digits(check):
    assert check("0,X,X\n-0.25,0,X\n-0.5,-0.25,0\n", "--head", 1, scheme="alibi").exit_code == 0
    assert check("0,X,X\n-0.2,0,X\n-0.5,-0.3,0\n", "--head", 1, scheme="alibi").exit_code == 0
    result = check("0,X\n-0.26,0\n", "--head", 1, "--json", scheme="alibi")
    assert json.loads(result.stdout)["wrong"] == [{"query": 1, "key": 0, "offset": 1, "found": -0.26, "expected": -0.25}]


def test_what_show_gives_is_right(check, read):
    for name, options in {"t5": ["--values"], "fire": [], "tisa": ["--future"], "sandwich": []}.items():
        cells = read("show", name, *options, "--seed", 3)["cells"]
        grid = "\n".join(",".join("X" if cell is None else repr(cell) for cell in row) for row in cells)
        assert check(grid, *options, "--seed", 3, scheme=name).exit_code == 0
        if name != "sandwich":  # of which nothing is random
            assert check(grid, *options, "--seed", 4, scheme=name).exit_code == 1


def test_a_grid_from_standard_input(falloff):
    pasted = "        0 1 2\n-------------\n(q) 0 | 0 X X\n(u) 1 | 1 0 X\n(e) 2 | 2 1 0\n"
    assert falloff("check", "-", "--scheme", "t5", stdin=pasted).exit_code == 0
    assert falloff("check", "-", "--scheme", "t5", stdin=pasted.replace("2 1 0", "2 2 0")).exit_code == 1
    refused = falloff("check", "-", "--scheme", "t5", stdin="hello")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("falloff: standard input: row 0, column 0 reads 'hello', expected a number")


def test_what_show_prints_can_be_checked(falloff):
    for labels in ([], ["--labels", "u_{bucket}"], ["--labels", "q_{query}.k_{key}+u_{bucket}"]):
        printed = falloff("show", "t5", *SMALL, "--length", 5, *labels, columns=120).stdout
        cells = printed[printed.index("query") : printed.index(" 0  bucket 0")]
        assert falloff("check", "-", "--scheme", "t5", *SMALL, stdin=cells).exit_code == 0
        assert falloff("check", "-", "--scheme", "t5", "--num-buckets", 3, stdin=cells).exit_code == 1


def test_values_that_softmax_takes_for_the_same(check):
    bloom = "0 X X\n0 0.5 X\n0 0.5 1\n"  # slope * key position
    printed = check(bloom, scheme="alibi")
    assert printed.exit_code == 1
    assert "The same up to a constant in each row" in printed.stdout
    assert "(+0, +0.5, +1), which softmax cancels" in " ".join(printed.stdout.split())
    assert json.loads(check(bloom, "--json", scheme="alibi").stdout)["row_shifts"] == [0.0, 0.5, 1.0]
    wrong = json.loads(check(bloom.replace("0 0.5 1\n", "0 0.5 1.25\n"), "--json", scheme="alibi").stdout)
    assert wrong["row_shifts"] is None
    assert len(wrong["wrong"]) == 4


def test_a_list_of_buckets_is_checked_too(check):
    assert check(RIGHT, "--buckets", "0,1,2-3,4+", scheme=None).exit_code == 0
    assert check(RIGHT, "--buckets", "0,1,2,3,4+", scheme=None).exit_code == 1


def test_the_notation_of_textbooks(check):
    assert check(RIGHT, "--n-b", 3, "--dist-max", 5).exit_code == 0
    plausible = check(RIGHT, "--num-buckets", 3, "--max-distance", 5)
    assert plausible.exit_code == 1
    assert "a textbook's n_b = 3 are 4, 0 .. 3: --n-b 3 --dist-max 5" in plausible.stdout


# match


def test_match_pairs_to_buckets(falloff, read):
    matched = read("match", "9,4", "12,0", "3,3", "--scheme", "t5", *SMALL)
    assert list(matched) == ["scheme", "settings", "rule", "pairs"]
    assert [(pair["query"], pair["key"], pair["offset"], pair["bucket"]) for pair in matched["pairs"]] == [
        (9, 4, 5, 3),
        (12, 0, 12, 3),
        (3, 3, 0, 0),
    ]
    assert matched["pairs"][0]["reason"].startswith("offset 5 has bucket 3 (offsets 4 and beyond): 2 + floor(")
    printed = falloff("match", "(9, 4)", "12:0", "--buckets", "0,1,2-3,4+", columns=120).stdout
    assert re.search(r"^ *9 +4 +5 +3 +offset 5 has bucket 3 \(offsets 4 and beyond\) *$", printed, re.MULTILINE)
    assert read("match", "3,9", "--scheme", "t5", "--bidirectional")["pairs"][0]["bucket"] == 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match"], "Missing argument 'PAIRS...'"),
        (["match", "9,4"], "--scheme: got nothing, expected a scheme"),
        (["match", "9,4", "--scheme", "alibi"], "--scheme: got 'alibi', expected one with buckets, as t5"),
        (["match", "nine", "--scheme", "t5"], "PAIRS: got 'nine', expected pairs QUERY,KEY of positions, as 9,4 12,0"),
        (["match", "9,4", "7", "--scheme", "t5"], "PAIRS: got '9,4 7', expected pairs"),
        (["match", "9,4", "--buckets", "0,1", "--scheme", "t5"], "--buckets: got '0,1' and --scheme, expected a list or a"),
        (["match", "9,4", "--buckets", "0,1+", "--num-buckets", "4"], "--buckets: got '0,1+' and --num-buckets, expected"),
        (["match", "9,4", "--buckets", "0,1"], "--buckets: got '0,1', expected the last range, and no other, to be open"),
        (
            ["match", "9,4", "--buckets", "0,2+"],
            "expected rising ranges without a gap: a range that starts at 1, where '2+'",
        ),
        (["match", "9,4", "--buckets", "0,1-x"], "expected ranges of offsets, as 0,1,2-3,4+: '1-x' is none"),
        (["match", *["9,4"] * 1001, "--scheme", "t5"], "PAIRS: got 1001, expected at most 1000"),
    ],
)
def test_bad_pairs_and_lists_are_one_line(falloff, arguments, message):
    result = falloff(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
