"""What is counted before a run, against what a run holds and does."""

from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from falloff.lab.config import KNOWN_SCHEMES
from falloff.lab.counting import counts, forward_flops, step_memory
from falloff.lab.memory import peak_held
from falloff.lab.model import build_model, parameter_counts
from falloff.lab.training import build_optimizer
from falloff.schemes import SCHEMES


@pytest.mark.parametrize("name", KNOWN_SCHEMES)
def test_parameters_are_those_of_the_model(toy, name):
    settings = toy(width=32)
    found = counts(settings, name, 300)
    assert (found.parameters, found.bias_parameters) == parameter_counts(build_model(settings, name, 0, 300))


def peak(settings, name, vocabulary):
    """The peak of the second training step, as `falloff.lab.training` does one."""
    model = build_model(settings, name, 0, vocabulary)
    optimizer = build_optimizer(model, settings)
    tokens = torch.randint(vocabulary, (settings.batch_size, settings.train_length))

    def step():
        for part in tokens.chunk(settings.accumulate):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = model(part)
            loss = functional.cross_entropy(logits.float().view(-1, vocabulary), part.flatten())
            del logits
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def step_with_logits():
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = model(tokens)
        logits = logits.float()
        functional.cross_entropy(logits.view(-1, vocabulary), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    once = step if settings.accumulate > 1 else step_with_logits
    once()
    return peak_held(partial(once), torch.device("cpu"), model, optimizer, tokens)


@pytest.mark.parametrize(
    "sizes",
    [
        {"layers": 2, "width": 64, "heads": 4, "batch_size": 16, "train_length": 64},
        {"layers": 4, "width": 128, "heads": 4, "batch_size": 8, "train_length": 128},
        {"layers": 6, "width": 256, "heads": 4, "batch_size": 1, "train_length": 32},  # weights are most of it
    ],
    ids=["activations", "larger", "weights"],
)
@pytest.mark.parametrize("vocabulary", [256, 4000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_a_step_is_within_three_percent(toy, sizes, vocabulary, precision):
    settings = toy(**sizes, precision=precision)
    planned = step_memory(settings, counts(settings, "t5", vocabulary), vocabulary)
    assert planned["peak"] == pytest.approx(peak(settings, "t5", vocabulary), rel=0.03)


@pytest.mark.parametrize("name", [name for name in KNOWN_SCHEMES if name != "t5"])
def test_memory_of_other_schemes(toy, name):
    settings = toy(layers=4, width=128, heads=4, batch_size=8, train_length=128)
    planned = step_memory(settings, counts(settings, name, 256), 256)["peak"]
    content = name in SCHEMES and SCHEMES[name].needs_content
    assert planned == pytest.approx(peak(settings, name, 256), rel=0.15 if content else 0.03)


def test_parts_of_a_batch_need_less_memory(toy):
    sizes = {"layers": 4, "width": 128, "heads": 4, "batch_size": 8, "train_length": 128}
    settings = toy(**sizes, accumulate=4)
    planned = step_memory(settings, counts(settings, "t5", 4000), 4000)["peak"]
    assert planned == pytest.approx(peak(settings, "t5", 4000), rel=0.15)
    assert planned < step_memory(toy(**sizes), counts(settings, "t5", 4000), 4000)["peak"] / 2


def test_operations_are_those_that_torch_counts(toy):
    """Without attention, which is no operator that torch can count: its part is 2 L W (T + 1) for each token."""
    settings = toy(layers=3, width=32, heads=2)
    model = build_model(settings, "none", 0, 100)
    found = counts(settings, "none", 100)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 24, dtype=torch.int64))
    attention = 24 * 2 * settings.layers * settings.width * 25
    assert forward_flops(settings, found.matrices, 24) == counter.get_total_flops() + attention
