"""The output folder of a run: which files are written when, and how a run is resumed after a kill."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from falloff.files import PART, write_file
from falloff.lab.config import Settings
from falloff.lab.extras import require

_NOT_DECIDING = frozenset({"preset", "schemes", "text", "dataset", "text_limit"})
"""Settings that may change with --resume: the schemes, and where the text was read, since its hash is compared."""

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
    "losses",
    "tail_losses",
    "parameters",
    "bias_parameters",
    "seconds_per_step",
    "peak_memory_mb",
    "checkpoint_sha256",
    "sha256",
)
"""The keys of each line of results.jsonl."""


class RunFolder:
    """`config.json`, `results.jsonl`, `checkpoints/<scheme>.safetensors` and `report.html` of one run.

    Every file is written under a temporary name and then renamed, so that a reader, or a resumed run, finds all of it or
    nothing. config.json and each line of results.jsonl contain the SHA-256 of their other content, and a line also that of
    its scheme's checkpoint, so that later changes are detected.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.results_path = path / "results.jsonl"
        self.report_path = path / "report.html"

    def checkpoint_path(self, scheme: str) -> Path:
        """The path of a scheme's trained model: within the folder, whatever the scheme's name is."""
        name = re.sub(r"[^\w.-]", "_", scheme)[-100:]
        if name != scheme:  # after the replacement, two names may be equal
            name += f"-{hashlib.sha256(scheme.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        return self.path / "checkpoints" / f"{name}.safetensors"

    def stored_config(self, device: str | None = None) -> dict[str, Any] | None:
        """The config.json of an earlier run, or None.

        Args:
            device: instead of the run's own, which this machine may lack.

        Raises:
            ValueError: if the file is not the config.json of a run.
        """
        if not self.config_path.exists():
            return None
        try:
            config = _checked(self.config_path.read_bytes())
            if device is not None:
                config["settings"] = config["settings"] | {"device": device}
            Settings.from_json(config["settings"])
            _deciding(config)
            return {name: config[name] for name in config if name != "sha256"}
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"out: got {self.config_path}, expected the config.json of a run: {reason}") from None

    def check_free(self) -> None:
        """Check that a new run overwrites nothing in the folder.

        Raises:
            ValueError: if it is not empty, or is no folder.
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
        return not self.path.exists() or all(entry.name.endswith(PART) for entry in self.path.iterdir())

    def results(self) -> list[dict[str, Any]]:
        """The undamaged lines of results.jsonl."""
        return self.read_results()[0]

    def read_results(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The undamaged lines of results.jsonl, and what is wrong with each of the others.

        Raises:
            OSError: if the file exists and cannot be read.
        """
        lines: list[dict[str, Any]] = []
        damaged: list[str] = []
        if self.results_path.exists():
            for number, written in enumerate(self.results_path.read_bytes().split(b"\n"), start=1):
                if not written:
                    continue
                try:
                    line = _checked(written)
                    lines.append({key: line[key] for key in RESULT_KEYS})
                except (KeyError, ValueError) as error:
                    reason = f"it has no {error}" if isinstance(error, KeyError) else error
                    damaged.append(f"line {number} of {self.results_path} is left out: {reason}")
        return lines, damaged

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        self._write(self.config_path, json.dumps(_with_checksum(config), indent=2, allow_nan=False) + "\n")

    def add_scheme(self, scheme: str, weights: dict[str, Tensor], lines: Iterable[dict[str, Any]]) -> None:
        """Store a complete scheme: its checkpoint first, then all of its lines at once."""
        target = self.checkpoint_path(scheme)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = require("safetensors.torch").save({name: tensor.contiguous() for name, tensor in weights.items()})
        write_file(target, content)
        checksum = hashlib.sha256(content).hexdigest()
        # Lines of the same scheme exist only if it is run again, because something of it was lost or damaged.
        everything = [line for line in self.results() if line["scheme"] != scheme]
        everything += [_with_checksum({**line, "checkpoint_sha256": checksum}) for line in lines]
        self._write(self.results_path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in everything))

    def checkpoint_damage(self, scheme: str, checksum: str) -> str | None:
        """What is wrong with the checkpoint of a scheme, which should have this SHA-256, or None."""
        path = self.checkpoint_path(scheme)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"{path}: {error.strerror}"
        return None if found == checksum else f"{path} has changed since it was written"

    def load_checkpoint(self, scheme: str) -> dict[str, Tensor]:
        """The weights of a scheme's trained model.

        Raises:
            ValueError: if the checkpoint is missing or damaged.
        """
        path = self.checkpoint_path(scheme)
        try:
            return dict(require("safetensors.torch").load(path.read_bytes()))
        except Exception as error:  # safetensors has an error class of its own, in Rust
            raise ValueError(f"out: got {path}, expected the checkpoint of {scheme}: {error}") from None

    def write_report(self, page: str) -> None:
        """Write report.html."""
        self._write(self.report_path, page)

    def _write(self, path: Path, content: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # Bytes of a file name that are not UTF-8 cannot be encoded: they are written as escapes.
        write_file(path, content.encode("utf-8", "backslashreplace"))


def _with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its SHA-256."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    written = json.dumps(rest, sort_keys=True, allow_nan=False)
    return {**rest, "sha256": hashlib.sha256(written.encode()).hexdigest()}


def _checked(written: bytes) -> dict[str, Any]:
    """The inverse of `_with_checksum`, from JSON.

    Raises:
        KeyError: if it has no checksum.
        ValueError: if it is no JSON object, or has changed since it was written.
    """

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"{number} is no number of JSON")

    try:
        content = json.loads(written, parse_constant=refuse)
        if not isinstance(content, dict):
            raise ValueError("it is no object of JSON")
        if content["sha256"] != _with_checksum(content)["sha256"]:
            raise ValueError("it has changed since it was written (its checksum does not fit)")
    except RecursionError:
        raise ValueError("it has brackets nested too deeply") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no JSON ({error})") from None
    return content


def check_same(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that nothing that determines the results has changed since a run began.

    Raises:
        ValueError: naming what differs, with both values.
    """
    before, after = _deciding(stored), _deciding(now)
    codes = [config.get("code", {}) for config in (stored, now)]
    for name in codes[0].keys() & codes[1].keys():  # schemes may be added
        before[name], after[name] = (f"code {code[name][:8]}" for code in codes)
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
    """Everything that determines the results: most settings, the text itself, the libraries' versions, the machine."""
    deciding = {name: value for name, value in config["settings"].items() if name not in _NOT_DECIDING}
    deciding["text"] = config["text"]["sha256"]
    versions, machine = config["versions"], config["machine"]
    deciding |= {name: versions.get(name) for name in ("falloff", "torch", "numpy", "accelerate")}
    deciding |= {name: machine.get(name) for name in ("cpu", "threads", "gpu")}
    return deciding
