import re
import sys

import pytest

from falloff import SCHEMES

SMALL = ["--num-buckets", "4", "--max-distance", "5"]


# show


def test_show_the_textbook_grid(falloff):
    result = falloff("show", "t5", *SMALL, "--length", 6)
    assert result.exit_code == 0
    for row in (
        "query \\ key  0  1  2  3  4  5",
        "4  3  2  2  1  0",
        "bucket 2: offsets 2-3",
        "bucket 3: offsets 4 and beyond",
    ):
        assert row in result.stdout


def test_show_as_json(read):
    shown = read("show", "t5", *SMALL, "--length", 3, "--tokens", "u e r")
    assert shown == {
        "scheme": "t5",
        "settings": {"num_buckets": 4, "max_distance": 5, "bidirectional": False, "std": 0.02},
        "num_heads": 8,
        "head": 0,
        "length": 3,
        "tokens": ["u", "e", "r"],
        "kind": "bucket",
        "cells": [[0, None, None], [1, 0, None], [2, 1, 0]],
        "labels": None,
        "legend": [
            {"bucket": 0, "ranges": [{"first": 0, "last": 0}]},
            {"bucket": 1, "ranges": [{"first": 1, "last": 1}]},
            {"bucket": 2, "ranges": [{"first": 2, "last": 3}]},
        ],
        "image": None,
    }


def test_show_values_of_one_head(read):
    shown = read("show", "alibi", "--length", 2, "--head", 2)
    assert (shown["kind"], shown["cells"], shown["legend"]) == ("value", [[0.0, None], [-0.125, 0.0]], [])


def test_show_bidirectional(read):
    assert None not in read("show", "t5", "--bidirectional", "--length", 4)["cells"][0]


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.needs_content])
def test_show_every_scheme(falloff, name):
    result = falloff("show", name)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) >= 11
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_seeds_decide_random_start_values(read):
    one, same, other = (read("show", "kerple-log", "--seed", seed)["cells"] for seed in (1, 1, 2))
    assert one == same != other


def test_names_are_forgiving(read):
    assert read("show", "Kerple_Log")["scheme"] == "kerple-log"


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_show_writes_images(falloff, tmp_path, ending, start):
    result = falloff("show", "t5", *SMALL, "--tokens", "u e r y", "--image", f"grid.{ending}")
    assert result.exit_code == 0
    assert f"Written to grid.{ending}" in result.stdout
    content = (tmp_path / f"grid.{ending}").read_bytes()
    assert content.startswith(start)
    assert len(content) > 4000


def test_an_image_has_room_for_what_a_terminal_has_not(falloff, tmp_path):
    result = falloff("show", "t5", "--length", 30, "--image", "grid.png")
    assert result.exit_code == 0
    assert "bucket 20" in result.stdout
    assert (tmp_path / "grid.png").stat().st_size > 4000


def test_the_notation_of_textbooks(falloff, read):
    assert read("show", "t5", "--n-b", 3, "--dist-max", 5)["cells"] == read("show", "t5", *SMALL)["cells"]
    note = "Note: these are 3 buckets, 0 .. 2; a textbook's n_b = 3 are 4, 0 .. 3: --n-b 3 --dist-max 5"
    for command in ("show", "buckets"):
        assert note in falloff(command, "t5", "--num-buckets", 3, "--max-distance", 5).stdout
        assert "Note" not in falloff(command, "t5", *SMALL).stdout


def test_show_labels_and_lists_of_buckets(falloff, read):
    labels = "q_{query}.k_{key}+u_{bucket}"
    shown = read("show", "--buckets", "0,1,2-3,4+", "--length", 3, "--labels", labels)
    assert (shown["scheme"], shown["settings"]) == ("buckets", {"rule": "0,1,2-3,4+"})
    assert shown["labels"][2] == ["q_2.k_0+u_2", "q_2.k_1+u_1", "q_2.k_2+u_0"]
    printed = falloff("show", "t5", *SMALL, "--length", 3, "--labels", labels).stdout
    assert "q_2.k_0+u_2  q_2.k_1+u_1  q_2.k_2+u_0" in printed


def test_a_wider_terminal_has_room(falloff):
    assert falloff("show", "t5", "--length", 40).exit_code == 2
    assert falloff("show", "t5", "--length", 40, columns=200).exit_code == 0


# buckets


def test_buckets(falloff):
    result = falloff("buckets", "t5", "--num-buckets", 32, "--max-distance", 128)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["23", "offsets", "40-45", "6"] in rows
    assert ["31", "offsets", "113", "and", "beyond", "unlimited"] in rows


