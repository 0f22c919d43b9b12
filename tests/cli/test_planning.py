"""`falloff compare --dry-run` and `--list`."""

import json

import pytest

from falloff.cli import run
from falloff.lab.presets import PRESETS
from falloff.lab.tasks import TASKS


def _falloff(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = _falloff(capsys, "--preset", "paper-cable", "--dry-run", "--gpu", "h100", "--schemes", "t5,rope")
    assert (code, err) == (0, "")
    printed = " ".join(out.split())
    assert "The plan of 2 trials, preset paper-cable; nothing was trained" in printed
    assert "9,999,745,024 to train on" in printed
    assert "assumed: 40% of the 989 TFLOP/s" in printed
    assert "What falloff does otherwise:" in printed
    assert "Not stated by a source, and chosen:" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_plan_as_json(capsys):
    code, out, err = _falloff(capsys, "--dry-run", "--preset", "quick", "--schemes", "alibi", "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["settings"]["schemes"] == ["alibi"]
    assert set(found["schemes"][0]["memory"]) == {*("weights", "optimizer", "gradients", "activations", "logits", "peak")}


def test_a_gpu_without_a_plan_is_refused(capsys):
    code, _, err = _falloff(capsys, "--preset", "quick", "--gpu", "h100")
    assert code == 2
    assert err == "falloff: gpu: got it without --dry-run, expected both: it is for the plan\n"
    _, _, err = _falloff(capsys, "--preset", "quick", "--utilisation", "0.5")
    assert err == "falloff: utilisation: got it without --dry-run, expected both: it is for the plan\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--published", "me"), "published: got 'me', expected one of paper-"),
        (("--tracker", "excel"), "tracker: got 'excel', expected names among"),
        (("--cluster", "here"), "cluster: got 'here', expected 'local'"),
    ],
)
def test_a_plan_refuses_what_the_run_would_refuse(capsys, option, message):
    if "--cluster" in option:
        pytest.importorskip("ray")
    code, out, err = _falloff(capsys, "--dry-run", "--preset", "quick", "--gpu", "h100", "--device", "cpu", *option)
    assert (code, out) == (2, "")
    assert err.startswith(f"falloff: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("what", "names"), [("presets", PRESETS), ("tasks", TASKS)])
def test_choices_are_listed(capsys, what, names):
    code, out, _ = _falloff(capsys, "--list", what)
    assert code == 0
    assert all(name in out for name in names)
    code, out, _ = _falloff(capsys, "--list", what, "--json")
    assert [line["name"] for line in json.loads(out)] == list(names)
    assert all(line["summary"] for line in json.loads(out))


def test_schemes_and_protocols_are_listed(capsys):
    assert "kerple-log" in _falloff(capsys, "--list", "schemes")[1]
    assert "sliding" in _falloff(capsys, "--list", "protocols")[1]
    code, _, err = _falloff(capsys, "--list", "everything")
    assert (code, err) == (2, "falloff: list: got 'everything', expected one of presets, tasks, protocols, schemes\n")
