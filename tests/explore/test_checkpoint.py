"""The Checkpoint and Compare pages: what files hold, and what is refused in words."""

import json
import pickle
import struct

import pytest
import torch

pytest.importorskip("dash", reason="no Dash: pip install 'falloff[explore]'")

from explore.runs import small_run
from falloff import FIRE, ALiBi, KerpleLog, T5Bias
from falloff.explore.runs import Run
from falloff.explore.stored_biases import stored_biases
from falloff.explore.theme import theme_of
from falloff.lab.figures.style import scheme_styles
from falloff.lab.store.checksums import with_checksum
from falloff.lab.store.folder import RunFolder

safetensors = pytest.importorskip("safetensors.torch")


def t5_file(path, seed=0, buckets=8, heads=3):
    torch.manual_seed(seed)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    safetensors.save_file({name: torch.randn(buckets, heads), "other": torch.zeros(2)}, path)
    return path


def test_a_file_of_t5_has_its_table(tmp_path):
    (found,) = stored_biases(t5_file(tmp_path / "model.safetensors"))
    assert isinstance(found.scheme, T5Bias)
    assert found.scheme.bidirectional
    assert found.scheme.weight.shape == (8, 3)


def test_a_swapped_model_has_the_scheme_of_its_config(tmp_path):
    scheme = KerpleLog(2)
    weights = {f"model.falloff_bias.{name}": value for name, value in scheme.state_dict().items()}
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    described = {"falloff_config": {"scheme": "KerpleLog", "settings": {}, "share": True}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (found,) = stored_biases(tmp_path)
    assert torch.equal(found.scheme.dense(4, 4), scheme.dense(4, 4))


def test_families_with_a_formula_need_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom", "n_head": 6}))
    assert stored_biases(tmp_path)[0].scheme.num_heads == 6
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    with pytest.raises(ValueError, match="depends on what the tokens say"):
        stored_biases(tmp_path)


class _Planted:
    def __reduce__(self):
        return exec, ("open('planted', 'w')",)


def hostile(kind):
    if kind == "a pickle":
        return pickle.dumps(_Planted())
    if kind == "a huge header":
        return struct.pack("<Q", 2**40) + b"{}"
    if kind == "a cut file":
        return struct.pack("<Q", 8) + b'{"a'
    names = json.dumps({"<img src=x onerror=alert(1)>": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(names)) + names + bytes(4)


@pytest.mark.parametrize("kind", ["a pickle", "a huge header", "a cut file", "names with markup"])
def test_a_hostile_file_is_refused_in_words(tmp_path, monkeypatch, visit, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "<b>model.safetensors"
    path.write_bytes(hostile(kind))
    tab = visit()
    page = tab.open("/checkpoint")
    page.get_by_label("File or folder").fill(str(path))
    page.get_by_role("button", name="Open").click()
    page.locator("[role=alert]").first.wait_for()
    said = page.locator("[role=alert]").first.text_content()
    assert "expected" in said
    assert "<b>model" in said  # as text
    assert page.locator("main img, main b").count() == 0
    assert not (tmp_path / "planted").exists()


def test_a_checkpoint_is_shown_and_its_drift(tmp_path, visit):
    one, other = (t5_file(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))
    tab = visit()
    page = tab.open(f"/checkpoint?checkpoint={one}")
    assert "t5 (num_buckets=8" in page.locator("#checkpoint-said").text_content()
    page.get_by_label("A second one").fill(str(other))
    page.get_by_role("button", name="Open").click()
    page.locator("#drift-panel .js-plotly-plot").wait_for()
    tab.settle()
    shown = "document.querySelector('#stored-table .js-plotly-plot').data[0].z.length"
    assert page.evaluate(shown) == 8
    assert tab.faults() == []
    windows = [int(cell) for cell in page.locator("#heads-table td:nth-child(3)").all_text_contents()]
    assert windows == sorted(windows)


def test_a_run_is_shown_and_the_table_sorts(tmp_path, visit):
    run = small_run(tmp_path / "run", seeds=(0, 1))
    tab = visit(390)
    page = tab.open(f"/compare?checkpoint={run}")
    page.locator("#run-figures .js-plotly-plot").first.wait_for()
    tab.settle()
    shown = "document.querySelector('#run-lengths .js-plotly-plot').data"
    assert page.evaluate(f"{shown}.map((t) => t.name)") == ["t5", "alibi"]
    before = page.evaluate(f"{shown}.map((t) => t.y)")
    assert "95% interval over 2 seeds" in page.locator("#run-said").text_content()
    assert page.locator("#run-ranks .js-plotly-plot").is_visible()
    page.get_by_text("Whole window", exact=True).click()
    tab.settle()
    assert page.evaluate(f"{shown}.map((t) => t.y)") != before
    page.set_viewport_size({"width": 1200, "height": 900})
    for way in ("ascending", "descending"):
        page.get_by_role("button", name="parameters", exact=True).click()
        assert page.locator("th[aria-sort=" + way + "]").text_content() == "parameters"
        counts = [int(cell.replace(",", "")) for cell in page.locator("td[data-label=parameters]").all_text_contents()]
        assert counts == sorted(counts, reverse=way == "descending")
    page.goto(tab.address + f"/checkpoint?checkpoint={run}")
    page.locator("#places label").first.wait_for()
    tab.settle()
    assert tab.faults() == []


def test_a_run_of_one_seed_has_no_ranks_and_says_so(tmp_path):
    run = Run(small_run(tmp_path / "run"))
    assert run.measures == {"text/tail": "End of the window", "text/all": "Whole window"}
    figure, ranks = run.figures("text/all", theme_of("dark"))
    assert [trace["name"] for trace in figure["data"]] == ["t5", "alibi"]
    assert figure["data"][0]["line"]["color"] not in {style.colour for style in scheme_styles({"t5": "learned"}).values()}
    assert ranks is None
    assert "It says nothing about another training run" in run.said("text/all")
    with pytest.raises(ValueError, match="expected one of text/tail, text/all"):
        run.figures("text/exact", theme_of(None))


def test_a_folder_of_an_earlier_falloff_is_refused_in_one_line(tmp_path):
    config = with_checksum({"settings": {"train_length": 16}, "lengths": [16], "tail": 16})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json.*it was written by another version of falloff") as refused:
        Run(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_single_file_is_read_with_the_config_beside_it(tmp_path):
    scheme = KerpleLog(2)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({f"falloff_bias.{name}": value for name, value in scheme.state_dict().items()}, path)
    described = {"falloff_config": {"scheme": "KerplePower", "settings": {}}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert [one.scheme.name for one in stored_biases(path)] == ["kerple-power"]


def test_each_layer_of_a_swapped_model_without_a_config_is_found(tmp_path):
    layers = torch.nn.ModuleDict({f"layer_{number}": torch.nn.ModuleDict({"falloff_bias": FIRE(2)}) for number in (0, 1)})
    safetensors.save_file(layers.state_dict(), tmp_path / "model.safetensors")
    assert [one.place for one in stored_biases(tmp_path)] == ["layer_0.falloff_bias", "layer_1.falloff_bias"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "falcon", "num_attention_heads": 4, "hidden_size": 64}, "a model of falcon without ALiBi"),
        ({"model_type": "falcon", "alibi": True, "num_attention_heads": 4}, "got None for hidden_size in config.json"),
        ({"model_type": "mpt", "n_heads": 4, "attn_config": {"alibi": False}}, "a model of mpt without ALiBi"),
        ({"falloff_config": {"scheme": "T5Bias", "settings": {"num_buckets": 10**12}}}, "expected at most 1024 for t5"),
    ],
)
def test_a_config_without_a_bias_to_show_is_refused_in_words(tmp_path, config, said):
    t5_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        stored_biases(tmp_path)


def test_falcon_divides_alibi_by_the_root_of_the_size_of_a_head(tmp_path):
    config = {"model_type": "falcon", "alibi": True, "num_attention_heads": 4, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (found,) = stored_biases(tmp_path)
    assert torch.equal(found.scheme.dense(3, 9), ALiBi(4).dense(3, 9) / 4)


def test_a_run_of_another_device_is_shown(tmp_path):
    run = small_run(tmp_path / "run")
    folder = RunFolder(run)
    config = folder.stored_config()
    folder.write_config(config | {"settings": config["settings"] | {"device": "cuda:63"}})
    assert [one.scheme.name for one in stored_biases(run)] == ["t5", "alibi"]
