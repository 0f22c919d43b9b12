"""How falloff writes files: whole or not at all, through no link; a new one has the permissions that the umask gives."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

PART = ".part"
"""How the name of a file that is not complete ends; a kill may leave one behind."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it: a reader finds the old content or the new, and never a part.

    The file beside it has a name that nobody can guess and must not exist: a link that somebody planted is not followed.

    Raises:
        OSError: naming the file, where it cannot be written; what stood there before stays.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "grid.csv", b"0,1")
    ...     [(entry.name, entry.read_bytes()) for entry in Path(folder).iterdir()]
    [('grid.csv', b'0,1')]
    """
    part = path.with_name(f"falloff-{secrets.token_hex(8)}{PART}")
    try:
        mode = check_replaceable(path)
        with part.open("xb") as file:  # O_EXCL; and the mode is the umask's, where tempfile would take 0600
            if mode is not None:  # what was private stays so
                part.chmod(stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            reason += f"; free at least {len(content):,} bytes there"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # it is there only where something failed


def check_replaceable(path: Path) -> int | None:
    """Refuse a place where something stands that writing a file there would destroy: a link, a folder, a device, a pipe.

    Returns:
        The mode of the file that stands there, or None.

    Raises:
        OSError: naming it.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise FileExistsError(errno.EEXIST, f"this is {kind}, which is not written over", str(path))
    return mode
