"""What SECURITY.md promises and no other test holds."""

import ast
import pickle
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN_WHAT_THEY_READ = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "os.system", "pickle.loads"}


def _calls_and_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func) + "()"


def test_nothing_that_runs_what_it_reads_is_used():
    """Safetensors and JSON only: no pickle anywhere, nothing evaluated."""
    forbidden = RUN_WHAT_THEY_READ | {f"{call}()" for call in CALLS}
    for path in (ROOT / "src").rglob("*.py"):
        assert not forbidden & set(_calls_and_imports(path)), path


class _Planted:
    def __reduce__(self):
        return Path.write_text, (Path("planted"), "")


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_in_the_place_of_a_checkpoint_is_refused(tmp_path, monkeypatch, protocol):
    from falloff.lab.folder import RunFolder

    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path)
    run.checkpoint_path("t5").parent.mkdir()
    run.checkpoint_path("t5").write_bytes(pickle.dumps(_Planted(), protocol))
    with pytest.raises(ValueError, match="t5"):
        run.load_checkpoint("t5")
    assert not (tmp_path / "planted").exists()


def test_every_test_that_security_md_names_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`(?: \(`(\w+)`\))?", text)
    assert named
    for path, function in named:
        assert f"def {function or 'test_'}" in (ROOT / path).read_text(encoding="utf-8")
