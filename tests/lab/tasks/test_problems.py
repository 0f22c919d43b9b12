"""What every task of problems promises, and each one's answers, found again by a decoder that shares no code with it.

A decoder returns the answer and, where something is hidden, its place and the highest possible place.
"""

import re

import numpy as np
import pytest
import torch

from falloff.lab.metering import Metered
from falloff.lab.model import build_model
from falloff.lab.progress import Progress
from falloff.lab.tasks import TASKS
from falloff.lab.tasks.base import IGNORED
from falloff.lab.tasks.problems import LEVELS, PAD, Problem, ProblemTask, as_tensors


def _metered(predict):
    return Metered(predict, torch.device("cpu"))


NAMES = [name for name, task in TASKS.items() if issubclass(task, ProblemTask)]
IN_PARTS = {"copy", "addition"}  # the depth is of one token of the answer


def passkey_answer(tokens):
    before, said, after = re.fullmatch(rb"(.*)key (\d{4}) (.*)key \d{4}", tokens).groups()
    assert not re.search(rb"\d", before + after)
    return said, (len(before), len(before + after))


def recall_answer(tokens):
    shown, key = tokens[:-2], tokens[-2:-1]
    assert len(re.findall(rb"[a-h][A-Z]", shown)) == len(set(re.findall(rb"[A-Z]", shown))) == min(8, len(shown) // 2)
    place = shown.index(key)
    return shown[place + 1 : place + 2], (place, len(shown) - 2)


def copy_answer(tokens):
    string = re.fullmatch(rb"=?([a-z]+)=[a-z]+", tokens)[1]
    assert all(len(set(string[at : at + 26])) == len(string[at : at + 26]) for at in range(0, len(string), 26))
    return string, None


def addition_answer(tokens):
    one, other = re.fullmatch(rb" {0,2}(\d+)\+(\d+)=\d+", tokens).groups()
    assert len(one) == len(other)
    total = int(one[::-1]) + int(other[::-1])
    return str(total).zfill(len(one) + 1)[::-1].encode(), None


ANSWERS = {"passkey": passkey_answer, "recall": recall_answer, "copy": copy_answer, "addition": addition_answer}


def asked(problem):
    return bytes(problem.tokens[place] for place in problem.answer)


@pytest.fixture(params=NAMES)
def task(request, toy):
    return TASKS[request.param](toy(windows=16), None)


def test_every_task_has_a_decoder_here():
    assert set(ANSWERS) == set(NAMES)


@pytest.mark.parametrize("length", [16, 17, 18, 31, 64, 500])
def test_test_problems_have_the_length_and_the_answer_and_stand_at_the_depth(task, length):
    for index in range(2 * LEVELS):
        problem = task.test_problem(length, index)
        assert len(problem.tokens) == length + 1
        answer, found = ANSWERS[task.name](problem.tokens)
        assert asked(problem) == answer
        assert problem.answer[-1] == length
        assert problem.depth == index % LEVELS / (LEVELS - 1)
        if found is not None:
            place, room = found
            # Rounded; and a pair is not put into another pair.
            assert abs(place - problem.depth * room) <= (1.5 if task.name == "recall" else 0.5)


@pytest.mark.parametrize("name", sorted(IN_PARTS))
def test_the_tested_token_stands_at_its_depth_in_the_answer(toy, name):
    task = TASKS[name](toy(), None)
    for index in range(LEVELS):
        problem = task.test_problem(500, index)
        (place,) = problem.tested
        # Beside what is left out: the first letter of a string, and the last digit of a sum.
        first, last = problem.answer[name == "copy"], problem.answer[-1 - (name == "addition")]
        assert place == first + round(problem.depth * (last - first))


def test_training_items_are_whole_problems_and_padding(task):
    length = task.settings.train_length
    for index in range(200):
        inputs, targets = task.training_item(0, index)
        assert inputs.shape == targets.shape == (length,)
        assert inputs.dtype == targets.dtype == torch.int64
        counted = targets != IGNORED
        assert counted.any()
        # Only what comes next is asked, and never padding.
        tokens = torch.cat((inputs, targets[-1:].clamp(min=PAD)))
        assert torch.equal(tokens[1:][counted], targets[counted])
        assert (targets[counted] != PAD).all()
        used = bytes(tokens.tolist()).rstrip(bytes([PAD]))
        assert PAD not in used
        assert counted.nonzero()[-1] <= len(used) - 2


@pytest.mark.parametrize("name", ["passkey", "copy", "addition"])
def test_a_training_problem_is_one_of_another_length(toy, name):
    task = TASKS[name](toy(train_length=64), None)
    draw = np.random.default_rng(0)
    problems = [task.exercise(draw, 64) for _ in range(200)]
    assert all(asked(problem) == ANSWERS[name](problem.tokens)[0] for problem in problems)
    sizes = {len(problem.tokens) for problem in problems}
    assert min(sizes) < 24
    assert max(sizes) > 60


def test_training_for_recall_asks_each_value_from_the_second_time_on(toy):
    task = TASKS["recall"](toy(), None)
    for index in range(100):
        problem = task.exercise(np.random.default_rng(index), 8 + index)
        known, expected = {}, []
        for match in re.finditer(rb"([a-h])([A-Z])", problem.tokens):
            if match[1] in known:
                assert known[match[1]] == match[2]
                expected.append(match.start(2))
            known[match[1]] = match[2]
        assert problem.answer == tuple(expected) != ()
        assert set(problem.tokens) <= set(b".abcdefghABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_problems_depend_on_their_integers_alone(task, toy):
    again = type(task)(toy(windows=16, schemes=("alibi",), seeds=(5,)), None)
    assert task.test_problem(64, 3) == again.test_problem(64, 3)
    for item, other in zip(task.training_item(1, 2), again.training_item(1, 2), strict=True):
        assert torch.equal(item, other)
    assert task.test_problem(64, 3) != task.test_problem(64, 3 + LEVELS)  # of the same depth
    assert not torch.equal(task.training_item(0, 2)[0], task.training_item(1, 2)[0])
    assert not torch.equal(task.training_item(0, 2)[0], task.training_item(0, 3)[0])


def test_no_training_item_has_the_random_numbers_of_a_test(task, monkeypatch):
    """Streams are compared by their state, since equal integers in front are filled up with zeros by numpy."""
    states = []

    def noted(entropy):
        generator = np.random.Generator(np.random.PCG64(entropy))
        states.append(generator.bit_generator.state["state"]["state"])
        return generator

    monkeypatch.setattr("falloff.lab.tasks.problems.np.random.default_rng", noted)
    for length in task.settings.lengths:
        for index in range(16):
            task.test_problem(length, index)
    tests, states[:] = set(states), []
    for seed in (0, 1, 16, 64, 2**32 - 1):
        for index in (*range(64), 2**32 + 1):
            task.training_item(seed, index)
    assert len(tests) == len(task.settings.lengths) * 16
    assert len(set(states)) == 5 * 65
    assert not tests & set(states)


def oracle(task, wrong=()):
    """A model that knows each problem's answer from the problem; answers at the places `wrong`, from the end, are wrong."""

    def predict(inputs):
        logits = torch.zeros(*inputs.shape, 256)
        for row, tokens in enumerate(inputs.tolist()):
            # The last token is that of the answer which no input holds: any will do to find the answer.
            for guess in (b"0", b"A", b"a"):
                try:
                    answer, _ = ANSWERS[task.name](bytes(tokens) + guess)
                except (TypeError, AttributeError, AssertionError):
                    continue
                break
            for back, token in enumerate(answer[::-1]):
                logits[row, -1 - back, token if back not in wrong else (token + 1) % 256] = 1.0
        return logits

    return predict


def test_the_right_model_solves_all(task):
    outcomes = task.test(_metered(oracle(task)), Progress())
    assert {outcome.measure for outcome in outcomes} == {measure.name for measure in task.measures}
    for outcome in outcomes:
        assert outcome.items == (1.0,) * 16
        if outcome.measure == "exact":
            assert outcome.depths == tuple(index % LEVELS / (LEVELS - 1) for index in range(16))
    assert [outcome.length for outcome in outcomes if outcome.measure == "exact"] == list(task.settings.lengths)


def test_a_model_that_knows_nothing_solves_none(task):
    outcomes = task.test(_metered(lambda tokens: torch.zeros(*tokens.shape, 256)), Progress())
    assert all(outcome.items == (0.0,) * 16 for outcome in outcomes)


def test_one_wrong_token_is_a_wrong_answer(task):
    """The last token of an answer: a string's last letter is that of depth 1, a sum's last digit of no depth."""
    for outcome in task.test(_metered(oracle(task, wrong={0})), Progress()):
        right = [False] * 16
        if outcome.measure == "exact" and task.name in IN_PARTS:
            right = [task.name == "addition" or index % LEVELS < LEVELS - 1 for index in range(16)]
        assert list(outcome.items) == [float(solved) for solved in right]


def test_exact_match_is_that_of_greedy_decoding(toy):
    """Of a model that is right about some."""
    task = TASKS["passkey"](toy(windows=64, train_length=16, length_multiples=(1, 2)), None)

    def predict(tokens):
        """The token that followed this one when it came first; after a 7, what followed the first token."""
        logits = torch.zeros(*tokens.shape, 256)
        for row, line in enumerate(tokens.tolist()):
            for place, token in enumerate(line):
                source = 0 if token == ord("7") else line.index(token)
                logits[row, place, line[min(source + 1, place)]] = 1.0
        return logits

    for outcome in task.test(_metered(predict), Progress()):
        problems = [task.test_problem(outcome.length, index) for index in range(64)]
        greedy = []
        for problem in problems:
            tokens = [*problem.tokens[: problem.answer[0]]]
            while len(tokens) < len(problem.tokens):
                tokens.append(int(predict(torch.tensor([tokens]))[0, -1].argmax()))
            greedy.append(float(bytes(tokens) == problem.tokens))
        assert list(outcome.items) == greedy
        assert 0 < sum(greedy) < 64


def test_a_model_is_asked_equally_often_with_equal_shapes(task):
    calls = []

    def predict(tokens):
        calls.append(tuple(tokens.shape))
        return torch.zeros(*tokens.shape, 256)

    task.test(_metered(predict), Progress())
    batch, length = task.settings.batch_size, task.settings.train_length
    expected = []
    for multiple in (1, 2, 4, 8):
        at_once = max(batch // multiple, 1)
        expected += [(at_once, multiple * length)] * (16 // at_once)
    assert calls == expected


def test_progress_adds_up_to_the_work(task):
    class Counting(Progress):
        total = 0

        def advance(self, work, **rest):
            self.total += work

    progress = Counting()
    task.test(_metered(lambda tokens: torch.zeros(*tokens.shape, 256)), progress)
    assert progress.total == task.work() > 0


def test_a_real_model_runs_on_items_and_problems(task):
    model = build_model(task.settings, "t5", 0, task.vocabulary)
    outcomes = task.test(_metered(model), Progress())
    assert all(item in (0.0, 1.0) for outcome in outcomes for item in outcome.items)
    inputs, _ = task.training_item(0, 0)
    assert model(inputs[None]).shape == (1, 16, 256)


@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_lengths_are_served_or_refused(toy, name):
    least = TASKS[name].least_length
    for length in range(8, 20):
        settings = toy(train_length=length)
        if length < least:
            message = f"train_length: got {length}, expected at least {least} for the task {name}"
            with pytest.raises(ValueError, match=message):
                TASKS[name](settings, None)
            continue
        task = TASKS[name](settings, None)
        for index in range(LEVELS):
            problem = task.test_problem(length, index)
            assert asked(problem) == ANSWERS[name](problem.tokens)[0]
            task.training_item(0, index)


def guess(task, problem, draw):
    """The guesser that each `chance` describes."""
    if task.name == "passkey":
        return bytes(draw.permutation([*asked(problem)]).tolist())
    if task.name == "recall":
        return bytes([draw.choice([*re.findall(rb"[A-Z]", problem.tokens[:-1])])[0]])
    if task.name == "copy":
        return bytes([draw.choice(sorted(set(problem.tokens) - {ord("=")}))])
    return bytes([draw.choice([*b"0123456789"])])


@pytest.mark.parametrize("length", [16, 64])
def test_chance_is_what_guessing_gives(task, length):
    draw = np.random.default_rng(0)
    rights = []
    for index in range(4000):
        problem = task.test_problem(length, index)
        tested = problem.answer if problem.tested is None else problem.tested
        rights.append(guess(task, problem, draw) == bytes(problem.tokens[place] for place in tested))
    expected = task.chance(length)
    assert np.mean(rights) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_what_follows_a_short_problem_does_not_change_the_answer():
    """A causal model gives the same logits for a problem with and without padding."""
    short = as_tensors(Problem(b"ab=ab", (3, 4), 0.0), 4)
    padded = as_tensors(Problem(b"ab=ab", (3, 4), 0.0), 9)
    assert torch.equal(padded[0][:4], short[0])
    assert torch.equal(padded[1][:4], short[1])
    assert (padded[1][4:] == IGNORED).all()
