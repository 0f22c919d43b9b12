"""The run behind `falloff compare`: the same small model once per scheme, trained short, tested long."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from falloff import environment
from falloff.lab.config import Settings
from falloff.lab.corpus import Text, read_text
from falloff.lab.evaluation import evaluate, work
from falloff.lab.extras import require
from falloff.lab.folder import RunFolder, check_same
from falloff.lab.memory import MB
from falloff.lab.model import Decoder, build_model, build_scheme, parameter_counts
from falloff.lab.presets import DEFAULT_PRESET
from falloff.lab.progress import Progress
from falloff.lab.report import report_page
from falloff.lab.training import cpu_threads, deterministic, train
from falloff.named import is_own, known_class, source_of
from falloff.schemes.settings import title_of

MEASURES = {
    "perplexity": "per byte, of all predicted bytes of held-out windows of this length; early bytes have little context",
    "perplexity_tail": (
        "per byte, of the last 64 bytes of each window (fewer if train_length is less); windows of all lengths end at the "
        "same positions, so these are the same bytes at every length, and only the context before them differs"
    ),
    "low, high, tail_low, tail_high": "95% bootstrap interval of each over windows, the same draws for every scheme",
    "losses, tail_losses": (
        "the mean loss of each window in nats per byte, from which perplexity and perplexity_tail are computed; in the same "
        "order for every scheme and length, so that differences can be paired"
    ),
    "parameters, bias_parameters": "of the whole model, and of the scheme alone",
    "seconds_per_step": "median over optimizer steps after the first tenth",
    "peak_memory_mb": "10^6 bytes held by tensors during one training step: weights, optimizer, batch, activations",
    "checkpoint_sha256, sha256": "of the bytes of the checkpoint, and of the rest of the line",
}
"""The meaning of the keys of results.jsonl."""

MODEL_NOTES = (
    "Pre-norm decoder over bytes with RMSNorm, GELU and an output head of its own (not tied to the embedding).",
    "One bias is shared by all layers, as in T5; scores are scaled by 1/sqrt(D), with disentangled by its own 1/sqrt(3 D).",
    "Initial weights and batches are the same for all schemes; a scheme's own parameters have another random stream.",
    "The scheme's own parameters learn at bias_learning_rate and without weight decay: in a run this short, a bias that "
    "starts near 0 would stay there at the model's rate.",
    "RoPE: base 10,000, no interpolation. None: no position at all.",
)
"""Facts that a reader needs to judge the numbers."""


@dataclass(frozen=True)
class Comparison:
    """A complete run.

    Args:
        folder: of the run.
        config: as in config.json.
        results: as in results.jsonl, in the order of `config["settings"]["schemes"]`.
    """

    folder: RunFolder
    config: dict[str, Any]
    results: list[dict[str, Any]]


def compare_schemes(settings: Settings, out: Path, *, resume: bool = False, progress: Progress | None = None) -> Comparison:
    """Train and test one model per scheme, and write the folder of the run with its report.

    Args:
        settings: what to compare, and how.
        out: the output folder; new or empty, unless `resume`.
        resume: whether to continue the run in that folder. Complete schemes are kept. Run are schemes that are missing or
            damaged, and those that `settings` adds. The numbers equal those of a run without interruption.
        progress: called with the progress, and with notes on damaged files and text that was left out.

    Raises:
        ValueError: for text, settings or a folder that cannot be used; if `resume` finds the folder of another run.
        ImportError: if an extra is missing.
        OSError: if a file cannot be written, naming it; `resume` continues from there.

    Each scheme is stored before the next begins: a kill loses only the current scheme.
    """
    for module in ("accelerate", "safetensors.torch", "plotly"):
        require(module)  # fail before the work, not after it
    progress = progress or Progress()
    folder = RunFolder(out)
    stored = folder.stored_config() if resume else None
    if stored is None:
        folder.check_free()
    else:
        before = tuple(stored["settings"]["schemes"])
        settings = settings.changed(schemes=before + tuple(name for name in settings.schemes if name not in before))
    notes = scheme_notes(settings)  # a wrong scheme of the user's own fails before the work too
    text = read_text(settings)
    for line in text.left_out:
        progress.note(line)
    with cpu_threads(settings.threads):
        config = describe(settings, text, notes)
        if stored is not None:
            check_same(stored, config)
            config = _commits_kept(config, stored)
        folder.write_config(config)
        done, lost = completed(folder, settings)
        for line in lost:
            progress.note(line)
        progress.start(len(settings.schemes), len(done), settings.steps + work(settings))
        for name in settings.schemes:
            if name not in done:
                run_scheme(settings, name, text, folder, progress)
    results, _ = completed(folder, settings)
    comparison = Comparison(folder, config, [line for name in settings.schemes for line in results[name]])
    write_report(comparison)
    return comparison


def resolve(preset: str | None, out: Path | None, *, resume: bool = False, **changes: Any) -> tuple[Settings, Path]:
    """The settings and the folder for the options of a command.

    Args:
        preset: by default "small"; with `resume`, that of the folder's run.
        out: by default runs/compare-<preset>.
        resume: whether to take settings that are not given from the run in that folder, if there is one.
        changes: the given settings; None for a setting that is not given.

    Raises:
        ValueError: as `Settings` does.

    >>> settings, out = resolve("quick", None, steps=5)
    >>> settings.steps, out.as_posix()
    (5, 'runs/compare-quick')
    """
    out = Path("runs") / f"compare-{preset or DEFAULT_PRESET}" if out is None else out
    stored = RunFolder(out).stored_config() if resume else None
    if stored is None:
        return Settings.of_preset(preset or DEFAULT_PRESET, **changes), out
    before = Settings.from_json(stored["settings"])
    if changes.get("text") is None and changes.get("dataset") is None:
        changes |= {"text": before.text, "dataset": before.dataset}
    if preset is None:
        return before.changed(**changes), out
    # A preset that is given again must agree with the run: `check_same` names the settings that differ.
    return Settings.of_preset(preset, **{"schemes": before.schemes, **_given(changes)}), out


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def scheme_notes(settings: Settings) -> list[str]:
    """The schemes with their settings, as a note for the report.

    Raises:
        ValueError: for a scheme that cannot be made, or whose code has not run: see `build_scheme`.
    """
    with torch.random.fork_rng(devices=[]):
        sizes = (settings.heads, settings.train_length, settings.width // settings.heads)
        made = {name: build_scheme(name, *sizes) for name in settings.schemes}
    titles = {name: title_of(scheme) for name, scheme in made.items() if scheme is not None}
    return ["; ".join(f"{name}: {title}" if is_own(name) else title for name, title in titles.items())] if titles else []


def code_of(schemes: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 of the file of each scheme of the user's own."""
    files = {name: source_of(known_class(name)) for name in schemes if is_own(name)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file is not None}


