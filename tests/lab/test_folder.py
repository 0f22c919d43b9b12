import json

import pytest
import torch

from falloff.lab.config import Settings
from falloff.lab.folder import RESULT_KEYS, RunFolder, check_same


def _config(**changes):
    settings = Settings.of_preset("quick", device="cpu", **changes)
    return {
        "settings": settings.to_json(),
        "text": {"sha256": "abc"},
        "versions": {"torch": "2.13.0", "falloff": "0.1.0"},
        "machine": {"cpu": "a", "threads": 2, "gpu": None},
        "git_commit": None,
    }


def _line(scheme, length=16):
    return {**dict.fromkeys(RESULT_KEYS, 1.0), "scheme": scheme, "length": length}


def test_new_and_empty_folders_are_free(tmp_path):
    RunFolder(tmp_path).check_free()
    RunFolder(tmp_path / "new" / "deep").check_free()
    (tmp_path / "config.json.part").write_text("a kill left this")
    RunFolder(tmp_path).check_free()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="which holds other files"):
        RunFolder(tmp_path).check_free()
    with pytest.raises(ValueError, match="which is not a folder"):
        RunFolder(tmp_path / "thesis.tex").check_free()
    run = RunFolder(tmp_path / "run")
    run.write_config(_config())
    with pytest.raises(ValueError, match=r"which holds a run, expected .* --resume goes on .* another --out"):
        run.check_free()


def test_config_comes_back(tmp_path):
    run = RunFolder(tmp_path)
    assert run.stored_config() is None
    run.write_config(_config())
    assert run.stored_config() == _config()


def test_a_config_that_changed_since_it_was_written_is_refused(tmp_path):
    """Another seed in a config that is JSON all the same would mix two runs."""
    run = RunFolder(tmp_path)
    run.write_config(_config())
    written = run.config_path.read_text()
    for old, new in (
        ('"seed": 0', '"seed": 1'),
        ('"sha256": "abc"', '"sha256": "abd"'),
        ('"rope"', '["rope"]'),
        ('"steps": 200', '"steps": null'),
        ('"steps": 200', '"steps": "200"'),
        ('"steps": 200', '"steps": 1e999'),
        ('"steps": 200', '"steps": NaN'),
        ('"steps": 200', '"steps": ' + "[" * 200_000),
        ('"threads": 2', '"threads": ' + "9" * 5000),
        ('"sha256"', '"sha255"'),
    ):
        assert old in written
        run.config_path.write_text(written.replace(old, new))
        with pytest.raises(ValueError, match=r"out: got .*config.json, expected the config.json of a run: .") as caught:
            run.stored_config()
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("lost", ["text", "versions", "machine", "settings"])
def test_a_config_whose_parts_are_missing_or_of_another_kind_is_refused(tmp_path, lost):
    """Even where its checksum fits, as in a run of another version."""
    for content in (None, [], 3, "x"):
        run = RunFolder(tmp_path)
        run.write_config({**_config(), lost: content})
        with pytest.raises(ValueError, match=r"expected the config.json of a run"):
            run.stored_config()
    run.write_config({name: value for name, value in _config().items() if name != lost})
    with pytest.raises(ValueError, match=f"expected the config.json of a run: it has no '{lost}'"):
        run.stored_config()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"settings": {}}', '{"settings": 3}', "\0\xff"])
def test_a_foreign_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"out: got .*config.json, expected the config.json of a run"):
        RunFolder(tmp_path).stored_config()


def test_schemes_are_added_whole(tmp_path):
    run = RunFolder(tmp_path)
    weights = {"weight": torch.arange(6.0).view(2, 3).T}  # not contiguous
    run.add_scheme("t5", weights, [_line("t5", 16), _line("t5", 32)])
    run.add_scheme("alibi", {}, [_line("alibi")])
    assert [(line["scheme"], line["length"]) for line in run.results()] == [("t5", 16), ("t5", 32), ("alibi", 16)]
    assert torch.equal(run.load_checkpoint("t5")["weight"], weights["weight"])
    run.add_scheme("t5", weights, [_line("t5", 64)])  # again, as after its checkpoint was taken away
    assert [(line["scheme"], line["length"]) for line in run.results()] == [("alibi", 16), ("t5", 64)]
    assert not list(tmp_path.rglob("*.part"))


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.add_scheme("t5", {}, [_line("t5")])
    before = run.results_path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.add_scheme("alibi", {}, [_line("alibi")])
    assert run.results_path.read_bytes() == before


@pytest.mark.parametrize("content", [b"{", b"3", b'{"scheme": "t5"}', b"[" * 200_000, b"\xff", b"null"])
def test_lines_that_falloff_did_not_write_are_left_out_and_named(tmp_path, content):
    run = RunFolder(tmp_path)
    run.add_scheme("t5", {}, [_line("t5")])
    sound = run.results()
    with run.results_path.open("ab") as file:
        file.write(content)
    lines, damaged = run.read_results()
    assert lines == sound
    assert len(damaged) == 1
    assert damaged[0].startswith(f"line 2 of {run.results_path} is left out: it ")


def test_missing_and_damaged_checkpoints_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"out: got .*t5.safetensors, expected the checkpoint of t5"):
        run.load_checkpoint("t5")
    run.add_scheme("t5", {"weight": torch.ones(100)}, [])
    run.checkpoint_path("t5").write_bytes(run.checkpoint_path("t5").read_bytes()[:50])
    with pytest.raises(ValueError, match="expected the checkpoint of t5"):
        run.load_checkpoint("t5")


def test_what_decides_results_must_be_the_same():
    check_same(_config(), _config())
    check_same(_config(), _config(schemes=("rope",), text=("elsewhere",)))
    cases = [
        (_config(steps=7), "steps was 200 and is 7"),
        (_config(seed=1), "seed was 0 and is 1"),
        (_config(train_length=32), "train_length was 64 and is 32"),
        ({**_config(), "text": {"sha256": "def"}}, "text was 'abc' and is 'def'"),
        ({**_config(), "versions": {"torch": "3.0", "falloff": "0.1.0"}}, "torch was '2.13.0' and is '3.0'"),
        ({**_config(), "machine": {"cpu": "a", "threads": 1, "gpu": None}}, "threads was 2 and is 1"),
    ]
    for now, message in cases:
        with pytest.raises(ValueError, match=f"resume: got another run than the folder's .*{message}"):
            check_same(json.loads(json.dumps(_config())), now)
