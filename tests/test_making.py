"""The parts that make the documentation: formulas, checks of the site, tables."""

import pytest

from making import check, fences, results

GOOD = '<h2 id="place">A</h2><a href="#place">x</a> <a href="other.html">y</a> <code>$$</code>'


def faults_of(tmp_path, body):
    (tmp_path / "index.html").write_text(body)
    (tmp_path / "other.html").write_text("<p id='there'>")
    return [fault for fault in check.faults(tmp_path) if "entry in the reference" not in fault]


def test_a_good_page_has_no_faults(tmp_path):
    assert faults_of(tmp_path, GOOD + '<img src="index.html" alt="a page">') == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "links to gone.html, which does not exist"),
        ('<a href="other.html#here">x</a>', "links to other.html#here, which has no such place"),
        ('<img src="gone.png" alt="a">', "loads gone.png, which does not exist"),
        ('<img src="other.html">', "image other.html has no text for those who cannot see it"),
        ('<script src="https://host/x.js"></script>', "loads https://host/x.js from another host"),
        ("<p>$$ x $$</p>", "a formula or an inclusion was not replaced"),
    ],
)
def test_a_fault_is_found(tmp_path, body, fault):
    (found,) = faults_of(tmp_path, GOOD + body)
    assert fault in found


def test_a_public_name_without_entry_is_a_fault(tmp_path):
    entries = "".join(f'<p id="falloff.{name}">' for name in ("T5Bias", "attention"))
    (tmp_path / "index.html").write_text(entries)
    found = list(check.faults(tmp_path))
    assert "falloff.ALiBi has no entry in the reference" in found
    assert not any(fault.startswith(("falloff.T5Bias ", "falloff.attention ")) for fault in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a $x^2$ b", "<msup>"),
        ("`$x$`", "<code>$x$</code>"),
        ("it costs $5 and $6", "$5 and $6"),
        ("$$\n\\frac{a}{b}\n$$", '<div class="formula" tabindex="0"><math'),
        ("- item\n\n    $$\n    \\frac{a}{b}\n    $$", '<div class="formula" tabindex="0"><math'),
        (r"$\lvert x \rvert$", 'form="prefix"'),
    ],
)
def test_formulas_become_mathml(text, expected):
    markdown = pytest.importorskip("markdown")
    from making.mathematics import Mathematics

    assert expected in markdown.markdown(text, extensions=[Mathematics(), "fenced_code"])


def test_blocks_with_their_marks():
    text = """
<!-- not run: needs a GPU -->
```sh
falloff info
```

- In a list:

    ```python
    x = 1
    ```

<!-- run with: --steps 2 -->

```run
falloff compare \\
    --seed 1
# a comment
falloff info
```
"""
    first, second, third = fences.blocks(text)
    assert (first.kind, first.reason, first.line) == ("sh", "needs a GPU", 3)
    assert (second.kind, second.code, second.reason) == ("python", "x = 1\n", "")
    assert third.more == "--steps 2"
    assert [command.split() for command in third.commands()] == [
        ["falloff", "compare", "--seed", "1"],
        ["falloff", "info"],
    ]


def test_a_command_that_fails_stops_the_build():
    with pytest.raises(ValueError, match="failed with 2"):
        fences.output_of("falloff show nothing-like-it")


def test_every_stored_result_is_on_the_page_of_speed():
    page = results.speed_page()
    for name, result in results.results().items():
        assert f"[`{name}`]" in page
        for case in result["cases"]:
            assert case["label"].removesuffix(" train") in page
