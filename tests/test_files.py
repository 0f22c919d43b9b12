"""Files are written whole, with the umask's permissions, through no link; what fails names the file."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from falloff.files import new_file, write_file


def test_written_with_the_permissions_of_the_umask(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            write_file(tmp_path / "file", b"content")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"content")]
        (tmp_path / "file").unlink()


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o640])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    path.chmod(mode)
    write_file(path, b"content")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"content", mode)


def test_nothing_but_a_regular_file_is_replaced(tmp_path):
    target = tmp_path / "thesis.tex"
    target.write_text("years of work")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "nowhere").symlink_to(tmp_path / "new")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "a link"), ("nowhere", "a link"), ("folder", "a folder"), ("pipe", "no regular file")):
        with pytest.raises(OSError, match=f"this is {kind}, which is not written over") as caught:
            write_file(tmp_path / name, b"content")
        assert caught.value.filename == str(tmp_path / name)
    assert target.read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", "link", "nowhere", "folder", "pipe"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left on device; free at least 7 bytes there"),
        (errno.EDQUOT, "Disk quota exceeded; free at least 7 bytes there"),
        (errno.EROFS, "Read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_errors_name_the_file_and_keep_what_was_there(tmp_path, monkeypatch, where, code, message):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*arguments):
        raise OSError(code, os.strerror(code))  # without a name, as a full disk has it

    monkeypatch.setattr(where, fail)
    with pytest.raises(OSError, match=message) as caught:
        write_file(path, b"content")
    monkeypatch.undo()
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"before")]


def test_names_that_cannot_be(tmp_path):
    with pytest.raises(OSError, match="File name too long"):
        write_file(tmp_path / ("x" * 300), b"")
    write_file(tmp_path / ("x" * 255), b"the longest name there is")
    with pytest.raises(OSError, match="Not a directory"):
        write_file(tmp_path / ("x" * 255) / "y", b"")
    with pytest.raises(OSError, match="No such file or directory"):
        write_file(tmp_path / "no" / "y", b"")
    write_file(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), b"no UTF-8")


def test_a_real_limit_on_what_is_written_is_one_line(tmp_path):
    """A process that may write files of 512 bytes alone, which fails where a full disk does: in the midst of a write."""
    code = (
        "import resource, signal; from falloff.cli import run; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)); run(['show', 't5', '--image', 'grid.png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "falloff: grid.png: File too large"
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "advice"), [(None, "free some space there"), (1000, "free at least 1,000 bytes there")])
def test_a_file_that_is_written_in_parts(tmp_path, size, advice):
    with new_file(tmp_path / "file", size) as file:
        file.write(b"one, ")
        file.write(b"two")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"one, two"
    with pytest.raises(OSError, match=f"No space left on device; {advice}") as caught, new_file(tmp_path / "file", size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "file")

    def stopped():
        with new_file(tmp_path / "file") as file:
            file.write(b"a part")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"one, two")]
