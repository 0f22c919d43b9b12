"""A busy machine: processes that do nothing but spin."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It looks now and then whether its parent still lives: a killed benchmark must leave nothing behind.
_SPIN = "import os\nparent = os.getppid()\nprint(flush=True)\nwhile os.getppid() == parent:\n for _ in range(10**6): pass"


@contextmanager
def spinning(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that spin for as long as the context lasts."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", _SPIN], stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()  # from here on it spins
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()
