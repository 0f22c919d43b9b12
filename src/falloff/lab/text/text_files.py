"""Which files a text consists of."""

import hashlib
import os
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class TextFile:
    """A file to read. Its name decides its side of the split. `asked`: whether the user gave this path itself."""

    path: Path
    name: str
    asked: bool = False


def files_of(paths: list[Path]) -> list[TextFile]:
    """The files that paths name.

    Raises:
        ValueError: for a path that is no file or folder, a folder without files, and a file that is named twice.
    """
    found: list[TextFile] = []
    for path in paths:
        if path.is_dir():
            inside = [TextFile(*entry) for entry in walk(path, frozenset({"__pycache__"}))]
            if not inside:
                raise ValueError(f"text: got {path}, a folder without files, expected files or folders with text")
            found += inside
        elif path.is_file():
            found.append(TextFile(path, path.name, asked=True))
        else:
            state = "which is neither a file nor a folder" if path.exists() else "which does not exist"
            raise ValueError(f"text: got {path}, {state}, expected readable files or folders")
    if len({file.path.resolve() for file in found}) < len(found):
        raise ValueError("text: got the same file twice, expected each once: it could be on both sides of the split")
    return found


def standard_library() -> list[TextFile]:
    """The source files of Python's standard library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    return [TextFile(path, name) for path, name in walk(root, _LEFT_OUT) if name.endswith(".py")]


def walk(root: Path, left_out: frozenset[str], argument: str = "text") -> Iterable[tuple[Path, str]]:
    """All regular files below a folder with their relative names, sorted; without hidden files and folders."""
    names = []

    def refuse(error: OSError) -> None:
        raise ValueError(f"{argument}: got {error.filename}, expected a readable folder: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    return ((root / name, name) for name in sorted(names) if (root / name).is_file())


def hash_fraction(name: str) -> float:
    """A hash of the name, from 0 to 1: it decides a file's side of the split, whatever other files there are."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8]) / 2**64
