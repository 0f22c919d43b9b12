"""The tables of speed and memory, from benchmarks/results/: what `falloff bench --json` has measured, and where."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"
RIVALS = {
    "sdpa, no bias": "SDPA, no bias",
    "sdpa, dense bias": "SDPA, dense bias",
    "sdpa, dense learned": "SDPA, dense learned",
    "sdpa": "SDPA",
    "flex": "FlexAttention",
    "flex_attention": "FlexAttention",
    "eager": "eager",
    "falloff, no bias": "falloff, no bias",
    "falloff, band": "falloff, band",
    "no attention": "no attention",
}
_TITLES = {
    "cpu": "Inference and training, beside PyTorch",
    "short": "Short sequences in batches",
    "long": "Long sequences",
    "calls": "Small calls, and decoding",
    "content": "Biases that depend on content",
    "memory": "Memory of a training step",
    "hf": "Models of Transformers, fused",
    "gpu": "On a GPU",
}
_MEASURE = {"short": "best"}  # of calls so short that other work disturbs their medians
_TRAINING = " train"
_NO_GPU = "**No GPU has run falloff's kernels**: there are no figures for one, and no speed is claimed.\n"


def results() -> dict[str, dict[str, Any]]:
    """Every result of a suite, by the name of its file."""
    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
    return {name: result for name, result in found.items() if isinstance(result, dict) and result.get("suite") in _TITLES}


def speed_page() -> str:
    """A section for each suite, a table for each machine."""
    found = results()
    parts = [] if any(result["suite"] == "gpu" for result in found.values()) else [_NO_GPU]
    for suite, title in _TITLES.items():
        of_suite = {name: result for name, result in found.items() if result["suite"] == suite}
        if not of_suite:
            continue
        said = (
            "" if suite not in _MEASURE else " Other work on the machine disturbed the medians: these are the fastest turns."
        )
        parts.append(f"## {title}\n\nPrinted by `falloff bench --suite {suite}`.{said}\n")
        for name, result in of_suite.items():
            rows = (
                memory_rows(result["cases"])
                if suite == "memory"
                else speed_rows(result["cases"], _MEASURE.get(suite, "median"))
            )
            table = "\n".join(rows)
            parts.append(f"**{_machine(result)}** ([`{name}`]({_address(name)}))\n")
            parts.append(f'<div class="figures" markdown>\n\n{table}\n\n</div>\n')
    return "\n".join(parts)


def _address(name: str) -> str:
    """Results are copied beside the page (see `making.__main__`)."""
    return f"../generated/results/{name}"


def _machine(result: dict[str, Any]) -> str:
    device = (result.get("machine") or {}).get("cpu") or result.get("device", "")
    versions = result.get("versions", {})
    threads = result.get("threads")
    parts = [device if isinstance(device, str) else str(device.get("name", device))]
    parts += [f"{threads} threads"] if threads else []
    parts += [result["isa"]] if result.get("isa") else []
    parts += [f"peak {result['peak_gflops']:.0f} GF/s in float32"] if result.get("peak_gflops") else []
    return ", ".join([*parts, f"torch {versions.get('torch', '?')}"])


def speed_rows(cases: list[dict[str, Any]], measure: str = "median") -> Iterator[str]:
    """A Markdown table: milliseconds of falloff, its share of the peak, and how many times as long the others take."""
    timed = [case for case in cases if "milliseconds" in case]
    present = {name for case in timed for name in case["ratio"]}
    rivals = [name for name in RIVALS if name in present]
    with_share = any(case.get("share_of_peak") is not None for case in timed)
    yield from _head(["work", "ms", *(["of peak"] if with_share else []), *(RIVALS[name] for name in rivals)])
    for case in timed:
        yield row(speed_cells(case, rivals, with_share, measure))
    kept = [case for case in cases if "memory" in case and "milliseconds" not in case]
    if kept:
        yield ""
        yield from _head(["memory beyond the model", *(RIVALS.get(name, name) for name in kept[0]["memory"])])
        for case in kept:
            yield row([case["label"], *(f"{size / 1e6:.0f} MB" for size in case["memory"].values())])


def label_of(case: dict[str, Any]) -> str:
    """The label of a case, with what it does and its dtype."""
    label = case["label"].removesuffix(_TRAINING)
    if "training" in case:
        label += ", forward + backward" if case["training"] else ", forward"
    return label if case.get("dtype", "float32") == "float32" else f"{label}, {case['dtype']}"


def speed_cells(case: dict[str, Any], rivals: list[str], with_share: bool, measure: str = "median") -> list[str]:
    """The cells of a case: label, milliseconds, share of the peak, ratios; by median or best turns."""
    times = {name: found[measure] for name, found in case["milliseconds"].items()}
    own = times["falloff"]
    share = []
    if with_share:
        share = [f"{case['share_of_peak'] * case['milliseconds']['falloff']['median'] / own:.0%}"]
    ratios = [f"{times[name] / own:.1f}x" if name in times else "-" for name in rivals]
    return [label_of(case), f"{own:.{0 if own >= 100 else 1 if own >= 1 else 3}f}", *share, *ratios]


def memory_rows(cases: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table: memory beyond inputs, output and gradients, in MB and over query, key and value."""
    names = ["falloff", *(name for name in RIVALS if any(name in case["memory"] for case in cases))]
    yield from _head(["work", *(RIVALS.get(name, name) for name in names)])
    for case in cases:
        yield row([case["label"], *(_memory(case["memory"].get(name)) for name in names)])


def _memory(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['extra'] / 1e6:.1f} MB ({found['extra_over_inputs']:.2f} q, k, v)"


def _head(cells: list[str]) -> Iterator[str]:
    yield row(cells)
    yield row(["---", *["---:"] * (len(cells) - 1)])


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
