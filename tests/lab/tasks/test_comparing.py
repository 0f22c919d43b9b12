"""A whole comparison on tasks of problems, at toy size: no text is read."""

import json

import pytest

from falloff.lab.compare import compare_schemes
from falloff.lab.tasks import TASKS
from falloff.lab.tasks.problems import LEVELS

NAMES = ("passkey", "recall", "copy", "addition")


@pytest.fixture(scope="module")
def comparison(toy, tmp_path_factory):
    settings = toy(tasks=NAMES, schemes=("alibi",), steps=2, text=("missing",))
    return compare_schemes(settings, tmp_path_factory.mktemp("tasks") / "run")


def test_lines_have_depths_and_shares(comparison):
    for line in comparison.results:
        assert set(line["items"]) <= {0.0, 1.0}
        assert line["value"] == pytest.approx(sum(line["items"]) / len(line["items"]))
        if line["measure"] == "exact":
            assert line["depths"] == [level / (LEVELS - 1) for level in range(LEVELS)]
        else:
            assert line["depths"] is None
    measures = {(line["task"], line["measure"]) for line in comparison.results}
    assert measures == {(name, measure.name) for name in NAMES for measure in TASKS[name].measures}


def test_config_says_what_guessing_gives(comparison):
    stored = json.loads(comparison.folder.config_path.read_text())
    for name in NAMES:
        assert stored["tasks"][name]["chance"] == [TASKS[name].chance(length) for length in (16, 32, 64, 128)]


def test_report_has_heat_maps_of_each_task(comparison):
    page = comparison.folder.report_path.read_text()
    for name in NAMES:
        assert f"Task {name}: by length and depth" in page


def test_a_length_too_short_is_refused_before_any_work(toy, tmp_path):
    with pytest.raises(ValueError, match="train_length: got 8, expected at least 16 for the task passkey"):
        compare_schemes(toy(train_length=8, tasks=("recall", "passkey")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
