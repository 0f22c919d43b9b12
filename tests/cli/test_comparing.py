import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from falloff.cli import app, run
from falloff.lab.presets import PRESETS

QUICK = ["--preset", "quick", "--train-length", "16", "--steps", "3", "--schemes", "t5,rope", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tests beside this one leave no core free."""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a text of some words that come again and again. " * 400)
    return str(path)


def _falloff(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_json_is_one_object_and_nothing_else(capsys, tmp_path, text):
    code, out, err = _falloff(capsys, *QUICK, "--text", text, "--out", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"out", "report", "config", "results"}
    assert [(line["scheme"], line["length"]) for line in found["results"]] == [
        (name, length) for name in ("t5", "rope") for length in (16, 32, 64, 128) for _ in ("tail", "all")
    ]
    assert found["config"]["settings"]["text"] == [text]
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


def test_table_on_stdout_and_lines_on_stderr_then_resume(capsys, tmp_path, text):
    code, out, err = _falloff(capsys, *QUICK, "--text", text, "--out", tmp_path / "run")
    assert code == 0
    assert "Learned" in out
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in out.replace("\n", "")
    assert len(err.splitlines()) == 4
    code, out, err = _falloff(capsys, "--resume", "--out", tmp_path / "run", "--schemes", "none")
    assert code == 0
    assert re.findall(r"\[3/3\] (\S+)", err) == ["none,", "none,"]
    assert err.startswith("2 of 3 trials were done")
    assert "none" in out
    assert "t5" in out


def test_several_paths_after_one_text(capsys, tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text("other words " * 2000)
    code, out, _ = _falloff(capsys, *QUICK, "--schemes", "none", "--json", "--out", tmp_path / "run", "--text", text, other)
    assert code == 0
    assert json.loads(out)["config"]["text"]["files"] == 2


def test_ctrl_c_says_how_to_go_on(capsys, tmp_path, text, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("falloff.lab.running.train", interrupted)
    code, out, err = _falloff(capsys, *QUICK, "--text", text, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert f"continue with: falloff compare --resume --out {tmp_path / 'run'}\n" in err
    _, _, err = _falloff(capsys, *QUICK, "--text", text, "--out", tmp_path / "a run")
    assert f"continue with: falloff compare --resume --out '{tmp_path / 'a run'}'\n" in err
    assert "Traceback" not in err


OWN = """
import torch
from falloff import Scheme


class Mine(Scheme):
    def __init__(self, num_heads, rate=1.0):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.full((num_heads,), rate))

    def at(self, offsets):
        return -self.slope[:, None] * offsets.abs()

    @classmethod
    def settings_for(cls, trained_length):
        return {"rate": 1 / trained_length, "unknown": 3}


class Two(Scheme):
    def at(self, offsets):
        return (1 / (1 + offsets.abs())).expand(2, -1)