def describe(settings: Settings, text: Text, notes: list[str]) -> dict[str, Any]:
    """The content of config.json."""
    code = code_of(settings.schemes)
    return {
        "settings": settings.to_json(),
        "lengths": list(settings.lengths),
        "tail": settings.tail,
        "text": text.describe(),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "machine": environment.machine(settings.device),
        "model": [*MODEL_NOTES, *notes],
        "measures": MEASURES,
    } | ({"code": code} if code else {})


def _commits_kept(config: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """The config of a resumed run: it keeps its first commit, and lists the commits at which it was resumed."""
    earlier = [stored["git_commit"], *stored.get("resumed_at_commits", [])]
    later = [commit for commit in dict.fromkeys([*earlier, config["git_commit"]]) if commit != earlier[0]]
    return {**config, "git_commit": earlier[0]} | ({"resumed_at_commits": later} if later else {})


def run_scheme(settings: Settings, name: str, text: Text, folder: RunFolder, progress: Progress) -> None:
    """Train, test and store one scheme."""
    progress.start_scheme(name)
    with deterministic():
        trained = train(settings, name, text.train, progress)
        try:
            scores = evaluate(trained.predict, settings, text.held_out, progress)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    scheme = trained.model.scheme
    parameters, bias_parameters = parameter_counts(trained.model)
    lines = [
        {
            "scheme": name,
            "kind": "baseline" if scheme is None else scheme.kind,
            "seed": settings.seed,
            "train_length": settings.train_length,
            **asdict(score),
            "parameters": parameters,
            "bias_parameters": bias_parameters,
            "seconds_per_step": trained.seconds_per_step,
            "peak_memory_mb": trained.peak_bytes / MB,
        }
        for score in scores
    ]
    weights = {key: tensor.detach().cpu() for key, tensor in trained.model.state_dict().items()}
    folder.add_scheme(name, weights, lines)
    first, last = scores[0], scores[-1]
    progress.finish_scheme(
        name,
        f"perplexity of the last {settings.tail} bytes {first.perplexity_tail:.2f} at {first.length:,}, "
        f"{last.perplexity_tail:.2f} at {last.length:,}",
    )


def completed(folder: RunFolder, settings: Settings) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The lines of each complete scheme (all lines and the checkpoint), and what is wrong with the rest of the folder."""
    found, lost = folder.read_results()
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in found:
        lines.setdefault(line["scheme"], []).append(line)
    done = {}
    for name, of_scheme in lines.items():
        if [line["length"] for line in of_scheme] != list(settings.lengths):
            damage: str | None = f"{folder.results_path} lacks lines of it"
        else:
            damage = folder.checkpoint_damage(name, of_scheme[0]["checkpoint_sha256"])
        if damage is None:
            done[name] = of_scheme
        else:
            lost.append(f"{name} is run again: {damage}")
    return done, lost


def load_model(folder: RunFolder, settings: Settings, name: str) -> Decoder:
    """The trained model of a scheme, on the CPU.

    Raises:
        ValueError: if the folder has no checkpoint of it, or one that does not fit.
    """
    model = build_model(settings, name)
    try:
        model.load_state_dict(folder.load_checkpoint(name))
    except RuntimeError as error:
        raise ValueError(f"out: got {folder.checkpoint_path(name)}, expected the checkpoint of {name}: {error}") from None
    return model.eval()


@torch.no_grad()
def write_report(comparison: Comparison) -> None:
    """Write report.html from the content of the folder."""
    settings = Settings.from_json(comparison.config["settings"])
    models = {name: load_model(comparison.folder, settings, name) for name in settings.schemes}
    # A bias that depends on what the tokens say has no values to draw.
    schemes = {name: model.scheme for name, model in models.items() if model.scheme and not model.scheme.needs_content}
    comparison.folder.write_report(report_page(comparison.config, comparison.results, schemes))
