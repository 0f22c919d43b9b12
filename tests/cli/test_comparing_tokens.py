"""`falloff compare` on tokens of a tokenizer, end to end."""

import json

import pytest

from falloff.cli import run

tokenizers = pytest.importorskip("tokenizers")

SIZES = ["--preset", "quick", "--train-length", "16", "--steps", "3", "--schemes", "t5", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _surroundings(one_thread, monkeypatch, tmp_path):
    monkeypatch.setenv("FALLOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def inputs(tmp_path):
    """A folder of files, and a tokenizer.json of words."""
    words = ["the", "offset", "of", "a", "query", "and", "key", "in", "head", "some", "bucket"]
    (tmp_path / "texts").mkdir()
    for index in range(30):
        order = words[index % 7 :] + words[: index % 5]
        (tmp_path / "texts" / f"{index}.txt").write_text(" ".join(order * 40) + f" {index}\n")
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["[UNK]", *words]))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tok.json"))
    return ["--tokenizer", "tok.json", "--text", "texts"]


def _falloff(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(["compare", *arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_tokens_of_a_folder_then_resumed(capsys, inputs, tmp_path):
    code, out, err = _falloff(capsys, *SIZES, *inputs, "--out", "run", "--json")
    assert (code, err) == (0, "")
    config = json.loads(out)["config"]
    text = config["text"]
    assert (text["unit"], text["vocabulary"]) == ("token", 12)
    assert text["train_tokens"] + text["held_out_tokens"] < text["bytes"] / 3
    assert text["bytes_per_token"] == text["held_out_bytes"] / text["held_out_tokens"]
    assert config["tasks"]["text"]["vocabulary"] == 12
    assert config["tasks"]["text"]["measures"][0]["words"].startswith("perplexity per token")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("tokens.bin")}
    assert len(before) == 1
    code, out, err = _falloff(capsys, "--resume", "--out", "run", "--schemes", "rope", "--json")
    assert (code, err) == (0, "")
    assert {line["scheme"] for line in json.loads(out)["results"]} == {"t5", "rope"}
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("tokens.bin")} == before


def test_another_tokenizer_is_another_run(capsys, inputs, tmp_path):
    assert _falloff(capsys, *SIZES, *inputs, "--out", "run", "--json")[0] == 0
    stored = json.loads((tmp_path / "tok.json").read_text())
    stored["model"]["vocab"]["new"] = 12
    (tmp_path / "tok.json").write_text(json.dumps(stored))
    code, _, err = _falloff(capsys, "--resume", "--out", "run", "--schemes", "rope")
    assert code == 2
    assert "resume: got another run than the folder's (text was " in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--tokenizer", "none.json"],
            "tokenizer: got none.json, expected a tokenizer.json of the library tokenizers: No such",
        ),
        (
            ["--tokenizer", "texts/0.txt"],
            "tokenizer: got texts/0.txt, expected a tokenizer.json of the library tokenizers: ",
        ),
        (["--tokenizer", ""], "tokenizer: got ''"),
        (["--tokenizer", "tok.json", "--text-limit", "1000"], "tokens, of them"),
        (["--text-limit", "0"], "text_limit: got 0"),
        (["--text-limit", "1 MB"], "'--text-limit': got '1 MB', expected a whole number"),
    ],
)
def test_wrong_options_are_one_line(capsys, inputs, options, message):
    code, out, err = _falloff(capsys, *SIZES, "--text", "texts", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
