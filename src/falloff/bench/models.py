"""The suite `hf`: whole models of Transformers with random weights, fused and with each attention of Transformers' own.

All contestants are first verified against eager attention, then take turns. Memory is measured in separate processes, at a
length where a dense bias alone takes gigabytes.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from falloff.bench.memory import ALLOCATION, unmeasurable
from falloff.bench.partial import PartialResult
from falloff.bench.probe import growth_of
from falloff.bench.progress import Progress
from falloff.bench.timing import take_turns
from falloff.bench.turns import Run, first_line
from falloff.bench.verify import WrongResultError
from falloff.environment import git_commit, machine, versions
from falloff.hf.attention import NAME

OURS, NO_SCORES = "falloff", "no attention"
_ALL = ("eager", "sdpa", "flex_attention")
_WITHIN = 1e-4  # of the largest entry: the error budget of falloff


@dataclass(frozen=True)
class ModelCase:
    """A model and what it does. `work`: encode, train or prefill `length` tokens, or decode one after `length` tokens."""

    name: str
    label: str
    work: str
    shape: str
    batch: int
    length: int
    others: tuple[str, ...] = _ALL


CASES = [
    *(ModelCase(f"t5-small-encoder-{n}", f"T5-small encoder, N={n}", "encode", "t5-small", 1, n) for n in (512, 2048, 4096)),
    ModelCase("t5-base-encoder-2048", "T5-base encoder, N=2048", "encode", "t5-base", 1, 2048),
    ModelCase("t5-small-training-512", "T5-small training step, B=8, N=512", "train", "t5-small", 8, 512, ("eager", "sdpa")),
    ModelCase("bloom-prefill-2048", "BLOOM-560m, 6 layers, prefill 2048", "prefill", "bloom", 1, 2048, ("eager",)),
    ModelCase("bloom-decode-2048", "BLOOM-560m, 6 layers, decode at 2048", "decode", "bloom", 1, 2048, ("eager",)),
    ModelCase("mpt-prefill-2048", "MPT-1b, 4 layers, prefill 2048", "prefill", "mpt", 1, 2048, ("eager",)),
    ModelCase("mpt-decode-2048", "MPT-1b, 4 layers, decode at 2048", "decode", "mpt", 1, 2048, ("eager",)),
    *(
        ModelCase(f"deberta-base-encoder-{n}", f"DeBERTa-v3-base encoder, N={n}", "encode", "deberta", 1, n, ("eager",))
        for n in (512, 1024, 2048)
    ),
    ModelCase(
        "deberta-base-training-512", "DeBERTa-v3-base training step, B=8, N=512", "train", "deberta", 8, 512, ("eager",)
    ),
]
MEMORY = ModelCase("t5-small-memory-8192", "T5-small encoder, N=8192", "encode", "t5-small", 1, 8192, ("sdpa", NO_SCORES))
_ANSWER = 114  # target tokens per 512 input tokens, as in T5's training


def model_of(shape: str, training: bool) -> Any:
    """A model of this shape with random weights."""
    import transformers

    torch.manual_seed(0)
    if shape.startswith("t5"):
        sizes = {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
        if shape == "t5-base":
            sizes = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        config = transformers.T5Config(**sizes, decoder_start_token_id=0)
        return transformers.T5ForConditionalGeneration(config) if training else transformers.T5EncoderModel(config)
    if shape == "bloom":
        return transformers.BloomModel(transformers.BloomConfig(vocab_size=1000, hidden_size=1024, n_layer=6, n_head=16))
    if shape == "deberta":
        config = transformers.DebertaV2Config(  # that of microsoft/deberta-v3-base, with fewer words
            vocab_size=1000,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            position_buckets=256,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
        )
        return transformers.DebertaV2ForTokenClassification(config) if training else transformers.DebertaV2Model(config)
    return transformers.MptModel(
        transformers.MptConfig(vocab_size=1000, d_model=2048, n_layers=4, n_heads=16, max_seq_len=4096)
    )


def prepared(model: Any, contestant: str) -> Any:
    """A copy of a model with the attention of a contestant."""
    from falloff import hf

    model = copy.deepcopy(model)
    if contestant in (OURS, NO_SCORES):
        hf.fuse(model)
        if contestant == NO_SCORES:
            _without_attention()
    elif model.config._attn_implementation != contestant:
        model.set_attn_implementation(contestant)
        if model.config._attn_implementation != contestant:
            raise ValueError(f"{type(model).__name__} has no {contestant}")
    return model


def _without_attention() -> None:
    """Replace attention by its values, in this process: what remains is the cost of a model without attention."""
    from transformers import AttentionInterface

    def values(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return value.transpose(1, 2), None

    AttentionInterface.register(NAME, values)


def run_of(model: Any, case: ModelCase) -> Run:
    """One turn."""
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> Tensor:
        return torch.randint(2, 1000, (case.batch, count), generator=generator)

    ids = tokens(case.length)
    if case.work == "train":
        labels = _labels(model, case, generator)

        def train() -> list[Tensor]:
            model.zero_grad()
            loss = model.train()(input_ids=ids, labels=labels).loss
            loss.backward()
            return [loss.detach()]

        return train
    if case.work == "decode":
        with torch.no_grad():
            cache = model.eval()(ids, use_cache=True).past_key_values
        token = tokens(1)

        def decode() -> list[Tensor]:  # the cache grows by a token per turn, for each contestant alike
            with torch.no_grad():
                return [model(token, past_key_values=cache, use_cache=True).last_hidden_state]

        return decode

    def encode() -> list[Tensor]:
        with torch.no_grad():
            return [model.eval()(ids).last_hidden_state]

    return encode


def measure(case: ModelCase, turns: int | None, report: Callable[[float], None]) -> dict[str, Any]:
    """Verify and time a case.

    Raises:
        WrongResultError: if falloff's result differs from eager attention's.
    """
    training = case.work == "train"
    model = model_of(case.shape, training)
    runs: dict[str, Run] = {}
    skipped: dict[str, str] = {}
    errors: dict[str, float] = {}
    expected: Tensor | None = None
    for name in (*case.others, OURS):
        try:
            own = prepared(model, name)
            runs[name] = run_of(own, case)
            found = _logits(own, case) if training else runs[name]()[0]
            runs[name]()
        except Exception as error:  # a compiler may raise anything
            if name == OURS:
                raise
            runs.pop(name, None)
            skipped[name] = first_line(error)
            continue
        expected = found if expected is None else expected
        errors[name] = ((found - expected).abs().max() / expected.abs().max()).item()
    if not (len(errors) > 1 and errors[OURS] <= _WITHIN):
        raise WrongResultError(
            f"{case.name}: falloff is off by {errors[OURS]:.1e} of the largest, beside {len(errors) - 1} others"
        )
    timed = take_turns(runs, turns, report)
    return {
        "errors": errors,
        "skipped": skipped,
        "turns": timed.turns,
        "milliseconds": timed.milliseconds,
        "ratio": {name: timed.median(name) / timed.median(OURS) for name in runs if name != OURS},
    }


def _labels(model: Any, case: ModelCase, generator: torch.Generator) -> Tensor:
    """The tokens of an answer; of a classifier, the class of each token."""
    if model.config.is_encoder_decoder:
        return torch.randint(2, 1000, (case.batch, _ANSWER), generator=generator)
    return torch.randint(0, model.config.num_labels, (case.batch, case.length), generator=generator)


def _logits(model: Any, case: ModelCase) -> Tensor:
    """The logits in evaluation mode: dropout would draw differently for each contestant."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(2, 1000, (case.batch, case.length), generator=generator)
    labels = _labels(model, case, generator)
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=ids, labels=labels).logits
    return logits


