"""The settings that determine the results of a comparison, as one frozen record."""

import sys
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from falloff.installed import NO_SCHEMES
from falloff.lab.presets import PRESETS
from falloff.lab.protocols import DEFAULT_PROTOCOL, PROTOCOLS, least_tokens
from falloff.named import OWN_NAMES, is_own
from falloff.schemes import SCHEMES

LEAST_WINDOWS = 8
"""The smallest number of held-out windows for which a bootstrap is meaningful."""
SAVE_SECONDS = 60.0
"""A training under way is stored this often: what a kill loses at most."""
LONGEST_TEST = 2**20
"""The most tokens of a test window."""

BASELINES = NO_SCHEMES
"""The models without a scheme: with rotary positions, and without any positions."""

KNOWN_SCHEMES = (*SCHEMES, *BASELINES)
"""What `falloff compare` can compare."""
DEFAULT_SCHEMES = tuple(name for name in KNOWN_SCHEMES if name in BASELINES or not SCHEMES[name].needs_content)
"""What it compares by default: every scheme whose bias does not depend on content, and the baselines."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines the results, except the text itself and the versions of the libraries.

    Args:
        preset: the name of the preset that the settings started from, for information.
        schemes: the schemes to compare, in this order, each once: names of `KNOWN_SCHEMES`, `module:Class` or
            `file.py:Class`. A name of the latter two is not looked up here, because settings may come from a file: its code
            runs only where the command calls `falloff.named.scheme_class` with a name that the user wrote.
        train_length: T, the tokens that a training window predicts, 8 .. 16384.
        steps: optimizer steps for each trial, 2 .. 1,000,000. Memory is measured in the last step, time in the others.
        batch_size: windows in a batch.
        accumulate: parts of a batch that follow one another, so that less memory is needed; `batch_size` is a multiple.
        layers, width, heads: of the model.
        learning_rate: at the end of the warm-up, for the model; `bias_learning_rate` for the scheme's own parameters.
        weight_decay: of AdamW, on matrices only.
        warmup: steps until the learning rate is reached, as a share of `steps`.
        clip_norm: the largest norm of the gradient.
        windows: held-out windows, or problems of a task, tested at each length; fewer if the text is too short.
        tasks: what is learned and tested, each once: names of `falloff.lab.tasks.TASKS`.
        seeds: of the weights and the batches, each once, 0 .. 2^32 - 1. Every task and scheme is trained once for each.
        length_multiples: the test lengths in trained lengths, rising.
        protocol: how windows are cut from held-out text and which tokens count: one of `falloff.lab.protocols.PROTOCOLS`.
        tail_length: k, the tokens at the end of a window that last-k and sliding score; T if that is less.
        resamples: bootstrap samples for each interval.
        text: files or folders; if empty, the source of Python's standard library.
        dataset: a Hugging Face dataset instead of `text`.
        text_limit: the most bytes of text to read; None reads all files, but 64 MB of a dataset.
        tokenizer: the path of a tokenizer.json of the library `tokenizers`; None takes bytes as tokens.
        compile: whether the model is compiled by `torch.compile`.
        device: "cpu", "cuda", "cuda:1"; "auto" is the first GPU, or the CPU if there is none.
        precision: "fp32", "bf16"; "auto" is bf16 on a GPU that supports it, else fp32.
        threads: of torch on the CPU, 1 .. 1024; None keeps torch's number. See `PRESETS`.

    Raises:
        ValueError: for a setting out of range, an unknown scheme, or a device that does not exist.

    >>> Settings.of_preset("quick", train_length=32).train_length
    32
    """

    preset: str
    schemes: tuple[str, ...]
    train_length: int
    steps: int
    batch_size: int
    layers: int
    width: int
    heads: int
    learning_rate: float
    bias_learning_rate: float
    windows: int
    accumulate: int = 1
    weight_decay: float = 0.1
    warmup: float = 0.1
    clip_norm: float = 1.0
    tasks: tuple[str, ...] = ("text",)
    seeds: tuple[int, ...] = (0,)
    length_multiples: tuple[int, ...] = (1, 2, 4, 8)
    protocol: str = DEFAULT_PROTOCOL
    tail_length: int = 64
    resamples: int = 1000
    text: tuple[str, ...] = ()
    dataset: str | None = None
    text_limit: int | None = None
    tokenizer: str | None = None
    compile: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str):
            raise ValueError(f"preset: got {self.preset!r}, expected a name")
        check_schemes(self.schemes)
        from falloff.lab.tasks import TASKS  # tasks are made from settings: their modules import this one

        _check_choices("tasks", self.tasks, tuple(TASKS))
        _check_whole_numbers("seeds", self.seeds, 0, 2**32 - 1)
        for name, least, most in (
            ("train_length", 8, 16_384),
            ("steps", 2, 1_000_000),
            ("batch_size", 1, 65_536),
            ("accumulate", 1, self.batch_size),
            ("layers", 1, 256),
            ("heads", 1, 256),
            ("windows", LEAST_WINDOWS, 65_536),
            ("resamples", 100, 100_000),
            ("tail_length", 1, 16_384),
        ):
            _check_int(name, getattr(self, name), least, most)
        if self.text_limit is not None:
            _check_int("text_limit", self.text_limit, 1, 2**50)
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: got {self.accumulate}, expected a divisor of batch_size = {self.batch_size}")
        _check_whole_numbers("length_multiples", self.length_multiples, 1, LONGEST_TEST // self.train_length)
        if list(self.length_multiples) != sorted(self.length_multiples):
            raise ValueError(f"length_multiples: got {self.length_multiples!r}, expected them in rising order")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol: got {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        if self.threads is not None:
            _check_int("threads", self.threads, 1, 1024)
        _check_int("width", self.width, 2 * self.heads, 65_536)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width: got {self.width}, expected a multiple of 2 * heads = {2 * self.heads}: RoPE rotates pairs"
            )
        for name in ("learning_rate", "bias_learning_rate", "clip_norm"):
            _check_number(name, getattr(self, name), above=0.0, most=sys.float_info.max)
        _check_number("weight_decay", self.weight_decay, above=-1e-300, most=1.0)
        _check_number("warmup", self.warmup, above=-1e-300, most=1.0)
        if not isinstance(self.text, tuple) or not all(isinstance(path, str) and path.strip() for path in self.text):
            raise ValueError(f"text: got {self.text!r}, expected the paths of files or folders")
        if self.text and self.dataset is not None:
            raise ValueError(f"dataset: got {self.dataset!r} together with text, expected one of the two")
        if self.dataset is not None and (not isinstance(self.dataset, str) or not self.dataset.strip()):
            raise ValueError(f"dataset: got {self.dataset!r}, expected the name of a dataset, or a path to one")
        if self.tokenizer is not None and (not isinstance(self.tokenizer, str) or not self.tokenizer.strip()):
            raise ValueError(f"tokenizer: got {self.tokenizer!r}, expected the path of a tokenizer.json")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile: got {self.compile!r}, expected True or False")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision: got {self.precision!r}, expected 'auto', 'fp32' or 'bf16'")
        device = check_device(self.device)
        object.__setattr__(self, "device", str(device))
        if self.precision == "auto":
            has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
            object.__setattr__(self, "precision", "bf16" if has_bf16 else "fp32")

    @classmethod
    def of_preset(cls, preset: str, **changes: Any) -> "Settings":
        """The settings of a preset with changes; a change to None is ignored.

        Raises:
            ValueError: for an unknown preset, or as the class does.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset: got {preset!r}, expected one of {', '.join(PRESETS)}")
        chosen = {name: value for name, value in changes.items() if value is not None}
        settings: dict[str, Any] = {"preset": preset, "schemes": DEFAULT_SCHEMES, **PRESETS[preset].settings}
        if chosen.get("text"):
            settings.pop("dataset", None)
        return cls(**{**settings, **chosen})

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Settings":
        """The inverse of `to_json`.

        Raises:
            ValueError: for unknown or missing settings.
        """
        known = {field.name for field in fields(cls)}
        if set(stored) != known:
            raise ValueError(f"settings: got other names than expected: {', '.join(sorted(set(stored) ^ known))}")
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**settings)

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can represent."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def changed(self, **changes: Any) -> "Settings":
        """The same settings with changes; a change to None is ignored."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @property
    def lengths(self) -> tuple[int, ...]:
        """The test lengths."""
        return tuple(multiple * self.train_length for multiple in self.length_multiples)

    @property
    def tail(self) -> int:
        """The tokens of the tail, the end of each window: k, or T if that is less."""
        return min(self.tail_length, self.train_length)

    @property
    def least_tokens(self) -> int:
        """The smallest size of the train part and of the held-out part."""
        return max(least_tokens(self.protocol, self.lengths, self.tail, LEAST_WINDOWS), self.train_length + 1)


