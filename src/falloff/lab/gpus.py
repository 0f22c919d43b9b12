"""What GPUs can do at most, for a plan: from their data sheets, as torchtitan's `get_peak_flops` has them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Args:
        title: as its maker writes it.
        peak: floating-point operations a second of dense matrices in bf16.
    """

    title: str
    peak: float


GPUS = {
    "a100": GPU("NVIDIA A100", 312e12),
    "h100": GPU("NVIDIA H100 SXM", 989e12),
    "h100-pcie": GPU("NVIDIA H100 PCIe", 756e12),
    "h200": GPU("NVIDIA H200", 989e12),
    "mi300x": GPU("AMD MI300X", 1300e12),
}
"""By the name on the command line."""

USUAL_UTILISATION = 0.4
"""The share of the peak that a plan assumes unless told otherwise."""