def measure_memory(case: ModelCase) -> dict[str, Any]:
    """The peak memory of each contestant beyond the model and its input, measured in separate processes."""
    refusal = unmeasurable()
    if refusal is not None:
        return {"memory": {}, "skipped": {OURS: refusal}}
    grown: dict[str, int] = {}
    for name in (OURS, *case.others):
        command = [sys.executable, "-m", "falloff.bench.models", name, case.shape, str(case.length)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALLOCATION})
        if done.returncode != 0:
            raise OSError(f"measuring the memory of {name!r} failed: {done.stderr.strip().splitlines()[-1:]}")
        grown[name] = json.loads(done.stdout.splitlines()[-1])
    return {"memory": grown, "ratio": {name: grown[name] / grown[OURS] for name in case.others}, "skipped": {}}


def run_suite(
    part: str | None, turns: int | None, out: Path | None, progress: Progress, *, resume: bool = False
) -> dict[str, Any]:
    """Measure all cases whose name contains `part`. Rewrites the file `out` after each; `resume` continues it.

    Raises:
        ValueError: if no case has such a name, or `resume` finds a file of another measurement.
        WrongResultError: see `measure`.
    """
    from falloff.hf.fusing import check_version

    check_version()
    chosen = [case for case in (*CASES, MEMORY) if part is None or part in case.name]
    if not chosen:
        names = ", ".join(case.name for case in (*CASES, MEMORY))
        raise ValueError(f"--cases: got {part!r}, which is part of no name, expected part of one of {names}")
    header: dict[str, Any] = {
        "suite": "hf",
        "machine": machine("cpu"),
        "versions": versions("transformers"),
        "commit": git_commit(),
        "threads": torch.get_num_threads(),
        "turns": turns,
    }
    partial = PartialResult(header, [_about(case) for case in chosen], out, resume=resume)
    left = [case for case in chosen if case.name not in partial.done]
    progress.begin("timing", len(left))
    for case in left:
        progress.doing(case.name)
        found = measure_memory(case) if NO_SCORES in case.others else measure(case, turns, progress.share)
        partial.add([{**_about(case), **found}])
    return partial.result


