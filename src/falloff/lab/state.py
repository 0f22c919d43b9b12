"""The state of a training under way: all tensors that the rest of it depends on, by name.

Tensors are stored whole, also where each process has only a part of them (FSDP): so a training can continue on another
number of processes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from falloff.lab import processes

_MODEL, _OPTIMIZER, _SECONDS, _PEAK = "model.", "optimizer.", "seconds", "peak"


@dataclass
class Measured:
    """What training has measured so far: the seconds of each step, and the peak memory of the last one, in bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights on the main process, whole and on the CPU; nothing on the others. All processes call it together."""
    return _whole(model.state_dict())


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, measured: Measured) -> dict[str, Tensor]:
    """The state, to be stored: on the main process; nothing on the others. All processes call it together.

    Batches and learning rates follow from the step; training draws no random number.
    """
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{_OPTIMIZER}{name}.{key}"] = torch.as_tensor(value)
    tensors[_SECONDS] = torch.tensor(measured.seconds, dtype=torch.float64)
    tensors[_PEAK] = torch.tensor([measured.peak])
    return _whole(tensors)


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> Measured:
    """Continue from a state. All processes call it together.

    Args:
        model, optimizer: as at the start of training.
        tensors: of the state, on the main process; the others' are not read.

    Raises:
        KeyError, RuntimeError, ValueError: if it is of another model.
    """
    tensors = _of_main(tensors)
    own = model.state_dict()
    weights = {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
    model.load_state_dict({name: _placed(tensor, own[name]) for name, tensor in weights.items()})
    for name, parameter in model.named_parameters():
        before = f"{_OPTIMIZER}{name}."
        kept = {key.removeprefix(before): tensor for key, tensor in tensors.items() if key.startswith(before)}
        # A step is a scalar; everything else has the parameter's shape and stays where the parameter is.
        optimizer.state[parameter] = {
            key: _placed(tensor, parameter) if tensor.shape == parameter.shape else tensor.clone().to(parameter.device)
            for key, tensor in kept.items()
        }
    return Measured(tensors[_SECONDS].tolist(), int(tensors[_PEAK]))


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the main process, whole and on the CPU; nothing on the others."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if processes.is_main():
            found[name] = whole.detach().cpu()
    return found


def _of_main(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The main process's tensors, on the CPU of every process."""
    if processes.count() == 1:
        return tensors
    facts = processes.exchanged([(name, str(t.dtype).removeprefix("torch."), t.shape) for name, t in tensors.items()])[0]
    found = {}
    for name, dtype, shape in facts:
        found[name] = tensors[name].contiguous() if processes.is_main() else torch.empty(shape, dtype=getattr(torch, dtype))
        distributed.broadcast(found[name], 0)
    return found


def _placed(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor placed as another one is: on its device, and in parts if that is."""
    if isinstance(like, DTensor):
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole.clone().to(like.device)
