import sys

from falloff.bench import timing
from falloff.bench.peak import measured_peak
from falloff.bench.timing import RemoteRun, take_turns


def test_contestants_take_turns_and_begin_in_turn():
    seen, shares = [], []
    runs = {name: lambda name=name: seen.append(name) or [] for name in "abc"}
    timed = take_turns(runs, 3, shares.append)
    assert "".join(seen) == "abc" + "bca" + "cab"
    assert shares == [1 / 3, 2 / 3, 1.0]
    assert timed.turns == 3
    assert list(timed.milliseconds) == list("abc")
    assert all(0 <= times["best"] <= times["median"] for times in timed.milliseconds.values())


def test_calls_in_a_row_and_one_who_times_itself():
    class Other(RemoteRun):
        def seconds(self, calls):
            seen.append("o" * calls)
            return [0.25] * calls

    seen = []
    timed = take_turns({"a": lambda: seen.append("a") or [], "o": Other()}, 2, calls=3)
    assert "".join(seen) == "aaaooo" + "oooaaa"
    assert timed.milliseconds["o"] == {"median": 250.0, "best": 250.0}


def test_as_many_turns_as_fit(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_PER_CASE", 1e-9)
    assert take_turns({"a": list}).turns == 3
    monkeypatch.setattr(timing, "SECONDS_PER_CASE", 60.0)
    assert take_turns({"a": list}).turns == 50


def test_peak_says_what_measured_it(monkeypatch):
    class Loop:
        @staticmethod
        def fma_peak(isa, threads):
            return 100.0 * threads + len(isa)

    assert measured_peak(None, 1).measured_by == "matmul"
    assert measured_peak(None, 1).gflops > 0
    monkeypatch.setattr("falloff.bench.peak.import_module", lambda name: Loop)
    assert measured_peak("avx2", 2) == type(measured_peak(None, 1))(204.0, "fma")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "falloff.bench._peak", None)  # as in a wheel
    assert measured_peak("avx2", 1).measured_by == "matmul"
