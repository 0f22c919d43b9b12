"""The presets of `falloff compare`, from which `Settings.of_preset` starts."""

from typing import Any

DEFAULT_PRESET = "small"

# Sizes and rates were chosen on the source of Python's standard library. One thread on the CPU, for two reasons. With models
# this small, two threads are 1.4 times as fast on an idle machine, but a hundred times slower as soon as anything else runs,
# since OpenMP's threads wait for each other by spinning. And with one thread, the bits do not depend on the number of cores.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "train_length": 64,
        "steps": 200,
        "batch_size": 16,
        "layers": 2,
        "width": 64,
        "heads": 4,
        "learning_rate": 4e-3,
        "bias_learning_rate": 4e-2,
        "windows": 64,
        "threads": 1,
    },
    "small": {
        "train_length": 128,
        "steps": 350,
        "batch_size": 8,
        "layers": 3,
        "width": 64,
        "heads": 4,
        "learning_rate": 4e-3,
        "bias_learning_rate": 4e-2,
        "windows": 48,
        "threads": 1,
    },
    "gpu": {
        "train_length": 512,
        "steps": 5000,
        "batch_size": 64,
        "layers": 8,
        "width": 512,
        "heads": 8,
        "learning_rate": 1e-3,
        "bias_learning_rate": 1e-2,
        "windows": 256,
    },
}
