"""A folder that one process at a time works in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from falloff.files import make_folder, remove_parts

_POLL_SECONDS = 0.5


@contextmanager
def held(lock_path: Path, taken: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the folder of a lock: the system lets go of it when the process ends, however it ends.

    What killed processes left half written there is removed.

    Args:
        lock_path: of the lock; its folder is made if it does not exist.
        taken: called once if another process holds it. Unless it raises an error, this one waits.
    """
    make_folder(lock_path.parent)
    lock = filelock.FileLock(lock_path, thread_local=False)
    with suppress(filelock.Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        taken()
        lock.acquire(poll_interval=_POLL_SECONDS)
    try:
        remove_parts(lock_path.parent)
        yield
    finally:
        lock.release()
