"""The biases that a safetensors file, a Transformers folder or a run of `falloff compare` holds. No code of them is run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from falloff.explore.runs import run_of
from falloff.lab.compare import load_model
from falloff.lab.store.trials import Trial
from falloff.schemes import SCHEMES, ALiBi, Scheme, T5Bias
from falloff.views.stored import open_tensors, stored_scheme

_MOST_CONFIG = 2**22  # bytes of a config.json
_MOST_FILES = 64
_MOST_FOUND = 48
_MOST_SETTING = 2**20
_SWAPPED = "falloff_bias"  # what the modules of a swapped model are called
_TABLES = ("relative_attention_bias.weight", "rel_attn_embed.weight")
_BY_FORMULA = {"bloom": "n_head", "mpt": "n_heads", "falcon": "num_attention_heads"}
_WITH_CONTENT = {
    "deberta": "disentangled",
    "deberta-v2": "disentangled",
    "inkling": "profile-mixture",
    "inkling2": "profile-mixture",
    "wav2vec2-conformer": "transformer-xl",
}


@dataclass(frozen=True)
class StoredBias:
    """A bias of a checkpoint: where it stood, and the scheme with its values."""

    place: str
    scheme: Scheme
    trained_length: int | None = None

    @property
    def label(self) -> str:
        """Where it stood, and the name of the scheme if that does not tell it."""
        return self.place if self.place == self.scheme.name else f"{self.place}: {self.scheme.name}"


def stored_biases(path: Path) -> list[StoredBias]:
    """Every bias of a checkpoint.

    Raises:
        ValueError: saying what was found instead and what is expected.
        OSError: for a file that cannot be read.
    """
    if not path.exists():
        raise ValueError(f"checkpoint: got {str(path)!r}, expected a file or folder that exists")
    config = _config((path.parent if path.is_file() else path) / "config.json")
    if path.is_dir() and (path / "trials").is_dir() and "settings" in config:
        return _of_run(path)
    kind = str(config.get("model_type", ""))
    if kind in _BY_FORMULA:
        return [_by_formula(kind, config)]
    if kind in _WITH_CONTENT:
        raise ValueError(
            f"checkpoint: got a model of {kind}, whose bias ({_WITH_CONTENT[kind]}) depends on what the tokens say, "
            "expected one that has a bias without a text"
        )
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))[:_MOST_FILES]
    if not files:
        others = sorted(one.name for one in path.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        said = f" ({others[0]} may run code when it is read)" if others else ""
        raise ValueError(f"checkpoint: got {str(path)!r} without a .safetensors file, expected one with such a file{said}")
    return _of_files(files, config, path)


class _FalconBias(ALiBi):
    """ALiBi as Falcon has it: divided by sqrt(D), together with the scores. Falcon's rounding to bfloat16 is left out."""

    name = "alibi"
    formula = "-m_h * |n| / sqrt(D), m_h = 2^(-8h/H) if H is a power of two"

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads)
        self.head_dim = head_dim

    def _bias(self, constants: Tensor) -> Tensor:
        return super()._bias(constants) / math.sqrt(self.head_dim)


def _by_formula(kind: str, config: dict[str, Any]) -> StoredBias:
    """ALiBi, of a model whose config says that it has it. Where a config says nothing, the default of Transformers holds."""
    within = config.get("attn_config")
    has_alibi = {
        "bloom": True,
        "mpt": within.get("alibi", True) if isinstance(within, dict) else True,
        "falcon": config.get("alibi", False),
    }[kind]
    if has_alibi is not True:
        other = "has rotary positions" if kind == "falcon" else "has learned positions"
        raise ValueError(
            f"checkpoint: got a model of {kind} without ALiBi (alibi in config.json), which {other} and no bias, "
            "expected one with ALiBi"
        )
    heads = _whole(config, _BY_FORMULA[kind], 1024)
    place = f"{kind}, by its formula: nothing is learned"
    if kind != "falcon":
        return StoredBias(place, ALiBi(heads))
    head_dim = max(_whole(config, "hidden_size", 2**20) // heads, 1)
    return StoredBias(f"{place}; divided by sqrt({head_dim})", _FalconBias(heads, head_dim))


def _whole(config: dict[str, Any], name: str, most: int) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"checkpoint: got {repr(value)[:40]} for {name} in config.json, expected a number from 1 to {most}")
    return value


