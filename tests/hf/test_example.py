import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "finetune_t5.py"


def test_it_trains_both_and_they_learn_alike(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    settings = ["--steps", "6", "--batch", "2", "--length", "128", "--width", "64", "--layers", "1", "--json"]
    done = subprocess.run([sys.executable, EXAMPLE, text, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    plain, fused = json.loads(done.stdout)
    assert (plain["attention"], fused["attention"]) == ("plain", "fused")
    assert "fused: 3 T5Attention" in done.stderr
    assert fused["last_loss"] < fused["first_loss"]
    assert abs(fused["first_loss"] - plain["first_loss"]) < 0.2  # dropout draws otherwise
    assert plain["seconds"] > 0


def test_bad_input(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLE, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected a file of at least 1024 bytes" in done.stderr


def test_a_fused_classifier_gives_the_same_labels():
    settings = ["--length", "40", "--size", "64", "--layers", "2", "--turns", "1", "--json"]
    command = [sys.executable, EXAMPLES / "fuse_deberta.py", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["fused"].startswith("fused: 2 DisentangledSelfAttention")
    assert found["largest_difference"] < 1e-5
    assert found["same_labels"] == 1.0
