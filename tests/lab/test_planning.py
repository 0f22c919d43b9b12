"""The plan of a comparison: arithmetic on the settings, and a measured or an assumed speed."""

import pytest

from falloff.lab.compare import compare_schemes
from falloff.lab.config import Settings
from falloff.lab.counting import counts, step_flops
from falloff.lab.gpus import GPUS
from falloff.lab.planning import _smaller, plan


def test_a_paper_is_planned_without_text_or_training():
    said = []
    found = plan(Settings.of_preset("paper-kerple", device="cpu"), "a100", 0.5, said.append)
    assert said == ["kerple-log", "kerple-power", "alibi", "t5", "rope"]
    assert found["trials"] == 5 * 5
    assert found["training_tokens"] == 50_000 * 32 * 512
    assert found["test_tokens"] == 6 * 320 * 16_384
    assert found["vocabulary"] == 50_257
    assert found["flops_per_second"] == GPUS["a100"].peak / 2
    assert found["speed"].startswith("assumed: 50% of the 312 TFLOP/s")
    line = found["schemes"][0]
    matrices = line["parameters"] - line["bias_parameters"] - 50_257 * 768 - 25 * 768
    per_token = 6 * matrices + 6 * 12 * 768 * 513
    assert line["flops_per_step"] == 32 * 512 * per_token
    assert line["hours"] == pytest.approx(line["flops"] / found["flops_per_second"] / 3600)
    assert found["total_hours"] == pytest.approx(5 * sum(line["hours"] for line in found["schemes"]))
    assert found["paper"]["differs"]


def test_by_default_a_step_on_this_machine_is_measured(toy):
    found = plan(toy(schemes=("t5", "none"), seeds=(0, 1)))
    assert found["speed"].startswith("measured on ")
    assert found["flops_per_second"] > 0
    assert found["trials"] == 4
    assert found["paper"] is None


@pytest.mark.parametrize(
    ("gpu", "utilisation", "message"),
    [
        ("abacus", None, r"^gpu: got 'abacus', expected one of a100, "),
        ("a100", 0.0, r"^utilisation: got 0.0, expected a share above 0 and at most 1$"),
        ("a100", float("nan"), r"^utilisation: got nan, "),
        (None, 0.5, r"^utilisation: got 0.5 alone, expected --gpu too$"),
    ],
)
def test_a_speed_that_makes_no_sense_is_refused(toy, gpu, utilisation, message):
    with pytest.raises(ValueError, match=message):
        plan(toy(), gpu, utilisation)


def test_the_measured_model_is_small():
    settings = Settings.of_preset("paper-cable", device="cpu")
    small, vocabulary = _smaller(settings, 50_304, 1e10)
    assert step_flops(small, counts(small, small.schemes[0], vocabulary).matrices) <= 1e10
    assert (small.width, small.heads) == (settings.width, settings.heads)


def test_the_tokens_of_a_tokenizer_are_counted(toy, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a")).save(str(path))
    assert plan(toy(schemes=("none",), tokenizer=str(path)), "h100")["vocabulary"] == 3
    with pytest.raises(ValueError, match=r"^tokenizer: got .*nowhere.json, expected a tokenizer.json of "):
        plan(toy(tokenizer=str(tmp_path / "nowhere.json")), "h100")


def test_problems_are_of_bytes_whatever_the_paper_has():
    settings = Settings.of_preset("paper-kerple", device="cpu", tasks=("passkey",), schemes=("none",))
    assert plan(settings, "h100")["vocabulary"] == 256
    assert plan(settings.changed(tasks=("passkey", "text")), "h100")["vocabulary"] == 50_257


def test_parts_of_a_batch_train_as_the_batch_does(toy, text_path, tmp_path):
    """The mean over the parts is that over the batch, up to rounding."""
    whole, parts = (
        compare_schemes(toy(schemes=("t5",), text=(str(text_path),), accumulate=count), tmp_path / str(count)).results
        for count in (1, 2)
    )
    for one, other in zip(whole, parts, strict=True):
        assert other["items"] == pytest.approx(one["items"], rel=1e-4)
    assert parts[0]["peak_memory_mb"] < whole[0]["peak_memory_mb"]
