"""Starting a Ray on this machine, or connecting to one that runs on many."""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

from falloff.lab.config import Settings
from falloff.lab.extras import require

LOCAL = "local"
_CONNECT_SECONDS = 10.0
_STORE_BYTES = 80_000_000
"""Of Ray's object store, near the least that it takes: results are small, and models go by way of the run's folder."""
_LONGEST_FOLDER = 40
"""Ray puts sockets into its folder, and a socket's path has at most 107 bytes."""


def check_cluster(cluster: str, settings: Settings) -> None:
    """Check where a comparison shall run.

    Raises:
        ValueError: if that is no address, or if the settings name one of several GPUs, which Ray chooses.
    """
    if cluster not in (LOCAL, "auto") and _host_and_port(cluster) is None:
        raise ValueError(
            f"cluster: got {cluster!r}, expected 'local' (the cores of this machine), HOST:PORT of a Ray that runs, or "
            "'auto' for the one that this machine belongs to"
        )
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(
            f"device: got {settings.device!r} together with a cluster, expected cpu or cuda: Ray gives each trial a GPU"
        )


@contextmanager
def connected(cluster: str, threads: int, on_gpu: bool) -> Iterator[ModuleType]:
    """Ray, connected to a cluster, and disconnected at the end; nothing of what it says reaches the terminal.

    Args:
        cluster: "local" starts a Ray on this machine, with as many workers as its cores have room for, and stops it at the
            end; HOST:PORT connects to one that runs, and "auto" to that of this machine.
        threads: cores that a trial takes.
        on_gpu: whether a trial takes a GPU.

    Raises:
        ValueError: if Ray cannot be started or reached.
        ImportError: if the extra `ray` is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions do, and without their warning
    if cluster == LOCAL:
        # Ray listens on all networks, and who has the token runs code: by default, Ray keeps one for all to read in the
        # home folder, which changes what a later `ray start` asks for.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = require("ray")
    if ray.is_initialized():
        raise ValueError("cluster: got a process that is connected to Ray already, expected ray.shutdown() before")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    folder = None
    if cluster == LOCAL:
        folder = _short_folder()
        options |= {
            "address": LOCAL,
            "num_cpus": max(_cores(), threads),
            "num_gpus": torch.cuda.device_count() if on_gpu else 0,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": str(folder),
        }
    else:
        _check_reachable(cluster)
        options["address"] = cluster
    try:
        # Ray prints on stdout that a worker died, which the run says itself; with --json, stdout is for the results.
        with redirect_stdout(StringIO()):
            try:
                with nullcontext() if cluster == LOCAL else _without_stderr():
                    ray.init(**options)
            except Exception as error:  # Ray lets errors of many kinds through
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                if cluster != LOCAL and "RAY_AUTH_MODE" not in os.environ:
                    reason += " (if it asks for a token, set RAY_AUTH_MODE=token)"
                raise ValueError(f"cluster: got {cluster!r}, expected a Ray that can be used: {reason}") from None
            with _stopped_by_sigterm():
                yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what is written to file descriptor 2: Ray's C++ part reports each of its attempts to connect there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Take SIGTERM, by which schedulers stop a job, as Ctrl-C: Ray's own handler prints a stack and aborts."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _host_and_port(cluster: object) -> tuple[str, int] | None:
    match = re.fullmatch(r"\[?([^\s/\[\]]+?)\]?:(\d{1,5})", cluster) if isinstance(cluster, str) else None
    return (match[1], int(match[2])) if match and 0 < int(match[2]) < 2**16 else None


def _check_reachable(cluster: str) -> None:
    """Ray itself would try for minutes."""
    address = _host_and_port(cluster)
    if address is None:
        return
    try:
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"cluster: got {cluster!r}, expected the address of a Ray that runs: {error.strerror or error}"
        ) from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="falloff-ray-"))
    if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="falloff-ray-", dir="/tmp"))
