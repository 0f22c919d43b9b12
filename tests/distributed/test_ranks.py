"""2, 3 and 4 ranks against one process: values and all gradients, every form, method, order and mask; errors; training.

One program runs all of it, and each test reads what it found: see `program.py`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distributed.cases import WORLDS
from distributed.program import work_of

SECONDS = 600
"""How long the program may take: on a machine with nothing else to do, half a minute."""
NAMES = [(world, name) for world in WORLDS for name in work_of(world)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank found, by size of the group: a message for each name, empty if all was right."""
    base = tmp_path_factory.getbasetemp()
    shared = "PYTEST_XDIST_WORKER" in os.environ  # of several processes of pytest, the first one runs it for all
    folder = (base.parent if shared else base) / "ranks"
    done = folder / "done"
    try:
        folder.mkdir()
    except FileExistsError:
        waiting = time.monotonic() + SECONDS + 60
        while not done.exists() and time.monotonic() < waiting:
            time.sleep(0.1)
    else:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        # A warning that something of torch.distributed is deprecated is an error.
        command = [sys.executable, "-W", "error::FutureWarning:torch.distributed", "-m", "distributed.program", str(folder)]
        said = f"it took more than {SECONDS} seconds"
        try:
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
            said = result.stdout + result.stderr
        finally:
            done.write_text(said)
    reports = {
        (world, rank): json.loads(path.read_text()) if (path := folder / f"{world}-{rank}.json").exists() else {}
        for world in WORLDS
        for rank in range(world)
    }
    return reports, done.read_text()


@pytest.mark.parametrize(("world", "name"), NAMES, ids=[name for _, name in NAMES])
def test_ranks_agree_with_one_process(found, world, name):
    reports, output = found
    for rank in range(world):
        report = reports[world, rank]
        failed = next((one for one, message in report.items() if message), "nothing")
        message = report.get(name, f"not run; on this rank {failed} failed before. {output[-2000:]}")
        assert message == "", f"on rank {rank}: {message}"
