"""A run of `falloff compare` at toy size."""

import torch

from falloff.lab.compare import compare_schemes, resolve


def small_run(path, schemes=("t5", "alibi"), train_length=16, steps=3, seeds=(0,)):
    """Train these schemes for a few steps: the folder."""
    text = path.with_suffix(".txt")
    text.write_text("a text of some words that come again and again. " * 400)
    threads = torch.get_num_threads()
    settings, folder = resolve(
        "quick", path, resume=False, text=(str(text),), dataset=None, schemes=schemes, train_length=train_length,
        steps=steps, seeds=seeds, device="cpu",
    )  # fmt: skip
    compare_schemes(settings, folder)
    torch.set_num_threads(threads)
    return folder
