import json
import re
import sys

import pytest
from typer.testing import CliRunner

from falloff.bench import beside, progress, suites
from falloff.bench.cases import Case
from falloff.cli import app

HEADER = [
    *("suite", "impl", "machine", "versions", "commit", "threads", "isa", "peak_gflops", "peak_measured_by"),
    *("turns", "flex", "against", "cases"),
]
CASE = ["name", "group", "label", "bias", "dtype", "causal", "training", "shape", "verified_at", "errors"]
CALLS = ["busy", "operators"]
TIMED = ["last_rows_error", "turns", "milliseconds", "skipped", "gflops", "share_of_peak", "ratio"]


@pytest.fixture
def falloff(monkeypatch, tmp_path):
    """The command with tiny cases, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("falloff.bench.peak._SIZES", (32,))
    sizes = {"heads": 2, "head_size": 8, "causal": True}
    monkeypatch.setitem(
        suites.CASES,
        "cpu",
        [Case("short", "t5", 16, training=True, **sizes), Case("forms", "fire", 16, **sizes)],
    )
    monkeypatch.setitem(
        suites.CASES,
        "scaling",
        [
            Case(group, bias, length, training=group == "training", **sizes)
            for group in ("forward", "training")
            for length in (16, 32)
            for bias in ("alibi", "t5", "fire")
        ],
    )
    calls = [Case("calls", "t5", 1, cache=20, **sizes), Case("decode", "none", 1, cache=20, **sizes)]
    monkeypatch.setitem(suites.CASES, "calls", calls)
    monkeypatch.setitem(suites.CASES, "short", [Case("short", "t5", 16, training=True, **sizes)])
    monkeypatch.setattr(beside, "_IN_A_ROW", 2)
    monkeypatch.setattr(beside, "_SPINNING", 1)
    monkeypatch.setitem(suites.CASES, "memory", [Case("memory", "t5", 16, training=True, **sizes)])

    def run(*arguments, columns=100):
        return CliRunner().invoke(
            app, ["bench", *map(str, arguments)], env={"COLUMNS": str(columns)}, prog_name="falloff", catch_exceptions=False
        )

    return run


def _json(result):
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.mark.parametrize("impl", ["cpu", "blockwise"])
def test_cpu_as_json_and_in_a_file(falloff, tmp_path, impl):
    found = _json(falloff("--turns", 2, "--impl", impl, "--json", "--out", "bench.json"))
    assert list(found) == HEADER
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    assert (found["suite"], found["impl"], found["turns"]) == ("cpu", impl, 2)
    assert (found["isa"] is None) == (impl != "cpu")
    training, forward = found["cases"]
    assert list(training) == list(forward) == [*CASE, *TIMED]
    assert training["shape"] == {"batch": 1, "heads": 2, "key_heads": 2, "queries": 16, "keys": 16, "head_size": 8}
    assert training["verified_at"] == {"queries": 16, "keys": 16}
    assert list(training["errors"]) == ["output", "query", "key", "value", "bias"]
    assert list(training["errors"]["bias"]) == ["ours", "sdpa", "budget"]
    assert list(training["milliseconds"]) == ["falloff", "sdpa, no bias", "sdpa, dense bias", "sdpa, dense learned", "eager"]
    assert list(training["milliseconds"]["eager"]) == ["median", "best"]
    assert list(training["ratio"]) == list(training["milliseconds"])[1:]
    assert list(training["skipped"]) == ["flex"]


def test_tables(falloff):
    result = falloff("--turns", 1)
    assert result.exit_code == 0
    for part in ("measured", "2 cases verified", "Short sequences", "T5 causal N=16 D=8 train", "FIRE causal", "flex: "):
        assert part in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert "FIRE" not in falloff("--turns", 1, "--cases", "short").stdout


def test_scaling_and_its_figure(falloff, tmp_path):
    result = falloff("--suite", "scaling", "--turns", 1, "--image", "scaling.png")
    assert result.exit_code == 0
    assert "Written to scaling.png" in result.stdout
    assert result.stdout.count("N=32") == 2
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    found = _json(falloff("--suite", "scaling", "--turns", 1, "--json", "--cases", "forward"))
    assert list(found) == HEADER
    assert len(found["cases"]) == 6
    assert list(found["cases"][0]) == [*CASE, *TIMED]
    assert list(found["cases"][0]["milliseconds"]) == ["falloff", "sdpa, no bias"]


def test_calls_and_short(falloff, tmp_path):
    found = _json(falloff("--suite", "calls", "--turns", 1, "--json", "--out", "bench.json"))
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    assert list(found) == HEADER
    call, decode = found["cases"]
    assert list(call) == [*CASE, *TIMED, "targets", *CALLS]
    assert list(decode) == [*CASE, *TIMED, "targets"]
    shown = falloff("--suite", "calls", "--turns", 1).stdout
    for part in ("One query against 128 keys", "while four processes spin", "[0.33]", "[6]", "One query against a cache"):
        assert part in shown
    shown = falloff("--suite", "short", "--turns", 1, "--against", sys.executable).stdout
    for part in ("T5 causal N=16 D=8 train", "older", "older: falloff "):
        assert part in shown


def test_memory(falloff, monkeypatch):
    measured = {"growth": 3_000_000, "results": 1, "inputs": 1, "extra": 2_000_000, "extra_over_inputs": 1.5}
    monkeypatch.setattr("falloff.bench.memory.unmeasurable", lambda: None)
    monkeypatch.setattr("falloff.bench.memory.measure", lambda *arguments: measured)
    found = _json(falloff("--suite", "memory", "--json"))
    assert list(found) == HEADER
    assert list(found["cases"][0]) == [*CASE, "memory", "skipped"]
    assert found["cases"][0]["memory"]["falloff"] == measured
    assert "2.0 (1.50x)" in falloff("--suite", "memory").stdout


def test_a_wrong_result_is_refused(falloff, monkeypatch, tmp_path):
    from falloff.bench import verify

    right = verify.ours

    def wrong(problem, impl):
        return right(problem, impl) if impl == "reference" else lambda: [2 * part for part in right(problem, impl)()]

    monkeypatch.setattr(verify, "ours", wrong)
    monkeypatch.setattr(suites, "take_turns", None)  # nothing is timed
    result = falloff("--json", "--out", "bench.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("falloff: wrong result in 'short: T5 causal N=16 D=8 train', impl 'cpu': RMS error of ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "bench.json").exists()


STOPPED = "stopped; bench.json has the cases so far; the same command with --resume continues"


@pytest.mark.parametrize(("suite", "cases", "finished"), [("cpu", 2, 1), ("scaling", 12, 3), ("memory", 2, 1)])
def test_a_run_that_was_stopped_keeps_what_it_measured_and_goes_on(falloff, monkeypatch, tmp_path, suite, cases, finished):
    """Guards against hours of work lost to Ctrl-C: nothing was written before the end."""
    monkeypatch.setitem(suites.CASES, "memory", suites.CASES["cpu"])
    monkeypatch.setattr("falloff.bench.memory.unmeasurable", lambda: "not here")
    modules = {"cpu": "falloff.bench.suites.take_turns", "scaling": "falloff.bench.scaling.take_turns"}
    name = modules.get(suite, "falloff.bench.memory._refusal")
    module, function = name.rsplit(".", 1)
    right, calls = getattr(sys.modules[module], function), []

    def stopped_the_second_time(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return right(*arguments)

    if suite == "memory":  # stopped when the second case begins
        begun = []

        class Stopping(progress.Progress):
            def doing(self, name):
                begun.append(name)
                if len(begun) == 4:  # two were verified
                    raise KeyboardInterrupt

        monkeypatch.setattr(progress, "progress_for", lambda *, silent: Stopping())
    else:
        monkeypatch.setattr(name, stopped_the_second_time)
    options = ["--suite", suite, "--out", "bench.json", "--json", "--resume"]
    stopped = falloff(*options)
    assert (stopped.exit_code, stopped.stdout) == (2, "")
    assert STOPPED in stopped.stderr
    before = json.loads((tmp_path / "bench.json").read_text())
    assert list(before) == HEADER
    assert len(before["cases"]) == finished

    monkeypatch.setattr(name, right)
    monkeypatch.setattr(progress, "progress_for", lambda *, silent: progress.Progress())
    whole = _json(falloff(*options))
    assert json.loads((tmp_path / "bench.json").read_text()) == whole
    assert whole["cases"][:finished] == before["cases"]
    assert whole["peak_gflops"] == before["peak_gflops"]
    assert [case["name"] for case in whole["cases"]] == [case.name for case in suites.CASES[suite]]
    assert len(whole["cases"]) == cases
    assert _json(falloff(*options)) == whole  # nothing is left to do


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "which is no result of falloff bench"),
        ("[" * 200_000, "which is no result of falloff bench"),
        ("\x00\xff", "which is no result of falloff bench"),
        ('{"cases": 3}', "which is no result of falloff bench"),
        ('{"suite": "memory", "cases": []}', 'which has suite "memory"'),
        ("other turns", "which has turns 1, expected turns 2"),
        ("other case", 'whose case "short: T5" is not among those asked for'),
        ("case twice", "is not among those asked for"),
        ("no case", "whose case null is not among those asked for"),
    ],
)
def test_resume_meets_something_else(falloff, tmp_path, content, message):
    out = tmp_path / "bench.json"
    if content.startswith(("other", "case", "no")):
        stored = _json(falloff("--turns", 1 if content == "other turns" else 2, "--json"))
        if content == "other case":
            stored["cases"][0]["name"] = "short: T5"
        elif content == "case twice":
            stored["cases"][1] = stored["cases"][0]
        elif content == "no case":
            stored["cases"][1] = None
        content = json.dumps(stored)
    out.write_text(content)
    result = falloff("--turns", 2, "--resume", "--out", "bench.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("falloff: --resume: got bench.json")
    assert result.stderr.count("\n") == 1
    assert out.read_text() == content  # as it was


def test_resume_of_nothing_begins(falloff, tmp_path):
    found = _json(falloff("--turns", 1, "--resume", "--out", "bench.json", "--json"))
    assert json.loads((tmp_path / "bench.json").read_text()) == found


REFUSED = [
    (["--resume"], "--resume: got no --out, expected the file to continue"),
    (["--suite", "gpu", "--resume", "--out", "x.json"], "--suite: got 'gpu', which takes only --cases, --out and --json"),
    (
        ["--suite", "tpu"],
        "--suite: got 'tpu', expected one of cpu, memory, scaling, calls, short, long, content, context-parallel, hf",
    ),
    (["--suite", "gpu", "--turns", "3"], "--suite: got 'gpu', which takes only --cases, --out and --json"),
    (["--suite", ""], "--suite: got ''"),
    (["--impl", "auto"], "--impl: got 'auto', expected one of cpu, triton, blockwise"),
    (["--turns", "0"], "Invalid value for '--turns'"),
    (["--turns", "many"], "Invalid value for '--turns'"),
    (["--turns", "3", "--suite", "memory"], "--turns: the suite 'memory' measures each contestant once"),
    (["--against", "python"], "--against: got the suite 'cpu', expected one of calls, short, long"),
    (["--suite", "short", "--against", "/no/python"], "--against: got '/no/python', No such file or directory, expected"),
    (["--isa", "sse9"], "--isa: got 'sse9', expected one of "),
    (["--isa", "avx2", "--impl", "blockwise"], "--isa: got 'avx2', expected --impl cpu"),
    (["--suite", "hf", "--isa", "avx2"], "--suite: got 'hf', which takes only --cases"),
    (["--flex", "--suite", "scaling"], "--flex: got the suite 'scaling', expected 'cpu'"),
    (["--cases", "nothing"], "--cases: got 'nothing', expected part of a name such as 'short: T5"),
    (["--image", "x.png"], "--image: the suite 'cpu' has no figure"),
    (["--image", "x.jpg", "--suite", "scaling"], "image: got 'x.jpg', expected a file that ends in"),
    (["--image", "no/x.png", "--suite", "scaling"], "--image: got 'no/x.png', expected a file in a folder that exists"),
    (["--out", "no/such/bench.json"], "--out: got 'no/such/bench.json', expected a file in a folder that exists"),
    (["--out", "."], "--out: got '.', expected a file"),
    (["--out", ""], "--out: got '', expected a value (is a shell variable unset?)"),
    (["--out="], "--out: got ''"),
    (["--image", " "], "--image: got ' '"),
    (["--cases", ""], "--cases: got ''"),
    (["--impl", ""], "--impl: got ''"),
    (["words"], "unexpected extra argument"),
    (["--fast"], "No such option: --fast"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_bad_input_is_one_line_and_status_2(falloff, monkeypatch, arguments, message):
    monkeypatch.setattr(suites, "verify", None)  # refused before anything runs
    result = falloff(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("falloff: ")
    assert result.stderr.count("\n") == 1


def test_out_is_no_link_and_an_error_names_it(falloff, monkeypatch, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "bench.json").symlink_to(tmp_path / "thesis.tex")
    for option, suite in (("--out", "cpu"), ("--out", "scaling"), ("--image", "scaling")):
        name = "bench.json" if option == "--out" else "bench.png"
        (tmp_path / "bench.png").unlink(missing_ok=True)
        (tmp_path / "bench.png").symlink_to(tmp_path / "thesis.tex")
        with monkeypatch.context() as patched:
            patched.setattr(suites, "verify", None)  # refused before anything runs
            result = falloff(option, name, "--suite", suite)
        assert (result.exit_code, result.stderr) == (2, f"falloff: {name}: this is a link, which is not written over\n")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = falloff("--turns", 1, "--out", "new.json", "--cases", "forms")
    assert result.exit_code == 2
    *progress, error = result.stderr.splitlines()
    assert all(line.startswith("[1/1] ") for line in progress)
    assert re.fullmatch(r"falloff: new.json: No space left on device; free at least [0-9,]+ bytes there", error)


def test_an_instruction_set_that_is_not_there(falloff, monkeypatch):
    monkeypatch.setenv("FALLOFF_CPU_ISA", "sse9")
    result = falloff("--json")
    assert result.exit_code == 2
    assert result.stderr.startswith("falloff: FALLOFF_CPU_ISA: got 'sse9'")


def test_every_key_is_documented(falloff):
    help_text = falloff("--help", columns=200).stdout
    keys = {
        *HEADER,
        *CASE,
        *TIMED,
        "targets",
        *CALLS,
        "over_quiet",
        "backward",
        "key_heads",
        "memory",
        "growth",
        "results",
        "extra",
        "inputs",
        "extra_over_inputs",
    }
    assert {key for key in keys if not re.search(rf"\b{key}\b", help_text)} == set()
