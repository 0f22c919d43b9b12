"""Schemes that installed packages declare by entry points: found by name, and no code runs before the name is written."""

import json
import subprocess
import sys

import pytest
import torch

from falloff.cli import run
from falloff.installed import declared, installed
from falloff.lab.compare import compare_schemes
from falloff.lab.config import Settings
from falloff.named import is_own, known_class, scheme_class

CODE = """
import pathlib

import torch
from falloff import Scheme

pathlib.Path("ran").write_text("")


class Slanted(Scheme):
    '''A learned slope for each head.'''

    formula = "-slope_h |n| / scale"

    def __init__(self, num_heads, scale: float = 8.0):
        super().__init__()
        self.scale = scale
        self.slope = torch.nn.Parameter(torch.ones(num_heads))

    def at(self, offsets):
        return -self.slope[:, None] * offsets.abs() / self.scale


NOT_A_SCHEME = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a package that declares names; the folder in which its code leaves a mark if it runs."""
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(site))

    def made(lines, package="acme-biases", module="acme_biases"):
        (site / f"{module}.py").write_text(CODE)
        folder = site / f"{package.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text("[falloff.schemes]\n" + "\n".join(lines) + "\n")
        # a folder more: what is known is known for one path of Python
        monkeypatch.syspath_prepend(str(tmp_path / f"empty{len(list(site.iterdir()))}"))
        return work / "ran"

    yield made
    for name in [name for name in sys.modules if name.startswith(("acme", "other_"))]:
        del sys.modules[name]


@pytest.fixture
def slanted(install):
    return install(["slanted = acme_biases:Slanted"])


def _falloff(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_a_name_is_found_without_running_its_code(slanted, capsys):
    assert is_own("slanted")
    assert is_own("Slanted")
    assert installed("slanted").package == "acme-biases 1.2"
    assert "slanted of acme-biases 1.2 (acme_biases:Slanted)" in _falloff(capsys, "info")[1]
    found = json.loads(_falloff(capsys, "info", "--json")[1])
    expected = {"name": "slanted", "package": "acme-biases 1.2", "class": "acme_biases:Slanted", "refused": None}
    assert found["schemes"] == [expected]
    assert "Of the package acme-biases 1.2." in _falloff(capsys, "compare", "--list", "schemes")[1]
    code, _, err = _falloff(capsys, "show", "slante")
    assert code == 2
    assert "slanted, or module:Class" in err
    assert "(did you mean slanted?)" in err
    assert not slanted.exists()


def test_it_is_shown_and_explained_with_its_settings(slanted, capsys):
    code, out, _ = _falloff(capsys, "show", "slanted", "--scale", "2", "--length", "3")
    assert code == 0
    assert "-0.5" in out
    code, out, _ = _falloff(capsys, "explain", "Slanted")
    assert code == 0
    assert "-slope_h |n| / scale" in out
    assert slanted.exists()


def test_it_is_compared_and_resumed(slanted, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a text of some words that come again and again. " * 400)
    options = ["--preset", "quick", "--train-length", "16", "--steps", "2", "--device", "cpu", "--text", text]
    code, _, err = _falloff(capsys, "compare", *options, "--schemes", "slanted", "--out", tmp_path / "run")
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["schemes"] == ["slanted"]
    assert set(config["code"]) == {"slanted"}  # of the file that its class is in
    assert _falloff(capsys, "compare", "--resume", "--out", tmp_path / "run", "--schemes", "slanted")[0] == 0


def test_a_run_folder_that_names_it_runs_no_code(slanted, monkeypatch, tmp_path):
    monkeypatch.setattr("falloff.named._OWN", {})
    text = tmp_path / "text.txt"
    text.write_text("a text of some words that come again and again. " * 400)
    sizes = {"train_length": 16, "steps": 2, "batch_size": 4, "layers": 1, "width": 16, "heads": 2, "windows": 8}
    settings = Settings.of_preset("quick", **sizes, device="cpu", schemes=("slanted",), text=(str(text),))
    with pytest.raises(ValueError, match=r"^--schemes: got 'slanted', whose code runs only if you write its name"):
        compare_schemes(settings, tmp_path / "run")
    with pytest.raises(ValueError, match="whose code runs only if you write its name"):
        known_class("slanted")
    assert not slanted.exists()


def test_it_is_swapped_into_a_model_and_loaded_by_name(slanted, tmp_path):
    transformers = pytest.importorskip("transformers")
    from falloff import hf

    sizes = {"vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    hf.swap(model, "slanted")
    model.eval().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^make_bias: got None"):  # the folder chooses no code
        hf.load(tmp_path / "model")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path / "model", "slanted").eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["t5", "T5", "rope", "kerple_log", "../up"])
def test_a_name_that_is_taken_or_none_is_refused(install, capsys, name):
    ran = install([f"{name} = acme_biases:Slanted"])
    (one,) = declared()
    assert one.refused is not None
    assert installed(name) is None
    assert "not taken:" in " ".join(_falloff(capsys, "info")[1].split())
    assert scheme_class("t5").__module__ == "falloff.schemes.t5"
    assert not ran.exists()


def test_a_name_that_two_packages_declare_is_refused(install):
    install(["slanted = acme_biases:Slanted"])
    ran = install(["slanted = other_biases:Slanted"], "other-biases", "other_biases")
    with pytest.raises(ValueError, match=r"not taken: acme-biases 1.2 and other-biases 1.2 declare"):
        scheme_class("slanted")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            "acme_nowhere:Slanted",
            "expected a class that can be imported: ModuleNotFoundError: No module named 'acme_nowhere'",
        ),
        ("acme_biases:Missing", "expected a class that can be imported: AttributeError: "),
        ("acme_biases:NOT_A_SCHEME", "expected a class derived from falloff.Scheme"),
    ],
)
def test_a_broken_entry_point_is_one_line_that_names_the_package(install, capsys, value, why):
    install([f"broken = {value}"])
    code, out, err = _falloff(capsys, "show", "broken")
    assert (code, out) == (2, "")
    assert err.startswith(f"falloff: SCHEME: got 'broken', which acme-biases 1.2 declares as {value}, {why}")
    assert err.count("\n") == 1


def test_metadata_that_cannot_be_read_disturbs_published_schemes_not(install, capsys):
    install(["no value"])
    assert _falloff(capsys, "show", "t5", "--length", "2")[0] == 0
    code, _, err = _falloff(capsys, "show", "unknown")
    assert code == 2
    assert err.count("\n") == 1
    assert "expected name = value" in err


def test_import_looks_for_no_packages():
    code = """
import importlib.metadata
import torch
importlib.metadata.entry_points = None
import falloff
falloff.T5Bias(2)
import sys
print('falloff.installed' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