def test_buckets_of_both_directions(falloff):
    rows = [line.split() for line in falloff("buckets", "t5", "--bidirectional").stdout.splitlines()]
    assert ["16", "never", "used", "0"] in rows
    assert ["17", "offset", "-1", "1"] in rows


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["t5", "--distance", "40"], "offset 40 has bucket 23: offsets 40-45"),
        (["t5", "--distance", "1000000000"], "offset 1000000000 has bucket 31: offsets 113 and beyond"),
        (["t5", "--distance", "-3", "--bidirectional"], "offset -3 has bucket 19: offset -3"),
        (["t5", "--distance", "-3"], "offset -3 has bucket 0: offset 0"),
        (["per-offset", "--distance", "5", "--max-distance", "5"], "offset 5 has bucket 5: offsets 5 and beyond"),
        (["t5", "--num-buckets", "36", "--max-distance", "392", "--distance", "84"], "offset 84 has bucket 27"),
    ],
)
def test_the_bucket_of_a_distance(falloff, arguments, line):
    assert line in falloff("buckets", *arguments).stdout


def test_buckets_as_json(read):
    shown = read("buckets", "t5", "--num-buckets", 8, "--max-distance", 8, "--bidirectional", "--distance", 3)
    assert list(shown) == ["scheme", "settings", "buckets", "distance"]
    assert shown["buckets"][3:5] == [{"bucket": 3, "ranges": [{"first": 4, "last": None}]}, {"bucket": 4, "ranges": []}]
    assert shown["buckets"][7] == {"bucket": 7, "ranges": [{"first": None, "last": -4}]}
    assert shown["distance"] == {"offset": 3, "bucket": 2, "ranges": [{"first": 2, "last": 3}]}
    assert read("buckets", "per-offset", "--max-distance", 2)["distance"] is None


# schemes of one's own

OWN = """
import torch
from falloff import Scheme


class Mine(Scheme):
    def __init__(self, heads, must: int, rate=1.0, flip: bool = True, length=3, word: "str | None" = None,
                 sizes: tuple[int, ...] = ()):
        super().__init__()
        if rate <= 0:
            raise ValueError(f"rate: got {rate}, expected a number above 0")
        self.slope = torch.nn.Parameter(torch.full((heads,), rate * must * (1 if flip else -1)))

    def at(self, offsets):
        return -self.slope[:, None] * offsets.abs()


class Two(Scheme):
    def at(self, offsets):
        return (1 / (1 + offsets.abs())).expand(2, -1)


class Steps(Two):
    name = "steps"

    def bucket(self, offsets):
        return offsets.clamp(0, 2)


class Refuses(Scheme):
    def __init__(self, num_heads):
        super().__init__()
        raise RuntimeError("not today")


class Broken(Scheme):
    def at(self, offsets):
        return undefined


class Typo(Scheme):
    def at(self, offsets):
        return self.slop * offsets


class Headless(Scheme):
    needs_content = True


class Content(Headless):
    def __init__(self, num_heads):
        super().__init__()
        self.num_heads = num_heads


nothing = 3
"""