"""


def test_a_scheme_of_ones_own_is_compared_and_named_again_to_go_on(capsys, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    quick = ["--text", text, *QUICK[:-4], "--device", "cpu"]
    code, out, _ = _falloff(capsys, *quick, "--scheme", "own.py:Mine", "--scheme", "alibi", "--out", "run", "--json")
    assert code == 0
    found = json.loads(out)
    lines = found["results"]
    assert [(line["scheme"], line["kind"]) for line in lines[::8]] == [("own.py:Mine", "learned"), ("alibi", "heuristic")]
    assert lines[0]["bias_parameters"] == 4
    assert "own.py:Mine: Mine (rate=0.0625); alibi" in found["config"]["model"]
    assert "own.py:Mine" in Path("run/report.html").read_text()
    assert len(list(Path("run/trials/text").iterdir())) == 2

    Path("own.py").write_text(OWN + "# changed")
    code, out, err = _falloff(capsys, "--resume", "--out", "run", "--schemes", "own.py:Mine")
    assert (code, out) == (2, "")
    assert "resume: got another run than the folder's (own.py:Mine was 'code " in err
    code, out, err = _falloff(capsys, *quick, "--schemes", "own.py:Two", "--out", "other")
    assert err == "falloff: schemes: got 'own.py:Two' of 2 heads, expected 4, as the model has\n"
    assert not Path("other").exists()


def test_the_command_that_goes_on_names_a_scheme_of_ones_own(capsys, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own scheme.py").write_text(OWN)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("falloff.lab.running.train", interrupted)
    _, _, err = _falloff(capsys, *QUICK, "--schemes", "own scheme.py:Mine", "--text", text, "--out", "run")
    assert "continue with: falloff compare --resume --out run --schemes 'own scheme.py:Mine'\n" in err


HOSTILE = [
    (["--schemes", "none.py:Mine"], "schemes: got 'none.py:Mine', expected a file that exists"),
    (["--schemes", "t5,json:loads"], "schemes: got 'json:loads', expected a class derived from falloff.Scheme"),
    (["--schemes", "t5,t6"], "schemes: got 't6', expected names among alibi, bam"),
    (["--schemes", ""], "schemes: got ''"),
    (["--schemes", "t5,,rope"], "schemes: got ''"),
    (["--schemes", "t5,t5"], "schemes: got 't5' twice"),
    (["--preset", "huge"], "preset: got 'huge', expected one of quick, small, gpu"),
    (["--train-length", "4"], "train_length: got 4, expected a whole number from 8"),
    (["--train-length", "long"], "'--train-length': got 'long', expected a whole number"),
    (["--train-length", "99999999"], "train_length: got 99999999"),
    (["--steps", "0"], "steps: got 0"),
    (["--steps", "-3"], "steps: got -3"),
    (["--steps", "1e3"], "'--steps': got '1e3', expected a whole number"),
    (["--seed", "-1"], "seeds: got '-1', expected whole numbers such as 3, or 0,1,2, or 0..4"),
    (["--seed", "4294967296"], "seeds: got 4294967296"),
    (["--seeds", "4..0"], "seeds: got '4..0', expected whole numbers"),
    (["--seeds", "0..99999999999"], "seeds: got '0..99999999999', expected whole numbers"),
    (["--seeds", "1,1"], "seeds: got 1 twice"),
    (["--seeds", "a"], "seeds: got 'a'"),
    (["--tasks", "chess"], "tasks: got 'chess', expected names among text"),
    (["--protocol", "best"], "protocol: got 'best', expected one of last-k"),
    (["--lengths", "0,1"], "length_multiples: got 0"),
    (["--save-every", "-1"], "save-every"),
    (["--device", "tpu"], "device: got 'tpu', expected 'auto', 'cpu'"),
    (["--device", "cuda:99"], "device: got 'cuda:99'"),
    (["--device", "mps"], "device: got 'mps'"),
    (["--text", "/no/such/path"], "text: got /no/such/path, which does not exist"),
    (["--text", "/dev/null"], "text: got /dev/null, which is neither a file nor a folder"),
    (["--text", "{empty}"], "a folder without files"),
    (["--text", "{short}"], "text: got 13 bytes, of them 12 to train on and 1 held out"),
    (["--text", "{text}", "--dataset", "x"], "dataset: got 'x' together with text"),
    (["--dataset", ""], "dataset: got ''"),
    (["--dataset", "{short}"], "dataset: got "),
    (["--text", ""], "--text: got '', expected a value (is a shell variable unset?)"),
    (["--text="], "--text: got ''"),
    (["--text", " \t"], r"--text: got ' \t'"),
    (["--text", "{text}", ""], "text: got ('{text}', ''), expected the paths of files or folders"),
    (["--out", ""], "--out: got '', expected a value (is a shell variable unset?)"),
    (["--out=", "--resume"], "--out: got ''"),
    (["--preset", ""], "--preset: got ''"),
    (["--device", " "], "--device: got ' '"),
    (["--text", "{packed}"], "packed, a gzip file, expected a file of text"),
    (["--out", "{text}"], "which is not a folder"),
    (["--out", "{full}"], "which holds other files"),
    (["--out", "{broken}", "--resume"], "expected the config.json of a run"),
    (["--resume", "--out", "{full}"], "which holds other files"),
    (["words"], "compare: got 'words', expected options only"),
    (["--colour", "red"], "No such option"),
    (["--json=yes"], "json"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "message"), HOSTILE, ids=[" ".join(arguments) for arguments, _ in HOSTILE])
def test_refuses_in_one_line(capsys, tmp_path, text, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "short").write_text("hello, world!")
    (tmp_path / "packed").write_bytes(gzip.compress(b"text " * 20_000))
    paths = {name: tmp_path / name for name in ("empty", "full", "broken", "short", "packed")} | {"text": text}
    arguments = [argument.format(**paths) for argument in arguments]
    start = [] if any(argument.startswith("--out") for argument in arguments) else ["--out", str(tmp_path / "out")]
    code, out, err = _falloff(capsys, *start, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("falloff: ")
    assert err.count("\n") == 1
    assert message.format(**paths) in err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_the_gpu_preset_is_for_gpus(capsys, tmp_path, text, monkeypatch):
    """Without one it would start, and show nothing for minutes; who names the CPU gets it, and may go on with it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu = ["--preset", "gpu", "--text", text, "--out", tmp_path / "run", "--schemes", "none"]
    code, out, err = _falloff(capsys, *gpu)
    assert (code, out) == (2, "")
    assert err.startswith("falloff: preset: got 'gpu' on a machine without a GPU that PyTorch knows, ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    sizes = {"train_length": 16, "steps": 3, "batch_size": 2, "layers": 1, "width": 16, "heads": 2, "windows": 8}
    monkeypatch.setitem(PRESETS, "gpu", replace(PRESETS["gpu"], settings={**PRESETS["gpu"].settings, **sizes}))
    for more in (["--device", "cpu"], ["--resume"], ["--resume", "--device", "cpu"]):
        assert _falloff(capsys, *gpu, *more)[0] == 0


def test_a_full_disk_says_what_to_free_and_how_to_go_on(capsys, tmp_path, text, monkeypatch):
    replace = Path.replace

    def full(part, target):
        if target.name == "model.safetensors" and target.parent.parent.name == "rope":
            raise OSError(28, "No space left on device")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / "run"
    code, printed, err = _falloff(capsys, *QUICK, "--text", text, "--out", out)
    assert (code, printed) == (2, "")
    assert re.fullmatch(
        rf"falloff: {out}/trials/text/rope/0/model.safetensors: No space left on device; free at least [0-9,]+ bytes there; "
        rf"then continue with: falloff compare --resume --out {out}",
        err.splitlines()[-1],
    )
    monkeypatch.undo()
    code, printed, err = _falloff(capsys, "--resume", "--out", out)
    assert code == 0
    assert err.startswith("1 of 2 trials were done")


def test_a_name_that_is_not_utf_8_runs_through(capsys, tmp_path, text):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.txt"))
    path.write_bytes(Path(text).read_bytes())
    out = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    code, printed, _ = _falloff(capsys, *QUICK, "--schemes", "none", "--text", path, "--out", out, "--json")
    assert code == 0
    assert json.loads(printed)["config"]["settings"]["text"] == [str(path)]
    path.unlink()
    code, printed, err = _falloff(capsys, "--text", path, "--out", tmp_path / "other")
    assert (code, printed) == (2, "")
    assert "caf\\udce9\\x1b[31m.txt, which does not exist" in err


def test_missing_extra_is_one_line(capsys, tmp_path, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    code, _, err = _falloff(capsys, *QUICK, "--text", text, "--out", tmp_path / "out")
    assert code == 2
    assert err == "falloff: accelerate is not installed: pip install 'falloff[lab]'\n"
    assert not (tmp_path / "out").exists()


def test_help_is_light():
    code = (
        "import sys; from falloff.cli import run\n"
        "try: run(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('accelerate', 'plotly', 'datasets', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--train-length" in done.stdout
    assert app.registered_commands
