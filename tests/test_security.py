"""What SECURITY.md promises and no other test checks."""

import ast
import pickle
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN_CODE_FROM_FILES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "os.system", "pickle.loads"}


def _calls_and_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func) + "()"


def test_nothing_is_used_that_may_run_code_from_a_file():
    """Safetensors and JSON only: no pickle anywhere, nothing evaluated."""
    forbidden = RUN_CODE_FROM_FILES | {f"{call}()" for call in CALLS}
    for path in (ROOT / "src").rglob("*.py"):
        assert not forbidden & set(_calls_and_imports(path)), path


class _Planted:
    def __reduce__(self):
        return Path.write_text, (Path("planted"), "")


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_in_the_place_of_a_checkpoint_is_refused(tmp_path, monkeypatch, protocol):
    from falloff.lab.store.trial_folder import TrialFolder

    monkeypatch.chdir(tmp_path)
    trial = TrialFolder(tmp_path, "x")
    trial.model_path.write_bytes(pickle.dumps(_Planted(), protocol))
    trial.state_path.write_bytes(pickle.dumps(_Planted(), protocol))
    for load in (trial.model, trial.state):
        with pytest.raises(ValueError, match="safetensors"):
            load()
    assert not (tmp_path / "planted").exists()


PLANTED = """
from pathlib import Path

import torch
from falloff import Scheme

Path("planted").write_text("")


class Mine(Scheme):
    def __init__(self, num_heads):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(num_heads))

    def at(self, offsets):
        return -self.slope[:, None] * offsets.abs()
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A folder with code that writes a file if it runs: its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(PLANTED)
    return tmp_path / "planted"


@pytest.mark.parametrize("name", ["theirs.py:Mine", "theirs:Mine"])
def test_a_run_folder_that_names_a_scheme_runs_no_code(planted, monkeypatch, capsys, name):
    """Only a name on the command line runs code: anybody can write a config with a correct checksum."""
    import torch

    from falloff import named
    from falloff.cli import run
    from falloff.lab.compare import resolve

    def falloff(*arguments):
        with pytest.raises(SystemExit) as stop:
            run(["compare", *map(str, arguments)])
        return stop.value.code, capsys.readouterr().err

    Path("text.txt").write_text("a text of some words that come again and again. " * 400)
    sizes = ["--preset", "quick", "--train-length", "16", "--steps", "3", "--device", "cpu", "--text", "text.txt"]
    threads = torch.get_num_threads()
    assert falloff(*sizes, "--schemes", name, "--out", "run")[0] == 0
    torch.set_num_threads(threads)
    assert planted.exists()

    planted.unlink()
    for registry in (named._OWN, named._FILES):
        registry.clear()  # as in another process
    sys.modules.pop("theirs", None)
    settings, _ = resolve(None, Path("run"), resume=True)
    assert settings.schemes == (name,)
    for more in ([], ["--schemes", "alibi"], ["--preset", "quick"]):
        status, error = falloff("--resume", "--out", "run", *more)
        assert status == 2
        assert f"--schemes: got '{name}', whose code runs only if you write its name" in error
        assert not planted.exists()
    assert falloff("--resume", "--out", "run", "--schemes", name)[0] == 0
    assert planted.exists()
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize("scheme", ["theirs.py:Mine", "theirs:Mine", "theirs.Mine", "Scheme", "nn", "base", "__builtins__"])
def test_a_folder_of_a_model_that_names_a_scheme_runs_no_code(planted, tmp_path, scheme):
    transformers = pytest.importorskip("transformers")
    from falloff import ALiBi, hf

    sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    hf.swap(model, ALiBi)
    model.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"scheme": "ALiBi"', f'"scheme": "{scheme}"'))
    with pytest.raises(ValueError, match=r"make_bias: got None for a model with .*, which is not a scheme of falloff's"):
        hf.load(tmp_path / "model")
    assert not planted.exists()


def test_a_trial_lies_in_its_folder_whatever_its_scheme_is_called(tmp_path):
    from falloff.lab.config import Settings
    from falloff.lab.store.folder import RunFolder
    from falloff.lab.store.trials import Trial

    config = {
        "settings": Settings.of_preset("quick", device="cpu").to_json(),
        "tasks": {"text": {"needs_text": False}},
        "text": None,
        "versions": {},
        "machine": {},
    }
    names = ["../../etc/x", "/etc/x", "a/b.py:M", "a_b.py:M", "a\\b", "..", ".", "t5", "x" * 300]
    paths = [RunFolder(tmp_path).trial(Trial("text", name, 0), config).path for name in names]
    assert {path.resolve().parents[1] for path in paths} == {tmp_path / "trials" / "text"}
    assert len({path.resolve() for path in paths}) == len(names)
    assert all(len(path.parent.name) < 200 for path in paths)
    assert RunFolder(tmp_path).trial(Trial("text", "t5", 3), config).path == tmp_path / "trials" / "text" / "t5" / "3"


def test_only_one_module_runs_files():
    for path in (ROOT / "src").rglob("*.py"):
        used = set(re.findall(r"exec_module|spec_from_file_location|runpy|source_to_code", path.read_text(encoding="utf-8")))
        assert not used or path.name == "named.py", path


def test_every_test_that_security_md_names_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`(?: \(`(\w+)`\))?", text)
    assert named
    for path, function in named:
        assert f"def {function or 'test_'}" in (ROOT / path).read_text(encoding="utf-8")
