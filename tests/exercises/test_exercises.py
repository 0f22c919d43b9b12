import hashlib
from collections import Counter

import pytest
import torch

from falloff.exercises import EXERCISES, PROPERTIES, make_exercise
from falloff.views.grids import bias_grid

SEEDS = range(60)
KINDS = list(EXERCISES)


def bucket(scheme, offset):
    return int(scheme.bucket(torch.tensor(offset)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_exercise_and_draws_nothing_from_torch(kind):
    before = torch.get_rng_state()
    assert make_exercise(kind, 7) == make_exercise(kind, 7)
    assert len({make_exercise(kind, seed).question + str(make_exercise(kind, seed).answer) for seed in range(10)}) > 3
    assert torch.equal(torch.get_rng_state(), before)


def test_exercises_are_the_same_on_every_machine():
    """A teacher hands out a seed: what it stands for must not change. A change here breaks every seed handed out."""
    shown = []
    for kind in KINDS:
        for seed in range(20):
            one = make_exercise(kind, seed)
            data = getattr(one, "grid", None)
            shown.append((kind, seed, data.labels() if data else one.question, one.answer if kind != "property" else None))
    assert hashlib.sha256(repr(shown).encode()).hexdigest() == DIGEST


DIGEST = "205e4d2f677f4a5c9c0419454fd72713c56e489722e0645a94a6a3d25e1740c8"


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_right_and_explained(kind):
    for seed in SEEDS:
        exercise = make_exercise(kind, seed)
        checked = exercise.check(exercise.answer)
        assert checked.right
        assert all(line.endswith(".") and "\n" not in line for line in checked.explanation)
        assert exercise.kind == kind
        assert "\n" not in exercise.question + exercise.rule


def test_exactly_one_bucket_of_the_grid_is_wrong():
    for seed in SEEDS:
        exercise = make_exercise("grid", seed)
        right = bias_grid(exercise.scheme, exercise.grid.length)
        wrong = [
            (query, key)
            for query, row in enumerate(right.cells)
            for key, cell in enumerate(row)
            if cell != exercise.grid.cells[query][key]
        ]
        assert wrong == [exercise.answer]
        query, key = exercise.answer
        assert exercise.grid.cells[query][key] in {entry.bucket for entry in right.legend}  # it looks like a bucket
        (line,) = exercise.check(exercise.answer).explanation
        assert f"offset {query - key} has bucket {right.cells[query][key]} " in line


def test_another_cell_of_the_grid_is_explained_too():
    exercise = make_exercise("grid", 1)
    assert exercise.answer == (4, 0)
    checked = exercise.check(exercise.read("5 0"))
    assert not checked.right
    assert checked.explanation[0].startswith("Query 5, key 0 is right: offset 5 has bucket 4 (offsets 4-5): ")
    assert checked.explanation[1].startswith("Query 4, key 0 reads 3, but offset 4 has bucket 4 ")


def test_every_pair_has_its_bucket():
    for seed in SEEDS:
        exercise = make_exercise("match", seed)
        offsets = [query - key for query, key in exercise.pairs]
        assert list(exercise.answer) == [bucket(exercise.scheme, offset) for offset in offsets]
        assert set(exercise.answer) <= set(exercise.buckets)
        assert len(set(exercise.answer)) >= 3
        assert all(min(pair) >= 0 for pair in exercise.pairs)
        wrong = [*exercise.answer]
        wrong[2] = next(other for other in exercise.buckets if other != wrong[2])
        checked = exercise.check(tuple(wrong))
        assert not checked.right
        verdicts = [line.split(": ")[1] for line in checked.explanation]
        assert verdicts == ["right", "right", f"wrong, you said {wrong[2]}", "right", "right"]
        assert f"offset {offsets[2]} has bucket {exercise.answer[2]} " in checked.explanation[2]


def test_exactly_one_distance_shares_the_bucket():
    for seed in SEEDS:
        exercise = make_exercise("share", seed)
        same = bucket(exercise.scheme, exercise.distance)
        assert [one for one in exercise.choices if bucket(exercise.scheme, one) == same] == [exercise.answer]
        assert len(set(exercise.choices)) == 4
        assert exercise.distance not in exercise.choices
        for choice in exercise.choices:
            checked = exercise.check(choice)
            assert checked.right == (choice == exercise.answer)
            assert f"Offset {exercise.distance} has bucket {same} " in checked.explanation[0]
            assert f"Offset {choice} has bucket {bucket(exercise.scheme, choice)} " in checked.explanation[1]


def test_the_properties_are_those_of_the_numbers_shown():
    for seed in SEEDS:
        exercise = make_exercise("property", seed)
        matrix = torch.tensor(exercise.grid.cells, dtype=torch.float64)
        size = len(matrix)
        nearness = [[matrix[i, : i + 1].flip(0), matrix[i, i:]] for i in range(size)]
        expected = {
            "diagonals": all(len(set(matrix.diagonal(k).tolist())) == 1 for k in range(1 - size, size)),
            "symmetric": torch.equal(matrix, matrix.T),
            "monotone": all(bool((side.diff() <= 0).all()) for sides in nearness for side in sides),
        }
        assert exercise.answer == {name for name, true in expected.items() if true}
        wrong = exercise.answer ^ {"symmetric"}
        lines = exercise.check(wrong).explanation
        assert [line.split(":")[1].split()[-1] for line in lines[:3]] == ["right", "wrong", "right"]
        assert [line.split()[4] == "yes," for line in lines[:3]] == [expected[name] for name in PROPERTIES]


def test_every_property_is_there_and_missing():
    answers = [make_exercise("property", seed).answer for seed in range(200)]
    assert len(set(answers)) >= 6
    counted = Counter(name for answer in answers for name in answer)
    assert all(30 < counted[name] < 170 for name in PROPERTIES)


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("grid", "4,1", (4, 1)),
        ("grid", " 4  1 ", (4, 1)),
        ("match", "0, 1,3 3,2", (0, 1, 3, 3, 2)),
        ("share", "11", 11),
        ("property", "none", frozenset()),
        ("property", "Symmetric monotone", frozenset({"symmetric", "monotone"})),
    ],
)
def test_answers_as_people_write_them(kind, text, answer):
    assert make_exercise(kind, 1).read(text) == answer


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("grid", "", "answer: got '', expected QUERY,KEY"),
        ("grid", "4", "answer: got '4', expected QUERY,KEY"),
        ("grid", "four,one", "expected QUERY,KEY"),
        ("grid", "99,0", "answer: got 99,0, expected a query and a key from 0 to 8"),
        ("grid", "0,3", "answer: got 0,3, expected a cell that is not masked"),
        ("grid", "\u0664,\u0661", "expected QUERY,KEY"),
        ("match", "1,2", "answer: got 2 buckets, expected 5: one for each pair"),
        ("match", "9" * 5000, "one bucket for each pair"),
        ("share", "6", "answer: got '6', expected one of 0, 1, 5, 11"),
        ("share", "5,5", "expected one of"),
        (
            "property",
            "toeplitz",
            "answer: got 'toeplitz', expected one or several of diagonals, symmetric, monotone, or none",
        ),
        ("property", "none,symmetric", "expected one or several of"),
    ],
)
def test_what_is_no_answer_is_refused(kind, text, message):
    exercise = make_exercise(kind, 1)
    with pytest.raises(ValueError, match=r"^answer: got ") as caught:
        exercise.read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kinds_and_seeds_out_of_range():
    with pytest.raises(ValueError, match="kind: got 'crossword', expected one of grid, match, share, property"):
        make_exercise("crossword", 0)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seed: got"):
            make_exercise("grid", seed)


@pytest.mark.parametrize("seed", [427, 581])
def test_a_changed_matrix_has_the_numbers_that_are_shown(seed):
    grid = make_exercise("property", seed).grid
    assert [[float(label) for label in row] for row in grid.labels()] == [list(row) for row in grid.cells]
