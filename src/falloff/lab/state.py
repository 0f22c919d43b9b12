"""The state of a training under way: all tensors that the rest of it depends on, by name."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_MODEL, _OPTIMIZER, _SECONDS, _PEAK = "model.", "optimizer.", "seconds", "peak"


@dataclass
class Measured:
    """What training has measured so far: the seconds of each step, and the peak memory of the last one, in bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, measured: Measured) -> dict[str, Tensor]:
    """The state, to be stored. Batches and learning rates follow from the step; training draws no random number."""
    tensors = {_MODEL + name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{_OPTIMIZER}{name}.{key}"] = torch.as_tensor(value).detach()
    tensors[_SECONDS] = torch.tensor(measured.seconds, dtype=torch.float64)
    tensors[_PEAK] = torch.tensor([measured.peak])
    return tensors


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> Measured:
    """Continue from a state.

    Raises:
        KeyError, RuntimeError: if it is of another model.
    """
    weights = {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        before = f"{_OPTIMIZER}{name}."
        kept = {key.removeprefix(before): tensor for key, tensor in tensors.items() if key.startswith(before)}
        # A step is a scalar; everything else has the parameter's shape and stays where the parameter is.
        optimizer.state[parameter] = {key: tensor.clone().to(parameter.device) for key, tensor in kept.items()}
    return Measured(tensors[_SECONDS].tolist(), int(tensors[_PEAK]))