def check_schemes(schemes: object) -> None:
    """Raise ValueError for unknown names, for a name given twice, and for no name at all."""
    known = f"{', '.join(KNOWN_SCHEMES)}, or {OWN_NAMES}"
    if not isinstance(schemes, tuple) or not schemes:
        raise ValueError(f"schemes: got {schemes!r}, expected names among {known}")
    for name in schemes:
        if not isinstance(name, str) or not (name in KNOWN_SCHEMES or is_own(name)):
            raise ValueError(f"schemes: got {name!r}, expected names among {known}")
        if schemes.count(name) > 1:
            raise ValueError(f"schemes: got {name!r} twice, expected each name once")


def _check_choices(argument: str, names: object, known: tuple[str, ...]) -> None:
    """Raise ValueError unless these are names among the known ones, at least one and each once."""
    if not isinstance(names, tuple) or not names:
        raise ValueError(f"{argument}: got {names!r}, expected names among {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: got {name!r}, expected names among {', '.join(known)}")
        if names.count(name) > 1:
            raise ValueError(f"{argument}: got {name!r} twice, expected each name once")


def _check_whole_numbers(argument: str, values: object, least: int, most: int) -> None:
    """Raise ValueError unless these are whole numbers from `least` to `most`, at least one and each once."""
    if not isinstance(values, tuple) or not values:
        raise ValueError(f"{argument}: got {values!r}, expected whole numbers from {least:,} to {most:,}")
    seen: set[int] = set()
    for value in values:
        _check_int(argument, value, least, most)
        if value in seen:
            raise ValueError(f"{argument}: got {value!r} twice, expected each once")
        seen.add(value)


def check_device(device: object) -> torch.device:
    """The device with this name.

    Raises:
        ValueError: if torch knows no such device, or this machine has none.
    """
    expected = "'auto', 'cpu' or, where there is one, 'cuda' or 'cuda:N'"
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device) if isinstance(device, str) else None
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda") or (found.type == "cpu" and found.index is not None):
        raise ValueError(f"device: got {device!r}, expected {expected}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device: got {device!r}, expected {expected}; this machine has {count} CUDA devices")
    return found


def _check_int(argument: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{argument}: got {value!r}, expected a whole number from {least:,} to {most:,}")


def _check_number(argument: str, value: object, above: float, most: float) -> None:
    # `not` around the comparison, so that NaN is refused
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
        raise ValueError(f"{argument}: got {value!r}, expected a number above {max(above, 0.0):g} and at most {most:g}")
