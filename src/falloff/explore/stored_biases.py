"""The biases that a safetensors file, a Transformers folder or a run of `falloff compare` holds. No code of them is run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falloff.explore.runs import run_of
from falloff.lab.compare import load_model
from falloff.schemes import SCHEMES, ALiBi, Scheme, T5Bias
from falloff.views.stored import stored_scheme

_MOST_CONFIG = 2**22  # bytes of a config.json
_MOST_FILES = 64
_MOST_FOUND = 48
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
    if path.is_file():
        return _of_files([path], {}, path)
    config = _config(path / "config.json")
    if (path / "checkpoints").is_dir() and "settings" in config:
        return _of_run(path)
    kind = str(config.get("model_type", ""))
    if kind in _BY_FORMULA:
        heads = config.get(_BY_FORMULA[kind])
        if not isinstance(heads, int) or not 1 <= heads <= 1024:
            raise ValueError(f"checkpoint: got {heads!r} for {_BY_FORMULA[kind]} in config.json, expected a number of heads")
        return [StoredBias(f"{kind}, by its formula: nothing is learned", ALiBi(heads))]
    if kind in _WITH_CONTENT:
        raise ValueError(
            f"checkpoint: got a model of {kind}, whose bias ({_WITH_CONTENT[kind]}) depends on what the tokens say, "
            "expected one that has a bias without a text"
        )
    files = sorted(path.glob("*.safetensors"))[:_MOST_FILES]
    if not files:
        others = sorted(one.name for one in path.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        said = f" ({others[0]} may run code when it is read)" if others else ""
        raise ValueError(f"checkpoint: got {str(path)!r} without a .safetensors file, expected one with such a file{said}")
    return _of_files(files, config, path)


def _of_run(path: Path) -> list[StoredBias]:
    folder, settings, results = run_of(path)
    names = dict.fromkeys(line["scheme"] for line in results)
    models = {name: load_model(folder, settings, name) for name in names if folder.checkpoint_path(name).exists()}
    found = [
        StoredBias(name, model.scheme, settings.train_length)
        for name, model in models.items()
        if model.scheme is not None and not model.scheme.needs_content
    ]
    if not found:
        raise ValueError(f"checkpoint: got a run of {', '.join(names)}, expected one of a scheme with a bias of its own")
    return found


def _of_files(files: list[Path], config: dict[str, Any], path: Path) -> list[StoredBias]:
    described = config.get("falloff_config")
    if isinstance(described, dict):
        cls = next((one for one in SCHEMES.values() if one.__name__ == described.get("scheme")), None)
        if cls is None or not isinstance(described.get("settings"), dict):
            raise ValueError("checkpoint: got a swapped model with a scheme of its own, expected one of falloff's")
        return _each(files, path, [(cls, described["settings"])], ("falloff_bias",))
    distance = config.get("relative_attention_max_distance", config.get("max_bucket_distance", 128))
    settings = {"max_distance": distance} if isinstance(distance, int) and 1 < distance < 2**20 else {}
    learned: list[tuple[type[Scheme], dict[str, Any]]] = [
        (cls, {}) for cls in SCHEMES.values() if not cls.needs_content and cls is not T5Bias
    ]
    return _each(files, path, [(T5Bias, settings), *learned], None)


def _each(
    files: list[Path], path: Path, wanted: list[tuple[type[Scheme], dict[str, Any]]], last: tuple[str, ...] | None
) -> list[StoredBias]:
    found: list[StoredBias] = []
    refused = None
    for file in files:
        names = _names(file)
        is_t5 = any(name.endswith(_TABLES) for name in names)
        for cls, settings in wanted[:1] if is_t5 else wanted:
            tables = [name.rpartition(".")[0] for name in names if cls is T5Bias and name.endswith(_TABLES)]
            own = sorted({_before(name, one) for name in names for one in last or () if f"{one}." in f"{name}."})
            places: list[str | None] = [*(tables or own)] or [None]
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


def _names(file: Path) -> list[str]:
    """The names of the tensors of a file.

    Raises:
        ValueError: if it is no safetensors file, such as a pickle or one with a header that is too large.
    """
    from safetensors import safe_open

    with file.open("rb") as opened:  # an OSError names the file
        begin = opened.read(8)
    header = int.from_bytes(begin, "little")
    if len(begin) < 8 or header > min(file.stat().st_size, 100_000_000):
        what = (
            "a pickle, which may run code when it is read"
            if begin[:1] in (b"\x80", b"(") or begin[:2] == b"PK"
            else (f"a header of {header:,} bytes")
        )
        raise ValueError(f"checkpoint: got {file.name!r} with {what}, expected a safetensors file")
    try:
        with safe_open(file, framework="pt") as found:
            return list(found.keys())
    except Exception as error:  # safetensors has an error class of its own
        raise ValueError(f"checkpoint: got {file.name!r}, expected a safetensors file: {str(error)[:200]}") from None


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
