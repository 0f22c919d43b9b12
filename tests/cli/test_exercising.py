import pytest

from falloff.exercises import EXERCISES, make_exercise

ANSWERS = {"grid": "4,0", "match": "0,1,3,3,2", "share": "5", "property": "none"}  # of seed 1


@pytest.mark.parametrize("kind", EXERCISES)
def test_an_exercise_is_asked_and_answered(falloff, read, kind):
    asked = falloff("exercise", kind, "--seed", 1)
    assert asked.exit_code == 0
    assert f"falloff exercise {kind} --seed 1 --answer " in " ".join(asked.stdout.split())
    assert make_exercise(kind, 1).question in " ".join(asked.stdout.split())
    right = falloff("exercise", kind, "--seed", 1, "--answer", ANSWERS[kind])
    assert right.exit_code == 0
    assert right.stdout.startswith("Right.")
    answered = read("exercise", kind, "--seed", 1, "--answer", ANSWERS[kind])
    assert answered["right"] is True
    assert answered["given"] == answered["answer"]
    assert answered["explanation"]


@pytest.mark.parametrize(
    ("kind", "wrong"), [("grid", "5,0"), ("match", "0,1,3,2,2"), ("share", "11"), ("property", "symmetric")]
)
def test_a_wrong_answer_is_explained(falloff, read, kind, wrong):
    answered = read("exercise", kind, "--seed", 1, "--answer", wrong, status=1)
    assert answered["right"] is False
    printed = falloff("exercise", kind, "--seed", 1, "--answer", wrong)
    assert printed.exit_code == 1
    assert printed.stdout.startswith("Wrong.")
    assert answered["explanation"][-1] in " ".join(printed.stdout.split())


def test_what_is_asked_as_json_does_not_tell_the_answer(falloff, read):
    asked = read("exercise", "grid", "--seed", 1)
    assert list(asked) == [
        *("kind", "seed", "question", "rule", "answer_form", "shown", "given", "right", "answer", "explanation"),
    ]
    assert [asked[key] for key in ("given", "right", "answer", "explanation")] == [None] * 4
    assert asked["shown"]["cells"][4][0] == 3
    assert list(read("exercise", "match", "--seed", 1)["shown"]) == ["scheme", "settings", "pairs", "buckets"]
    assert list(read("exercise", "share", "--seed", 1)["shown"]) == ["scheme", "settings", "distance", "choices"]
    assert list(read("exercise", "property", "--seed", 1)["shown"]) == ["cells", "properties"]
    help_text = falloff("exercise", "--help", columns=200).stdout
    assert all(key in help_text for key in asked)


def test_the_seed_decides_what_is_not_said(read):
    assert [read("exercise", "--seed", seed)["kind"] for seed in range(4)] == list(EXERCISES)
    assert read("exercise", "share")["seed"] >= 0


def test_the_grid_of_an_exercise_shows_no_legend(falloff):
    printed = falloff("exercise", "grid", "--seed", 1).stdout
    assert "          4  3  3  2  1  0" in printed
    assert "bucket 4:" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["crossword"], "KIND: got 'crossword', expected one of grid, match, share, property"),
        (["grid", "--seed", "-1"], "Invalid value for '--seed'"),
        (["grid", "--seed", "4294967296"], "Invalid value for '--seed'"),
        (["grid", "--answer", "4,1"], "--answer: got no --seed, expected the seed of the exercise that this answers"),
        (["grid", "--seed", "1", "--answer", "4"], "--answer: got '4', expected QUERY,KEY, as 4,1"),
        (["grid", "--seed", "1", "--answer", "0,3"], "--answer: got 0,3, expected a cell that is not masked"),
        (["match", "--seed", "1", "--answer", "1"], "--answer: got 1 buckets, expected 5"),
        (["share", "--seed", "1", "--answer", "6"], "--answer: got '6', expected one of 0, 1, 5, 11"),
        (["property", "--seed", "1", "--answer", "round"], "--answer: got 'round', expected one or several of diagonals"),
    ],
)
def test_what_is_no_answer_is_one_line(falloff, arguments, message):
    for extra in ([], ["--json"]):
        result = falloff("exercise", *arguments, *extra)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
