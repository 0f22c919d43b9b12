"""The output of --json. Each command's help documents its keys, which do not change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from falloff.schemes import Scheme
from falloff.schemes.settings import settings_of
from falloff.views.always import always
from falloff.views.buckets import Bucket
from falloff.views.grids import BiasGrid
from falloff.views.no_bias import NoBias
from falloff.views.properties import Properties


def print_json(content: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(content, allow_nan=False))


def bucket_keys(bucket: Bucket) -> dict[str, Any]:
    """A bucket and its ranges of offsets."""
    return {"bucket": bucket.bucket, "ranges": [dataclasses.asdict(part) for part in bucket.ranges]}


def shown_keys(bias: Scheme, grid: BiasGrid, tokens: list[str] | None, image: Path | None) -> dict[str, Any]:
    """The content of `falloff show --json`."""
    return {
        "scheme": bias.name,
        "settings": settings_of(bias),
        "num_heads": grid.num_heads,
        "head": grid.head,
        "length": grid.length,
        "tokens": tokens,
        "kind": grid.kind,
        "cells": grid.cells,
        "labels": None if grid.label_format is None else grid.labels(),
        "legend": [bucket_keys(bucket) for bucket in grid.legend],
        "image": None if image is None else str(image),
    }


def explained_keys(bias: Scheme, seed: int | None, properties: Properties | None) -> dict[str, Any]:
    """The content of `falloff explain --json`."""
    parameters = [
        {"name": name, "shape": list(parameter.shape), "count": parameter.numel()}
        for name, parameter in bias.named_parameters()
    ]
    computed: dict[str, Any] | None = None
    if properties is not None:
        computed = {"toeplitz": properties.toeplitz, "monotone": properties.monotone, **dataclasses.asdict(properties)}
        del computed["num_heads"]
        computed["always"] = always(bias, properties.beyond.trained_length)
        computed["mass"] = [{"window": window, **spread} for window, spread in computed["mass"].items()]
    return {
        "scheme": bias.name,
        "kind": bias.kind,
        "formula": bias.formula,
        "paper": bias.paper,
        "reading": bias.reading,
        "settings": settings_of(bias),
        "num_heads": bias.num_heads,
        "seed": seed,
        "parameters": parameters,
        "num_parameters": sum(entry["count"] for entry in parameters),
        "properties": computed,
    }


def no_bias_keys(found: NoBias) -> dict[str, Any]:
    """The same of what is no bias."""
    return {
        "scheme": found.name,
        "kind": found.kind,
        "formula": found.formula,
        "paper": found.paper,
        "reading": found.reading,
        "settings": {},
        "num_heads": None,
        "seed": None,
        "parameters": [],
        "num_parameters": 0,
        "properties": None,
    }
