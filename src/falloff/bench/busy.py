"""A busy machine: processes that only spin."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It checks now and then whether its parent is still alive: a killed benchmark must leave no process behind.
_SPIN = "import os\nparent = os.getppid()\nprint(flush=True)\nwhile os.getppid() == parent:\n for _ in range(10**6): pass"


@contextmanager
def spinning(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run this many spinning processes within the context."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", _SPIN], stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()  # now it spins
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()