@pytest.fixture
def own(tmp_path):
    """A file `own.py` in the folder where the command runs."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "fails.py").write_text("import math\n\nimport no_such_module_anywhere\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    yield
    for name in ("own", "fails"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["own.py:Mine", "own:Mine"])
def test_a_scheme_of_ones_own_is_shown_with_its_settings(falloff, read, name):
    shown = read("show", name, "--must", 2, "--rate", 0.5, "--length", 2, "--num-heads", 3)
    assert (shown["scheme"], shown["num_heads"], shown["cells"]) == ("Mine", 3, [[0.0, None], [-1.0, 0.0]])
    assert shown["settings"] == {"must": 2, "rate": 0.5, "flip": True, "length": 3, "word": None}
    before = read("show", "--must", 2, "--no-flip", "--word=a:b", name, "--length", 2)
    assert read("show", "--must", 2, "--no-flip", name, "--word", "a:b", "--length", 2) == before
    assert (before["settings"]["flip"], before["settings"]["word"]) == (False, "a:b")
    assert before["cells"][1] == [2.0, 0.0]
    help_text = falloff("show", name, "--help", columns=200).stdout
    assert re.search(r"--rate .* For Mine \(default 1.0\)", help_text)
    assert "For t5" not in help_text
    assert "--sizes" not in help_text  # no number, word or switch
    assert "learned: training moves it" in falloff("explain", name, "--must", 2).stdout


@pytest.mark.usefixtures("own")
def test_a_scheme_of_ones_own_works_wherever_a_name_does(falloff, read, check, tmp_path):
    assert read("show", "own.py:Two", "--length", 2)["num_heads"] == 2  # its constructor has no argument for it
    assert read("explain", "own:Two")["num_heads"] == 2
    assert falloff("show", "own.py:Two", "--image", "own.png").exit_code == 0
    assert (tmp_path / "own.png").stat().st_size > 4000
    assert read("buckets", "own.py:Steps")["scheme"] == "steps"
    assert check("1,X\n0.5,1\n", scheme="own.py:Two").exit_code == 0
    assert check("1,X\n0.6,1\n", "--head", 1, scheme="own:Two").exit_code == 1
    assert "depends on what the tokens say" in falloff("explain", "own.py:Content").stdout
    assert read("explain", "own.py:Content", "--num-heads", 3)["num_heads"] == 3
    assert read("show", f"{tmp_path}/own.py:Two")["scheme"] == "Two"
    assert read("show", "falloff.schemes.alibi:ALiBi", "--learned")["settings"] == {"learned": True}


@pytest.mark.usefixtures("own")
def test_the_file_of_a_scheme_is_read_again_after_a_change(read, tmp_path):
    assert read("show", "own.py:Two", "--length", 2)["cells"][1][0] == 0.5
    (tmp_path / "own.py").write_text(OWN.replace("(1 / (1 +", "(3 / (2 +"))
    assert read("show", "own.py:Two", "--length", 2)["cells"][1][0] == 1.0


@pytest.mark.usefixtures("own")
def test_values_of_other_options_are_no_names(falloff, tmp_path):
    """`--tokens a:b` is text: it runs nothing."""
    (tmp_path / "planted.py").write_text("raise RuntimeError\n")
    assert falloff("show", "t5", "--tokens", "planted:b c").exit_code == 0
    for arguments in (["t5", "--typo", "planted:b"], ["--typo", "planted:b", "t5"], ["t5", "planted:b"]):
        assert "RuntimeError" not in falloff("show", *arguments).stderr
    assert (
        falloff("check", "planted.py:grid", "--scheme", "t5").stderr
        == "falloff: planted.py:grid: No such file or directory\n"
    )
    assert "expected a file that ends in" in falloff("show", "t5", "--image", "planted:b").stderr


OWN_REFUSED = [
    (["show", "none.py:Mine"], "SCHEME: got 'none.py:Mine', expected a file that exists: none.py does not"),
    (["show", "own.py"], "or module:Class or file.py:Class of your own (own.py:Class)"),
    (["show", "no_such_module:Mine"], "expected a module that is installed or in this folder: there is no no_such_module"),
    (["show", "own.none:Mine"], "there is no own.none"),
    (["show", "own.py:None"], "expected a class of own.py: it has Mine, Two, Steps"),
    (["show", "own:Missing"], "expected a class of own: it has Mine, Two, Steps"),
    (["explain", "own.py:nothing"], "expected a class derived from falloff.Scheme: nothing is not"),
    (["check", "g", "--scheme", "json:loads"], "--scheme: got 'json:loads', expected a class derived from falloff.Scheme"),
    (["show", "a b:Mine"], "SCHEME: got 'a b:Mine', expected module:Class or file.py:Class of your own"),
    (["show", "fails.py:Mine"], "ModuleNotFoundError: No module named 'no_such_module_anywhere' (line 3)"),
    (["show", "fails:Mine"], "ModuleNotFoundError: No module named 'no_such_module_anywhere' (line 3)"),
    (["show", "syntax.py:Mine"], "expected a file that can be imported: SyntaxError: invalid syntax (line 1)"),
    (["show", "leaves.py:Mine"], "expected a file that can be imported: SystemExit: 3 (line 1)"),
    (["show", "own.py:Mine"], "--must: got nothing, expected a value: Mine has no default"),
    (["show", "own.py:Mine", "--must", "1", "--rate", "-1"], "--rate: got -1.0, expected a number above 0"),
    (["show", "own.py:Mine", "--must", "one"], "Invalid value for '--must'"),
    (["show", "own.py:Mine", "--num-buckets", "3"], "No such option: --num-buckets"),
    (["show", "own.py:Refuses"], "SCHEME: got 'Refuses', expected a scheme that can be made: RuntimeError: not today (line"),
    (["show", "own.py:Broken"], "NameError: name 'undefined' is not defined (line"),
    (["show", "own.py:Typo"], "Typo.at: 'Typo' object has no attribute 'slop' (line"),
    (["show", "own.py:Content"], "SCHEME: got 'Content', whose bias depends on what the tokens say"),
    (["explain", "own.py:Headless"], "NotImplementedError: Headless must set num_heads"),
    (["buckets", "own.py:Two"], "SCHEME: got 'Two', expected one with buckets"),
]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("arguments", "message"), OWN_REFUSED, ids=lambda case: " ".join(case)[:60] * isinstance(case, list)
)
def test_what_is_wrong_with_a_scheme_of_ones_own_is_one_line(falloff, arguments, message):
    result = falloff(*arguments)
    assert message in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"falloff: .*\n", result.stderr)


# bad input

KNOWN = f"expected one of {', '.join(SCHEMES)}, or module:Class or file.py:Class of your own"

REFUSED = [
    # names
    (["shwo", "t5"], "No such command 'shwo'. Did you mean 'show'? (see falloff --help)"),
    (["--wrong"], "No such option: --wrong"),
    (["show"], "SCHEME: got nothing, expected a scheme, as t5, or --buckets with a list, as 0,1,2-3,4+"),
    (["show", "rope"], f"SCHEME: got 'rope', {KNOWN}"),
    (["show", ""], f"SCHEME: got '', {KNOWN}"),
    (["show", "t5\nalibi"], f"SCHEME: got 't5\\nalibi', {KNOWN}"),
    (["check", "grid.csv", "--scheme", "rope"], f"--scheme: got 'rope', {KNOWN}"),
    (["check", "grid.csv"], "--scheme: got nothing, expected a scheme, as t5, or --buckets with a list"),
    (["show", "t5", "alibi"], "unexpected extra argument"),
    (["show", "profile-mixture"], "SCHEME: got 'profile-mixture', whose bias depends on what the tokens say"),
    (
        ["check", "grid.csv", "--scheme", "profile-mixture"],
        "--scheme: got 'profile-mixture', whose bias depends on what the tokens say",
    ),
    (["buckets", "alibi"], "SCHEME: got 'alibi', expected one with buckets, as per-offset or t5"),
    (["buckets", "profile-mixture"], "expected one with buckets"),
    # settings
    (["show", "alibi", "--num-buckets", "4"], "--num-buckets: alibi does not take it, expected --learned"),
    (["show", "kerple-log", "--dim", "4"], "--dim: kerple-log does not take it, expected no setting beside --num-heads"),
    (["show", "t5", "--first", "1"], "expected --num-buckets, --max-distance, --bidirectional, --std"),
    (["explain", "fire", "--kernels", "3"], "expected --width, --init-c, --init-l"),
    (["buckets", "per-offset", "--num-buckets", "3"], "--num-buckets: per-offset does not take it"),
    (["show", "t5", "--num-buckets", "1"], "--num-buckets: got 1, expected an int of at least 2"),
    (["show", "t5", "--num-buckets", "9", "--bidirectional"], "--num-buckets: got 9, expected an even number"),
    (["show", "t5", "--num-buckets", "100000"], "--num-buckets: got 100000, expected at most 1024"),
    (["show", "t5", "--max-distance", "16"], "--max-distance: got 16, expected an int of at least 17"),
    (["show", "per-offset", "--max-distance", "99999999"], "--max-distance: got 99999999, expected at most 1048576"),
    (["show", "sandwich", "--dim", "3"], "--dim: got 3, expected an even number"),
    (["show", "sandwich", "--first", "2"], "--first: got 2, expected 0 or 1"),
    (["show", "fire", "--init-c", "0"], "--init-c: got 0.0, expected a finite number above 0"),
    (["show", "fire", "--init-l", "nan"], "--init-l: got nan, expected a finite number"),
    (["show", "fire", "--init-c", "inf"], "--init-c: got inf, expected a finite number"),
    (["show", "fire", "--init-c", "1e39"], "not finite"),
    (["show", "t5", "--std", "1e300", "--values"], "not finite"),
    (["show", "tisa", "--kernels", "five"], "Invalid value for '--kernels'"),
    (["show", "t5", "--n-b", "4", "--dist-max", "9"], "--n-b: got 4, expected an odd number: the textbook's formula"),
    (["show", "t5", "--n-b", "3"], "--n-b: got it alone, expected --dist-max too"),
    (["show", "t5", "--dist-max", "3"], "--dist-max: got it alone, expected --n-b too"),
    (["show", "t5", "--n-b", "3", "--dist-max", "2"], "--dist-max: got 2, expected an int of at least 3"),
    (["show", "t5", "--n-b", "9999", "--dist-max", "9"], "--n-b: got 9999, expected at most 1023 on the command line"),
    (["show", "t5", "--n-b", "3", "--dist-max", "5", "--num-buckets", "4"], "--num-buckets: got it beside --n-b, expected"),
    (["show", "alibi", "--n-b", "3", "--dist-max", "5"], "--n-b: alibi does not take it, expected t5"),
    (["show", "t5", "--buckets", "0,1+"], "--buckets: got '0,1+' and SCHEME, expected a list or a scheme"),
    (["show", "--buckets", "0,1+", "--values"], "--buckets: a list of buckets has no values, expected a scheme"),
    (["show", "t5", "--labels", "{value}"], "--labels: got {value}, expected of this grid {bucket}, {offset}, {query}"),
    # lengths, heads, tokens, images
    (["show", "t5", "--length", "0"], "Invalid value for '--length'"),
    (["show", "t5", "--length", "-3"], "Invalid value for '--length'"),
    (["show", "t5", "--length", "1.5"], "Invalid value for '--length'"),
    (["show", "t5", "--length", "1000000"], "Invalid value for '--length'"),
    (["show", "t5", "--length", "100"], "length: got 100 positions, expected at most 24 in the 80 columns"),
    (["show", "alibi", "--head", "8"], "head: got 8, expected 0 .. 7"),
    (["show", "alibi", "--num-heads", "0"], "Invalid value for '--num-heads'"),
    (["show", "alibi", "--seed", "-1"], "Invalid value for '--seed'"),
    (["show", "t5", "--image", ""], "--image: got '', expected a value (is a shell variable unset?)"),
    (["show", "t5", "--image="], "--image: got ''"),
    (["check", "", "--scheme", "t5"], "'GRID': got '', expected a file (is a shell variable unset?)"),
    (["check", "grid.csv", "--scheme", ""], "--scheme: got ''"),
    (["show", "t5", "--tokens", "  "], "--tokens: got '  ', expected a value (is a shell variable unset?)"),
    (["show", "t5", "--tokens", "u e r", "--length", "4"], "tokens: got 3 of them for 4 positions"),
    (["show", "t5", "--tokens", "u " * 600], "--tokens: got 600 tokens, expected at most 512"),
    (["show", "t5", "--image", "grid.jpg"], "image: got 'grid.jpg', expected a file that ends in .png, .svg or .pdf"),
    (["show", "t5", "--image", "grid"], "image: got 'grid'"),
    (["show", "t5", "--image", "none/grid.png"], "none/grid.png: No such file or directory"),
    (["buckets", "t5", "--distance", "far"], "Invalid value for '--distance'"),
    (["buckets", "t5", "--distance", "9" * 40], "Invalid value for '--distance'"),
    (["explain", "t5", "--trained-length", "1"], "Invalid value for '--trained-length'"),
    (["show", "rope"], "(rope is no bias: `falloff explain rope`)"),
    # files
    (["check", "none.csv", "--scheme", "t5"], "none.csv: No such file or directory"),
    (["check", ".", "--scheme", "t5"], ".: Is a directory"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=lambda case: " ".join(case)[:60] if isinstance(case, list) else ""
)
def test_bad_input_is_one_line_and_status_2(falloff, arguments, message):
    result = falloff(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert result.stderr.startswith("falloff: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "got nothing"),
        (" \n \n", "got nothing"),
        ("0 X\n1\n", "row 1 has 1 cells and row 0 has 2"),
        ("0 X X\n1 0 X\n", "expected a square"),
        ("0 X\none 0\n", "row 1, column 0 reads 'one'"),
        ("0 nan\n1 0\n", "reads 'nan'"),
        ("hello\nworld 1\n", "row 1 has 2 cells and row 0 has 1"),
        (b"\x89PNG\r\n\x1a\n\x00", "binary"),
        (b"\xff\xfe0\x00", "binary"),
        ('"0,X\n1,0\n', "cannot be read as CSV"),
        ("hello", "row 0, column 0 reads 'hello'"),
    ],
)
def test_files_that_are_no_grid(check, content, message):
    for extra in ([], ["--json"]):
        result = check(content, *extra)
        assert result.exit_code == 2
        assert message in result.stderr
        assert re.fullmatch(r"falloff: grid\.csv: .*\n", result.stderr)
        assert result.stdout == ""


def test_every_json_key_is_documented(falloff, read):
    objects = {
        "show": read("show", "t5"),
        "buckets": read("buckets", "t5", "--distance", 3),
        "explain": read("explain", "t5"),
    }
    for command, content in objects.items():
        help_text = falloff(command, "--help", columns=200).stdout
        keys = set(content) | set(content.get("properties") or {}) | set((content.get("properties") or {}).get("beyond", {}))
        assert {key for key in keys if not re.search(rf"\b{key}\b", help_text)} == set()
