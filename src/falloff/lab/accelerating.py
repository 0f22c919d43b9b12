"""The model and its optimizer as Hugging Face Accelerate runs them: on one device, on many by DDP, or in parts by FSDP2."""

import os
from typing import Any

import torch
from torch.utils.data import DataLoader

from falloff.lab import sharing
from falloff.lab.config import Settings
from falloff.lab.extras import require
from falloff.lab.model import Block, Decoder


def accelerator_for(settings: Settings) -> Any:
    """Accelerate's `Accelerator` for these settings and for what `accelerate launch` asks for.

    Raises:
        ValueError: if it asks for what `compare` does not support.
    """
    _refuse("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")
    _refuse("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")
    if int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) != 1:
        raise ValueError("gradient_accumulation_steps: got more than 1, expected 1: batch_size is that of all processes")
    _refuse("ACCELERATE_USE_PARALLELISM_CONFIG", "another way to share a model")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ValueError("dynamo_backend: got it from accelerate launch, expected --compile, which --resume compares")
    in_parts = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if in_parts and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("fsdp_version: got 1, expected 2: accelerate launch --use_fsdp --fsdp_version 2")
    on_cpu = torch.device(settings.device).type == "cpu"
    accelerate = require("accelerate")
    accelerator = accelerate.Accelerator(
        cpu=on_cpu,
        mixed_precision={"fp32": "no", "bf16": "bf16"}[settings.precision],
        fsdp_plugin=_by_layers() if in_parts else None,
    )
    if in_parts and accelerator.num_processes > 1 and accelerator.distributed_type != accelerate.DistributedType.FSDP:
        raise ValueError(
            f"use_fsdp: got it with the device {settings.device!r}, expected GPUs: Accelerate has FSDP for them"
        )
    return accelerator


def _by_layers() -> Any:
    """FSDP with each layer as a unit; the rest is as `accelerate launch` asks."""
    return require("accelerate").FullyShardedDataParallelPlugin(
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[Block.__name__],
        # Accelerate would load all of the model's state in parts, but buffers are whole. Every process makes the model.
        cpu_ram_efficient_loading=False,
    )


def prepared(accelerator: Any, model: Decoder, optimizer: torch.optim.Optimizer, settings: Settings) -> tuple[Any, Any]:
    """The model to call, and the optimizer to step."""
    runs, steps = accelerator.prepare(model, optimizer)
    return (torch.compile(runs) if settings.compile else runs), steps


def own_batches(accelerator: Any, batches: DataLoader[Any]) -> Any:
    """The batches of this process, on its device: they are dealt out in turn to those that do not share windows."""
    return require("accelerate.data_loader").prepare_data_loader(
        batches, accelerator.device, sharing.data_ranks(), sharing.data_rank(), put_on_device=True
    )


def _refuse(variable: str, name: str) -> None:
    if os.environ.get(variable, "false").lower() == "true":
        raise ValueError(
            f"accelerate launch: got {name}, expected one device, several by DDP, or FSDP with --fsdp_version 2"
        )
