import os

from falloff.lab.cluster.progress_file import WrittenProgress, read_progress


def test_another_process_reads_how_far_an_attempt_is(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path = tmp_path / "progress.json"
    assert read_progress(path, "first") is None
    progress = WrittenProgress(path, "first")
    progress.start_trial("t5", 10)
    found = read_progress(path, "first")
    assert (found["work"], found["done"], found["pid"]) == (10, 0, os.getpid())
    assert read_progress(path, "second") is None  # what an earlier attempt has left
    progress.advance(3, doing="step 3/8", loss=1.5, tokens_per_second=100.0)
    assert read_progress(path, "first")["done"] == 0  # not at every step
    now[0] += 3
    progress.advance(1, doing="step 4/8", loss=1.25, tokens_per_second=90.0)
    found = read_progress(path, "first")
    assert [found[name] for name in ("done", "doing", "loss", "tokens_per_second")] == [4, "step 4/8", 1.25, 90.0]
    progress.note("a line")
    assert progress.notes == ["a line"]
    assert read_progress(path, "first")["doing"] == "a line"
    path.write_bytes(b"{")
    assert read_progress(path, "first") is None


def test_progress_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    progress = WrittenProgress(tmp_path / "file" / "progress.json", "first")
    progress.start_trial("t5", 10)
    progress.advance(1, doing="step 1/8")
