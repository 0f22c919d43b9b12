"""Presets by size: what a machine does in minutes, or a GPU in hours."""

from falloff.lab.presets.base import Preset

# Sizes and rates were chosen on the source of Python's standard library. One thread on the CPU, for two reasons. With models
# this small, two threads are 1.4 times as fast on an idle machine, but a hundred times slower as soon as anything else runs,
# since OpenMP's threads wait for each other by spinning. And with one thread, the bits do not depend on the number of cores.
QUICK = Preset(
    "quick",
    "2 minutes on 2 cores.",
    {
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
)
SMALL = Preset(
    "small",
    "6 minutes on 2 cores.",
    {
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
)
GPU = Preset(
    "gpu",
    "A model of 8 layers, for a GPU.",
    {
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
    needs_gpu=True,
)
