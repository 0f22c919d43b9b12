"""A scheme is added by its file, and its definition for the tests: everything finds them by itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "falloff"

INVERSE = """
import torch
from falloff.schemes.base import Scheme


class Inverse(Scheme):
    name = "inverse"
    formula = "s_h / (1 + |n| / scale)"

    def __init__(self, num_heads, scale: float = 1.0):
        super().__init__()
        self.num_heads, self.scale = num_heads, scale
        self.strength = torch.nn.Parameter(torch.ones(num_heads))

    def at(self, offsets):
        return self.strength[:, None] / (1 + offsets.abs() / self.scale)

    @classmethod
    def settings_for(cls, trained_length):
        return {"scale": trained_length / 2}
"""

DEFINITION = """

def inverse(scheme, i, j):
    return [strength / (1 + abs(i - j) / scheme.scale) for strength in scheme.strength]
"""

CODE = """
import sys

sys.meta_path = [finder for finder in sys.meta_path if isinstance(finder, type)]  # no editable install
sys.path.insert(0, ".")
import falloff
from falloff import Inverse, hf
from falloff.cli import run
from falloff.lab.figures.style import scheme_styles
from falloff.lab.config import DEFAULT_SCHEMES

assert falloff.SCHEMES["inverse"] is Inverse
assert "inverse" in DEFAULT_SCHEMES
print(len(set(scheme_styles(dict.fromkeys(DEFAULT_SCHEMES, "learned")).values())) == len(DEFAULT_SCHEMES))

from schemes.drawn import SIZES
from schemes.test_definitions import CASES, test_dense_and_form_are_the_definition

assert "inverse" in CASES
for size in SIZES:
    test_dense_and_form_are_the_definition("inverse", size)

import transformers

sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
hf.swap(model, "inverse")
model.save_pretrained("model")
print(hf.load("model").config.falloff_config["scheme"])
sizes = ["--train-length", "16", "--steps", "2", "--text", "text.txt", "--device", "cpu", "--out", "run"]
for command in (
    ["show", "inverse", "--scale", "3", "--length", "2"],
    ["show", "--help"],
    ["explain", "inverse"],
    ["compare", "--help"],
    ["compare", "--list", "schemes"],
    ["compare", "--preset", "quick", "--scheme", "inverse", *sizes],
):
    try:
        run(command)
    except SystemExit as stopped:
        print("status", stopped.code)
"""


def test_a_file_and_a_definition_are_all_that_a_scheme_needs(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "falloff", ignore=shutil.ignore_patterns("*.so", "__pycache__", "csrc"))
    (tmp_path / "falloff" / "schemes" / "inverse.py").write_text(INVERSE)
    shutil.copytree(Path(__file__).parent, tmp_path / "schemes", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "schemes" / "definitions.py").open("a") as file:
        file.write(DEFINITION)
    (tmp_path / "text.txt").write_text("a text of some words that come again and again. " * 400)
    env = {
        name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"
    }  # with it, "auto" would choose Triton
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=tmp_path, env=env | {"COLUMNS": "80"}
    )
    assert "[1/1] inverse, text, seed 0: perplexity" in done.stderr, done.stderr
    printed = " ".join(done.stdout.replace("│", " ").split())  # help is a table, whose cells wrap
    assert printed.startswith("True Inverse inverse (scale=3): bias of head 0 of 8")
    assert printed.count("status 0") == 6
    assert "For inverse (default 1.0)" in printed
    assert "s_h / (1 + |n| / scale)" in printed
    assert "inverse" in (tmp_path / "run" / "report.html").read_text()
    assert "inverse (scale=8)" in (tmp_path / "run" / "config.json").read_text()
