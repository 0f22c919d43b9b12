"""How falloff writes files: completely or not at all, never through a link; new files have the umask's permissions."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path

PART = ".part"
"""The suffix of a file that is still being written; a killed process may leave one behind."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_file(path: Path, content: bytes) -> None:
    """Write a file by `new_file`: a reader finds the old content or the new, never a part.

    Raises:
        OSError: naming the file, if it cannot be written; the old content stays.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "grid.csv", b"0,1")
    ...     [(entry.name, entry.read_bytes()) for entry in Path(folder).iterdir()]
    [('grid.csv', b'0,1')]
    """
    with new_file(path, len(content)) as file:
        file.write(content)


@contextmanager
def new_file(path: Path, size: int | None = None) -> Iterator[BufferedIOBase]:
    """Open a temporary file in the same folder for writing, and rename it when the context ends without an error.

    The temporary file has a random name and must not exist yet, so that no planted link is followed. Content and name are on
    the disk at the end, also if the power fails then.

    Args:
        path: what it is renamed to.
        size: the bytes that will be written, if known, for the error message of a full disk.

    Raises:
        OSError: naming the file, for any OSError within the context; the old content stays.
    """
    part = path.with_name(f"falloff-{secrets.token_hex(8)}{PART}")
    try:
        mode = check_replaceable(path)
        with part.open("xb") as file:  # O_EXCL, with the umask's mode; tempfile would use 0600
            if mode is not None:  # a private file stays private
                part.chmod(stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _settle(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            reason += "; free some space there" if size is None else f"; free at least {size:,} bytes there"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # it exists only after a failure


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder in which no other process is at work."""
    for part in folder.glob(f"falloff-*{PART}"):
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they exist, so that they outlast a loss of power.

    Raises:
        OSError: naming the folder.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _settle(path.parent)


def _settle(folder: Path) -> None:
    """Have the system write the names in a folder to the disk now: a loss of power could undo a rename otherwise.

    Not every system can: what was written is complete all the same, so that a failure is none of the caller's.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_replaceable(path: Path) -> int | None:
    """Refuse a path that is a link, a folder, a device or a pipe, which writing a file there would destroy.

    Returns:
        The mode of the file at this path, or None if there is none.

    Raises:
        OSError: naming the path.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise FileExistsError(errno.EEXIST, f"this is {kind}, which is not written over", str(path))
    return mode
