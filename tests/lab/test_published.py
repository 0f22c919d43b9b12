"""Published figures beside those of a run, and never as one of them."""

import pytest

from falloff.lab.compare import compare_schemes
from falloff.lab.published import published_section


def test_the_section_says_whose_figures_they_are():
    section = published_section("paper-kerple")
    assert "Published, not measured here" in section
    assert "none of them was measured by falloff" in section
    assert "arXiv 2205.09921" in section
    assert '<th scope="row">KERPLE (log)</th><td>23.9 ± 0.6</td>' in section
    assert section.count("(published: Table 3)") == 3
    assert "<td>&ndash;</td>" in published_section("paper-cable")  # learned embeddings end at the trained length


def test_an_unknown_paper_is_refused_before_the_work(toy, text_path, tmp_path):
    with pytest.raises(ValueError, match=r"^published: got 'nobody', expected one of paper-cable, paper-kerple$"):
        compare_schemes(toy(text=(str(text_path),)), tmp_path / "run", published="nobody")
    assert not (tmp_path / "run").exists()


def test_they_stand_in_the_report_only_if_asked_for(toy, text_path, tmp_path):
    settings = toy(schemes=("alibi",), text=(str(text_path),))
    comparison = compare_schemes(settings, tmp_path / "run")
    assert "Published, not measured here" not in comparison.folder.report_path.read_text()
    comparison = compare_schemes(settings, tmp_path / "run", resume=True, published="paper-cable")
    page = comparison.folder.report_path.read_text()
    assert page.count("Published, not measured here") == 1
    assert "835.92" in page
    stored = comparison.folder.results_path.read_text() + comparison.folder.config_path.read_text()
    assert "835.92" not in stored
