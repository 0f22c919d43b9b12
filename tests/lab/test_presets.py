"""Presets, the published protocols among them."""

import pytest

from falloff.lab.compare import compare_schemes
from falloff.lab.config import Settings
from falloff.lab.counting import counts
from falloff.lab.presets import DEFAULT_PRESET, PRESETS
from falloff.lab.published import published, published_names
from falloff.lab.text.paper_text import check_text

PAPERS = [name for name, preset in PRESETS.items() if preset.paper]


def test_presets_are_found_by_their_files():
    assert list(PRESETS)[:3] == ["quick", "small", "gpu"]
    assert set(PAPERS) == {"paper-kerple", "paper-fire", "paper-cable"}
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize("name", PAPERS)
def test_each_setting_of_a_paper_has_its_source_or_a_reason(name):
    preset = PRESETS[name]
    stated, chosen = set(preset.paper.sources), set(preset.paper.chosen)
    assert stated | chosen == set(preset.settings)
    assert not stated & chosen
    assert preset.needs_gpu
    assert preset.paper.differs


def test_kerple_has_the_parameters_that_its_paper_prints():
    settings = Settings.of_preset("paper-kerple", device="cpu")
    found = counts(settings, "kerple-log", PRESETS["paper-kerple"].paper.vocabulary)
    assert round(found.parameters / 1e6) == 162
    assert found.bias_parameters == 24  # "at most 36"
    assert settings.lengths == (512, 1024, 2048, 4096, 8192, 16384)
    assert len(settings.seeds) == 5


def test_cable_has_the_steps_and_tokens_of_its_repository():
    settings = Settings.of_preset("paper-cable", device="cpu")
    assert settings.batch_size * settings.train_length == 524_288
    assert int(settings.warmup * settings.steps) == 715
    assert settings.batch_size // settings.accumulate == 16
    assert settings.lengths[-1] == 15_360


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_is_not_run_on_another_text_or_other_tokens_by_accident(name, tmp_path):
    settings = Settings.of_preset(name, device="cpu")
    with pytest.raises(ValueError, match=r"^(text|tokenizer): got none for paper-") as refused:
        compare_schemes(settings, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    check_text(
        settings.changed(text=("a.txt",), tokenizer="tokenizer.json")
        if settings.dataset is None
        else settings.changed(tokenizer="t.json")
    )


def test_accumulation_divides_the_batch(toy):
    with pytest.raises(ValueError, match=r"^accumulate: got 3, expected a divisor of batch_size = 4$"):
        toy(accumulate=3)
    with pytest.raises(ValueError, match=r"^accumulate: got 8, expected a whole number from 1 to 4$"):
        toy(accumulate=8)


def test_published_figures_are_complete_and_sourced():
    assert set(published_names()) <= set(PAPERS)
    for name in published_names():
        found = published(name)
        assert found["reference"] == PRESETS[name].paper.reference
        for table in found["tables"]:
            assert table["where"].startswith("Table ")
            assert table["lengths"] == sorted(table["lengths"])
            for cells in table["rows"].values():
                assert len(cells) == len(table["lengths"])
                assert all(cell is None or float(cell.split(" ")[0]) > 1 for cell in cells)
