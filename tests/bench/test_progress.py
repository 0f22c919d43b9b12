from falloff.bench.progress import Progress, progress_for


def test_a_pipe_gets_a_line_for_each_case(capsys):
    """At eed457e `falloff bench` and `falloff hf check` said nothing for minutes where stderr was piped."""
    with progress_for(silent=False) as progress:
        progress.begin("timing", 2)
        for name in ("T5", "ALiBi"):
            progress.doing(name)
            progress.share(1.0)
        progress.begin("measuring", 1)
        progress.doing("FIRE")
    assert capsys.readouterr().err.splitlines() == ["[1/2] timing: T5", "[2/2] timing: ALiBi", "[1/1] measuring: FIRE"]


def test_silence_is_kept():
    assert type(progress_for(silent=True)) is Progress