def _of_run(path: Path) -> list[StoredBias]:
    folder, config, results = run_of(path)
    trials = dict.fromkeys(Trial(line["task"], line["scheme"], line["seed"]) for line in results)
    several = len({(trial.task, trial.seed) for trial in trials}) > 1
    found = []
    for trial in trials:
        scheme = load_model(folder, config, trial).scheme
        if scheme is not None and not scheme.needs_content:
            place = str(trial) if several else trial.scheme
            found.append(StoredBias(place, scheme, config["settings"]["train_length"]))
    if not found:
        names = dict.fromkeys(trial.scheme for trial in trials)
        raise ValueError(f"checkpoint: got a run of {', '.join(names)}, expected one of a scheme with a bias of its own")
    return found


def _of_files(files: list[Path], config: dict[str, Any], path: Path) -> list[StoredBias]:
    described = config.get("falloff_config")
    if isinstance(described, dict):
        cls = next((one for one in SCHEMES.values() if one.__name__ == described.get("scheme")), None)
        if cls is None or not isinstance(described.get("settings"), dict):
            raise ValueError("checkpoint: got a swapped model with a scheme of its own, expected one of falloff's")
        for name, value in described["settings"].items():
            most = cls.largest_settings.get(name, _MOST_SETTING)
            if isinstance(value, int | float) and not -most <= value <= most:
                raise ValueError(
                    f"checkpoint: got {name}={repr(value)[:40]} in falloff_config, expected at most {most} for {cls.name}"
                )
        return _each(files, path, [(cls, described["settings"])])
    distance = config.get("relative_attention_max_distance", config.get("max_bucket_distance", 128))
    settings = {"max_distance": distance} if isinstance(distance, int) and 1 < distance < 2**20 else {}
    learned: list[tuple[type[Scheme], dict[str, Any]]] = [
        (cls, {}) for cls in SCHEMES.values() if not cls.needs_content and cls is not T5Bias
    ]
    return _each(files, path, [(T5Bias, settings), *learned])


def _each(files: list[Path], path: Path, wanted: list[tuple[type[Scheme], dict[str, Any]]]) -> list[StoredBias]:
    found: list[StoredBias] = []
    refused = None
    for file in files:
        with open_tensors(file) as opened:
            names = list(opened.keys())
        is_t5 = any(name.endswith(_TABLES) for name in names)
        for cls, settings in wanted[:1] if is_t5 else wanted:
            tables = [name.rpartition(".")[0] for name in names if cls is T5Bias and name.endswith(_TABLES)]
            own = sorted({_before(name, _SWAPPED) for name in names if f"{_SWAPPED}." in f"{name}."})
            places: list[str | None] = [*(tables or own)[:_MOST_FOUND]] or [None]
            for place in places:
                if len(found) == _MOST_FOUND:
                    return found
                try:
                    scheme, stood = stored_scheme(file, cls, settings, prefix=place)
                except ValueError as error:
                    refused = refused or str(error)
                    continue
                if any(True for _ in scheme.parameters()):
                    found.append(StoredBias(stood or cls.name, scheme))
    if not found:
        raise ValueError(
            f"checkpoint: got {path.name!r} without a bias that falloff knows, expected T5's table, FIRE, KERPLE, TISA, or "
            f"another scheme of falloff ({refused})"
        )
    return found


def _before(name: str, holder: str) -> str:
    """The name of the module that a tensor belongs to, up to its holder."""
    return name[: name.index(holder) + len(holder)]


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    size = path.stat().st_size
    if size > _MOST_CONFIG:
        raise ValueError(f"checkpoint: got a config.json of {size:,} bytes, expected at most {_MOST_CONFIG:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"checkpoint: got a config.json that is no JSON ({str(error)[:80]})") from None
    return found if isinstance(found, dict) else {}
