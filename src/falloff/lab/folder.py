"""The output folder of a run: what is written, when, and what it takes to go on after a kill."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from falloff.lab.config import Settings
from falloff.lab.extras import require

_PART = ".part"  # of a file that is not complete; a kill may leave one behind
_NOT_DECIDING = frozenset({"preset", "schemes", "text", "dataset", "text_limit"})
"""Settings that may change on --resume: which schemes are wanted, and where the text (known by its hash) was read."""

RESULT_KEYS = (
    "scheme",
    "kind",
    "seed",
    "train_length",
    "length",
    "perplexity",
    "low",
    "high",
    "perplexity_tail",
    "tail_low",
    "tail_high",
    "parameters",
    "bias_parameters",
    "seconds_per_step",
    "peak_memory_mb",
)
"""The keys of each line of results.jsonl."""


class RunFolder:
    """`config.json`, `results.jsonl`, `checkpoints/<scheme>.safetensors` and `report.html` of one run.

    Every file is written beside its place and then renamed, so that a reader, or a run that goes on after a kill, finds
    either all of it or nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.results_path = path / "results.jsonl"
        self.report_path = path / "report.html"

    def checkpoint_path(self, scheme: str) -> Path:
        """Where the trained model of a scheme lies."""
        return self.path / "checkpoints" / f"{scheme}.safetensors"

    def stored_config(self) -> dict[str, Any] | None:
        """The config.json of an earlier run, or None where there is none.

        Raises:
            ValueError: where it cannot be read as one.
        """
        if not self.config_path.exists():
            return None
        try:
            config = json.loads(self.config_path.read_text(encoding="utf-8"))
            Settings.from_json(config["settings"])
            return {"git_commit": None, **config}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"out: got {self.config_path}, expected the config.json of a run: {error}") from None

    def check_free(self) -> None:
        """Refuse a folder that a new run would write over.

        Raises:
            ValueError: where it holds anything, or is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: got {self.path}, which is not a folder, expected a new or empty folder")
        if self._is_empty():
            return
        if self.config_path.exists():
            raise ValueError(
                f"out: got {self.path}, which holds a run, expected a new or empty folder: --resume goes on with that "
                "run, another --out keeps it"
            )
        raise ValueError(f"out: got {self.path}, which holds other files, expected a new or empty folder")

    def _is_empty(self) -> bool:
        return not self.path.exists() or all(entry.name.endswith(_PART) for entry in self.path.iterdir())

    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl.

        Raises:
            ValueError: where a line is not JSON.
        """
        if not self.results_path.exists():
            return []
        try:
            lines = [json.loads(line) for line in self.results_path.read_text(encoding="utf-8").splitlines() if line]
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"out: got {self.results_path}, expected lines of JSON: {error}") from None
        for line in lines:
            if not isinstance(line, dict) or not line.keys() >= set(RESULT_KEYS):
                raise ValueError(f"out: got {self.results_path}, expected lines with the keys {', '.join(RESULT_KEYS)}")
        return lines

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        self._write(self.config_path, json.dumps(config, indent=2, allow_nan=False) + "\n")

    def add_scheme(self, scheme: str, weights: dict[str, Tensor], lines: Iterable[dict[str, Any]]) -> None:
        """Store a complete scheme: its checkpoint first, then all of its lines at once."""
        target = self.checkpoint_path(scheme)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + _PART)
        require("safetensors.torch").save_file({name: tensor.contiguous() for name, tensor in weights.items()}, part)
        part.replace(target)
        # Lines of the same scheme can only be there if its checkpoint was taken away since.
        everything = [*(line for line in self.results() if line["scheme"] != scheme), *lines]
        self._write(self.results_path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in everything))

    def load_checkpoint(self, scheme: str) -> dict[str, Tensor]:
        """The weights of a scheme's trained model.

        Raises:
            ValueError: where the checkpoint is missing or damaged.
        """
        path = self.checkpoint_path(scheme)
        try:
            return dict(require("safetensors.torch").load_file(path))
        except Exception as error:  # safetensors has an error class of its own, in Rust
            raise ValueError(f"out: got {path}, expected the checkpoint of {scheme}: {error}") from None

    def write_report(self, page: str) -> None:
        """Write report.html."""
        self._write(self.report_path, page)

    def _write(self, path: Path, content: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + _PART)
        with part.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def check_same(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run where something that decides results has changed since.

    Raises:
        ValueError: naming what differs, with both values.
    """
    before, after = _deciding(stored), _deciding(now)
    differing = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name) != after.get(name)
    ]
    if differing:
        raise ValueError(
            f"resume: got another run than the folder's ({'; '.join(differing)}), expected the same; or another --out"
        )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """What decides results: most settings, the text itself, the libraries' versions, and the machine."""
    deciding = {name: value for name, value in config["settings"].items() if name not in _NOT_DECIDING}
    deciding["text"] = config.get("text", {}).get("sha256")
    versions, machine = config.get("versions", {}), config.get("machine", {})
    deciding |= {name: versions.get(name) for name in ("falloff", "torch", "numpy", "accelerate")}
    deciding |= {name: machine.get(name) for name in ("cpu", "threads", "gpu")}
    return deciding