def _about(case: ModelCase) -> dict[str, Any]:
    return {"name": case.name, "label": case.label, "work": case.work, "batch": case.batch, "length": case.length}


def tables(result: dict[str, Any]) -> list[Any]:
    """The result as a table and lines of text."""
    from rich.table import Table
    from rich.text import Text

    parts = [result["machine"]["cpu"], f"{result['threads']} threads"]
    parts += [f"{name} {result['versions'][name]}" for name in ("falloff", "torch", "transformers")]
    table = Table(
        title="Models of Transformers, float32: ms; x: the time of the other over that of falloff", title_justify="left"
    )
    table.add_column("")
    names = ["eager", "sdpa", "flex_attention"]
    for heading in (OURS, *names):
        table.add_column(heading.removesuffix("_attention"), justify="right")
    timed = [case for case in result["cases"] if "milliseconds" in case]
    for case in timed:
        ratios = [f"{case['ratio'][name]:.2f}x" if name in case["ratio"] else "-" for name in names]
        table.add_row(case["label"], f"{case['milliseconds'][OURS]['median']:.1f}", *ratios)
    lines: list[Any] = [Text(", ".join(parts), style="dim")]
    lines += [table] if timed else []
    for case in result["cases"]:
        if case.get("memory"):
            said = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in case["memory"].items())
            lines.append(Text(f"{case['label']}, memory beyond the model: {said}"))
        lines += [Text(f"{case['name']}: {name}: {why}", style="dim") for name, why in case["skipped"].items()]
    return lines


if __name__ == "__main__":
    probed = prepared(model_of(sys.argv[2], training=False), sys.argv[1])
    short, long = (ModelCase("", "", "encode", sys.argv[2], 1, length) for length in (256, int(sys.argv[3])))
    print(growth_of(run_of(probed, short), run_of(probed, long))[0])
