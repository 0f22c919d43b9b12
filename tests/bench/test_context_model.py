"""The model of context parallel attention. `tests/distributed` holds the bytes that it takes to those that ranks send."""

import json

import pytest
from rich.console import Console

from falloff.bench.context_model import H100, LENGTHS, METHODS, RANKS, Cluster, Layer, estimate, model, model_table
from falloff.cli import run
from falloff.distributed import bytes_sent


def _ring_step_by_step(ranks, length, layer, cluster):
    """Every rank computes with the keys that it has while it sends them on, and then waits for the next ones."""
    total = 0.0
    for backward in (False, True):
        shape = {"heads": layer.heads, "key_heads": layer.key_heads, "head_size": layer.head_size, "itemsize": 2}
        sent = bytes_sent("ring", ranks=ranks, batch=1, length=length, **shape, backward=backward)
        work = 2 * length**2 * layer.head_size * layer.heads * (3.5 if backward else 1.0) / cluster.tflops / 1e12
        clock = [0.0] * ranks
        for step in range(ranks):
            computed = [time + work / ranks**2 for time in clock]
            if step == ranks - 1:
                clock = computed
                break
            speeds = [cluster.near if (rank + 1) % cluster.per_node else cluster.far for rank in range(ranks)]
            arrives = [clock[rank] + cluster.latency + sent / (ranks - 1) / speeds[rank] for rank in range(ranks)]
            clock = [max(*computed, *arrives)] * ranks  # the slowest holds up all
        total += max(clock)
    return total


@pytest.mark.parametrize("ranks", [16, 64])
@pytest.mark.parametrize("length", [2**14, 2**17, 2**20])
def test_a_ring_takes_the_time_of_its_steps(ranks, length):
    found = estimate("ring", ranks, length, Layer(), H100)
    assert found.seconds == pytest.approx(_ring_step_by_step(ranks, length, Layer(), H100), rel=1e-9)


def test_without_a_network_only_the_products_are_left():
    free = Cluster("", 400.0, 1e30, 1e30, 8, 0.0, 80e9)
    operations = 3.5 * 2 * LENGTHS[0] ** 2 * 128 * 32
    for method in METHODS:
        found = estimate(method, 8, LENGTHS[0], Layer(), free)
        again = 4.5 / 3.5 if method == "ring" else 1.0
        assert found.seconds == pytest.approx(found.compute) == pytest.approx(again * operations / 8 / 400e12)


def test_a_slower_network_never_makes_a_call_faster():
    slow = Cluster("", H100.tflops, H100.near / 3, H100.far / 3, 8, 3 * H100.latency, 80e9)
    for method in METHODS:
        for ranks in (8, 16, 32):
            quick, slower = (estimate(method, ranks, 2**17, Layer(), cluster) for cluster in (H100, slow))
            assert slower.seconds >= quick.seconds > quick.compute * (1 - 1e-12)


def test_ulysses_needs_as_many_heads_as_ranks():
    assert estimate("ulysses", 32, 2**17, Layer(heads=32), H100) is not None
    assert estimate("ulysses", 33, 2**17, Layer(heads=32), H100) is None


def test_a_ring_holds_least_and_all_gather_all_keys():
    ulysses, gather, ring = (estimate(method, 32, 2**20, Layer(), H100) for method in METHODS)
    assert ring.held < ulysses.held < gather.held
    row = 2 * 2**20 * 128  # bytes of one head of the whole sequence
    own = 2 * row * (32 + 8) // 32
    assert gather.held == own + 2 * row * 8
    assert ring.held == own + 2 * 2 * row * 8 // 32
    # Of 32 heads and 8 key heads, each of 32 ranks computes one head, and for it holds a whole key head.
    assert ulysses.held == own + 2 * row * (1 + 1)


def test_gradients_of_all_gather_cross_nodes_pair_by_pair():
    """Each rank of 64 sends 56 shares to other nodes, by its own link: nothing carries them for several ranks at once."""
    sends = bytes_sent("all-gather", ranks=64, batch=1, heads=32, key_heads=8, length=2**20, head_size=128, backward=True)
    found = estimate("all-gather", 64, 2**20, Layer(), H100)
    assert found.seconds - found.compute > sends * 56 / 63 / H100.far


def test_the_command_prints_every_case(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["bench", "--suite", "context-parallel", "--model", "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [(case["length"], case["ranks"]) for case in found["cases"]] == [(n, k) for n in LENGTHS for k in RANKS]
    assert found["measured"] is False
    assert found["cases"][0]["methods"].keys() == set(METHODS)
    table, said = model_table(model())
    console = Console(width=160, record=True)
    console.print(table, said)
    text = console.export_text()
    assert "Estimated, not measured" in text
    assert "10,000,000" in text


@pytest.mark.parametrize(
    "more", [["--cases", "x"], ["--model", "--turns", "3"], ["--resume", "--out", "x.json"], ["--impl", "reference"]]
)
def test_options_of_other_suites_are_refused(capsys, more):
    with pytest.raises(SystemExit) as stop:
        run(["bench", "--suite", "context-parallel", *more])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(
        "falloff: --suite: got 'context-parallel', which takes only --model or --turns"
    )


def test_the_model_is_of_one_suite(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["bench", "--suite", "short", "--model"])
    assert stop.value.code == 2
    assert "--model: got the suite 'short', expected 'context-parallel'" in capsys.readouterr().err
