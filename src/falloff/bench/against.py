"""`--against PYTHON`: an older falloff as one more contestant, which runs its turns in a separate process."""

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from falloff.bench.problem import Problem, scheme_of
from falloff.bench.timing import RemoteRun
from falloff.environment import git_commit

_PROGRAM = Path(__file__).with_name("older.py")


class Older(RemoteRun):
    """The process of a Python that has an older falloff.

    Args:
        python: the path of the Python.
        impl: the implementation that it uses.

    Raises:
        ValueError: if this Python cannot run or has no falloff.
    """

    def __init__(self, python: str, impl: str) -> None:
        self.impl = impl
        try:
            self.process = subprocess.Popen(
                [python, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise ValueError(f"--against: got {python!r}, {error.strerror}, expected the path of a Python") from None
        self.folder = tempfile.TemporaryDirectory()
        try:
            self.about = self._answer()
        except OSError as error:
            raise ValueError(f"--against: got {python!r}, expected a Python that has falloff: {error}") from None

    def header(self) -> dict[str, Any]:
        """Its version, torch and commit, for the result."""
        commit = git_commit(Path(self.about["package"]))
        return {"falloff": self.about["falloff"], "torch": self.about["torch"], "commit": commit}

    def take(self, problem: Problem) -> list[Tensor]:
        """Send it a problem, which its next turns run. Returns the results of one turn."""
        made_by, settings = scheme_of(problem.case)
        state = {} if problem.scheme is None else problem.scheme.state_dict()
        query, key, value = problem.inputs
        tensors = {"query": query, "key": key, "value": value, "grad_out": problem.grad_out}
        tensors |= {f"scheme.{name}": tensor for name, tensor in state.items()}
        stored, results = (str(Path(self.folder.name, name)) for name in ("problem.safetensors", "results.safetensors"))
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, stored)
        self._ask(
            {
                "problem": stored,
                "scheme": None if made_by is None else made_by.__name__,
                "settings": settings,
                "training": problem.case.training,
                "causal": problem.case.causal,
                "impl": self.impl,
                "threads": torch.get_num_threads(),
                "results": results,
            }
        )
        found = load_file(results)
        return [found[str(index)] for index in range(len(found))]

    def seconds(self, calls: int) -> list[float]:
        """The seconds of each of `calls` calls of the problem."""
        return self._ask({"calls": calls})["seconds"]

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; `_answer` raises the reason
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.process.stderr.read().strip().splitlines()[-1:] or ["it ended without an error message"]
            self.close()
            raise OSError(f"the older falloff failed: {last[0]}")
        answered: dict[str, Any] = json.loads(line)
        return answered

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def __enter__(self) -> "Older":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
