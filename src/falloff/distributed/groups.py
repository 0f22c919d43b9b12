"""The ranks that share a sequence: from a process group, one dimension of a mesh, or the default group."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from falloff.ops.checks import refuse


@dataclass(frozen=True)
class Ranks:
    """A process group, and which of its ranks this one is."""

    group: dist.ProcessGroup
    rank: int
    size: int

    @property
    def device(self) -> torch.device:
        """Where the few numbers lie that ranks tell one another: on the CPU, unless its backend serves GPUs alone."""
        kinds = [pair.partition(":")[0] for pair in dist.get_backend_config(self.group).split(",")]
        if "cpu" in kinds:
            return torch.device("cpu")
        return torch.device(kinds[0], torch.accelerator.current_device_index())


def ranks_of(group: object) -> Ranks:
    """The ranks of a process group, of a mesh of one dimension, or of the default group for None.

    Raises:
        ValueError: without a process group; for a mesh of more dimensions; for a group without this rank.
    """
    if not dist.is_available() or not dist.is_initialized():
        refuse("group", "no process group", "one: call torch.distributed.init_process_group first")
    if group is None:
        group = dist.group.WORLD
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            names = group.mesh_dim_names or ("name",)
            refuse("group", f"a mesh of {group.ndim} dimensions", f"one dimension of it, such as mesh[{names[-1]!r}]")
        group = group.get_group()
    if not isinstance(group, dist.ProcessGroup):
        refuse("group", type(group).__name__, "None, a process group, or one dimension of a DeviceMesh")
    rank = dist.get_rank(group)
    if rank < 0:
        refuse("group", "a process group without this rank", "one that this rank belongs to")
    return Ranks(group, rank, dist.get_world_size(group))
