"""The environment of a run: versions, machine and commit, as stored in config.json."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import falloff


def versions(*more: str) -> dict[str, str | None]:
    """The versions of Python, falloff and the packages that a run uses, and of `more`; None for one not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "falloff": falloff.__version__}
    for package in ("torch", "numpy", "accelerate", "safetensors", "plotly", "datasets", "tokenizers", *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine(device: str) -> dict[str, Any]:
    """The machine: processor, cores that this process may use, torch's threads, and the GPU if the device is one."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit(package: Path = Path(falloff.__file__)) -> str | None:
    """The commit of the checkout that falloff runs from, with a + if files have changed; None without a checkout.

    `package`: the `__init__.py` of another falloff than this one.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package.parent), *arguments], capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A virtual environment may lie in another project's repository: the file itself must be tracked.
    if git("ls-files", "--error-unmatch", package.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return None if commit is None else commit + ("+" if changed else "")
