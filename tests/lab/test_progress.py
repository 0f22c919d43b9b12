import io

from falloff.lab.progress import BarProgress, LineProgress, Progress, progress_for


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _run(progress):
    with progress:
        progress.start(trials=3, done=1, work_left=20)
        for name in ("t5", "rope"):
            progress.start_trial(name, 10)
            progress.advance(8, doing="step 8/8", loss=1.5, tokens_per_second=12_345.0)
            progress.advance(1, doing="testing at 64")
            progress.finish_trial(name, "perplexity 5")


def test_chooses_by_stream():
    assert type(progress_for(Terminal())) is BarProgress
    assert type(progress_for(io.StringIO())) is LineProgress
    assert type(progress_for(Terminal(), silent=True)) is Progress


def test_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    _run(LineProgress(stream))
    lines = stream.getvalue().splitlines()
    assert lines.pop(0) == "1 of 3 trials were done by an earlier run"
    assert [line.split(":")[0] for line in lines] == ["[2/3] t5 ...", "[2/3] t5", "[3/3] rope ...", "[3/3] rope"]
    assert "perplexity 5" in lines[1]
    assert "left" in lines[1]
    assert "left" not in lines[3]


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bars = BarProgress(stream)
    with bars:
        bars.start(trials=3, done=1, work_left=20)
        assert (bars.bars.tasks[0].completed, bars.bars.tasks[0].total) == (0, 20)
        bars.start_trial("t5", 10)
        bars.advance(5, doing="step 5/8", loss=1.5, tokens_per_second=12_345.0)
        assert bars.bars.tasks[0].completed == 5
        bars.bars.refresh()
        assert "step 5/8, loss 1.500, 12,345 tokens/s" in stream.getvalue()
        bars.advance(3, doing="testing at 64")
        bars.finish_trial("t5", "perplexity 5")
        assert bars.bars.tasks[0].completed == 10  # even if the work of its parts adds up to less
    assert "2 of 3 done" in stream.getvalue()
    assert "perplexity 5" in stream.getvalue()


def test_lines_of_trials_that_run_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.start(trials=8, done=1, work_left=70)
    names = ["t5", "rope", "none", "tisa", "fire"]
    for name in names:
        progress.start_trial(name, 10)
        progress.advance(2, doing="step 2/10", trial=name)
    progress.drop_trial("none")  # its worker died: what it did is done again
    now[0] += 30
    progress.advance(4, doing="step 6/10", trial="t5")
    progress.start_trial("none", 10)
    now[0] += 30
    progress.advance(1, doing="step 1/10", trial="none")
    progress.finish_trial("rope", "perplexity 5")
    assert stream.getvalue().splitlines() == [
        "1 of 8 trials were done by an earlier run",
        *(f"[{place}/8] {name} ..." for place, name in enumerate(names, start=2)),
        "[2/8] t5: step 6/10; rope: step 2/10; tisa: step 2/10; fire: step 2/10, about 2.4 min left",
        "[6/8] none ...",
        "[2/8] t5: step 6/10; rope: step 2/10; tisa: step 2/10; fire: step 2/10; and 1 more, about 4.4 min left",
        "[2/8] rope: perplexity 5, 60 s, about 3.8 min left",
    ]


def test_bars_of_more_trials_than_a_terminal_has_room_for(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    bars = BarProgress(Terminal())
    with bars:
        bars.start(trials=20, done=0, work_left=200)
        for index in range(20):
            bars.start_trial(f"trial {index}", 10)
            bars.advance(1, doing="step 1/10", trial=f"trial {index}")
        assert [task.visible for task in bars.bars.tasks] == [True] * 17 + [False] * 4
        bars.finish_trial("trial 0", "perplexity 5")
        bars.drop_trial("trial 1")
        assert [task.visible for task in bars.bars.tasks] == [True] * 17 + [False] * 2
        assert bars.bars.tasks[0].completed == 10 + 18


def test_silence(capfd):
    _run(Progress())
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_a_line_every_so_often(monkeypatch):
    """Steps of 7 seconds: a line every 20 seconds, with the time left."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.start(trials=2, done=0, work_left=20)
    progress.start_trial("t5", 10)
    for step in range(10):
        now[0] += 7
        progress.advance(1, doing=f"step {step + 1}/10", loss=2.5, tokens_per_second=812.4)
    progress.finish_trial("t5", "perplexity 5")
    assert stream.getvalue().splitlines() == [
        "[1/2] t5 ...",
        "[1/2] t5: step 3/10, loss 2.500, 812 tokens/s, about 119 s left",
        "[1/2] t5: step 6/10, loss 2.500, 812 tokens/s, about 98 s left",
        "[1/2] t5: step 9/10, loss 2.500, 812 tokens/s, about 77 s left",
        "[1/2] t5: perplexity 5, 70 s, about 70 s left",
    ]


def test_every_progress_prints_notes(capfd, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    Progress().note("[bold] is a name")
    assert capfd.readouterr() == ("", "Note: [bold] is a name\n")
    for stream, kind in ((io.StringIO(), LineProgress), (Terminal(), BarProgress)):
        with kind(stream) as progress:
            progress.note("[bold] is a name")
        assert "Note: [bold] is a name" in stream.getvalue()
