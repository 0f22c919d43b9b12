"""The folder of one trial: what is written when, and how damage is found."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from falloff.files import make_folder, write_file
from falloff.lab.extras import require
from falloff.lab.store.checksums import checked, with_checksum
from falloff.lab.store.locks import held

_STEP, _DECIDES, _DIGEST = "step", "decides", "sha256"


class TrialFolder:
    """`result.json` and `model.safetensors` of a complete trial; `state.safetensors` of one under way.

    The model is written before the result, which has its SHA-256: a trial is complete if the result is there and both are
    undamaged. The state has the step that it was saved after, and a SHA-256 of its own.

    Args:
        path: of the folder, which need not exist.
        decides: the SHA-256 of all that determines the results: a result or a state of other settings is not taken.
    """

    def __init__(self, path: Path, decides: str) -> None:
        self.path = path
        self.decides = decides
        self.result_path = path / "result.json"
        self.model_path = path / "model.safetensors"
        self.state_path = path / "state.safetensors"
        self.progress_path = path / "progress.json"
        self.lock_path = path / "lock"

    @contextmanager
    def locked(self, waits: Callable[[], None]) -> Iterator[None]:
        """Hold the folder for one process: the system lets go of it when the process ends, however it ends.

        A worker that is taken for dead may be at work all the same: a second one waits for it, and should look then whether
        the trial is complete.

        Args:
            waits: called once if another process holds it.
        """
        with held(self.lock_path, waits):
            yield
            self.tidy()

    def tidy(self) -> None:
        """Remove what a complete trial needs no more; a process that was killed just then has left it behind.

        Even the lock, which another process may wait for: whoever gets it, or a new one, finds the trial complete.
        """
        for path in (self.state_path, self.progress_path, self.lock_path):
            path.unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The result of a complete trial; None if there is none yet.

        Raises:
            ValueError: if it is damaged, or the model is, naming the file.
        """
        try:
            written = self.result_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            result = checked(written)
            if result["decides"] != self.decides:
                raise ValueError("it is of other settings")
            expected = result["model_sha256"]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{self.result_path}: {f'it has no {error}' if isinstance(error, KeyError) else error}"
            ) from None
        try:
            with self.model_path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ValueError(f"{self.model_path}: {error.strerror}") from None
        if found != expected:
            raise ValueError(f"{self.model_path} has changed since it was written")
        return result

    def write_result(self, weights: dict[str, Tensor], result: dict[str, Any]) -> None:
        """Store a complete trial: its model first, then its result; then remove its state."""
        make_folder(self.path)
        content = require("safetensors.torch").save({name: tensor.contiguous() for name, tensor in weights.items()})
        write_file(self.model_path, content)
        result = {**result, "decides": self.decides, "model_sha256": hashlib.sha256(content).hexdigest()}
        written = json.dumps(with_checksum(result), allow_nan=False) + "\n"
        write_file(self.result_path, written.encode("utf-8", "backslashreplace"))
        self.state_path.unlink(missing_ok=True)

    def model(self) -> dict[str, Tensor]:
        """The weights of the trained model.

        Raises:
            ValueError: if the file is missing or damaged.
        """
        try:
            return dict(require("safetensors.torch").load(self.model_path.read_bytes()))
        except Exception as error:  # safetensors has an error class of its own, in Rust
            raise ValueError(f"out: got {self.model_path}, expected the model of a trial: {error}") from None

    def write_state(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Store the state of training after so many steps, in place of an earlier one."""
        make_folder(self.path)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        facts = {_STEP: str(step), _DECIDES: self.decides, _DIGEST: _digest(step, tensors)}
        write_file(self.state_path, require("safetensors.torch").save(tensors, metadata=facts))

    def state(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step and the tensors of a training under way; None if there is none.

        Raises:
            ValueError: if it is damaged or of other settings, naming the file.
        """
        if not self.state_path.exists():
            return None
        try:
            with require("safetensors").safe_open(self.state_path, "pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary
            step = int(facts[_STEP])
            if facts[_DECIDES] != self.decides:
                raise ValueError("it is of other settings")
            if facts[_DIGEST] != _digest(step, tensors):
                raise ValueError("it has changed since it was written")
        except Exception as error:  # as above
            raise ValueError(f"{self.state_path}: {error}") from None
        return step, tensors


def _digest(step: int, tensors: dict[str, Tensor]) -> str:
    """A SHA-256 of the step and of the names, dtypes, shapes and bytes of tensors."""
    total = hashlib.sha256(str(step).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
