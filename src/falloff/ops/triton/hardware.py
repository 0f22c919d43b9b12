"""Which GPUs the kernels serve, asked of torch once for each, and without importing Triton."""

from functools import cache

import torch

OLDEST = (8, 0)  # Ampere
MATRIX_CORES = ("gfx90a", "gfx942", "gfx950")  # AMD's MI200, MI300 and MI350


def refusal(index: int) -> str | None:
    """Why the kernels do not serve GPU `index`, or None."""
    return _refusal(index)


# What torch.compiler.assume_constant_result does: properties cannot be traced. It would import all of torch's compiler.
refusal._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _refusal(index: int) -> str | None:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return of_amd(properties.gcnArchName)
    return of_nvidia(properties.name, properties.major, properties.minor)


def of_nvidia(name: str, major: int, minor: int) -> str | None:
    """Why an NVIDIA GPU of this compute capability is not served, or None."""
    if (major, minor) >= OLDEST:
        return None
    return (
        f"it needs compute capability 8.0, and {name} has {major}.{minor}: Triton uses the tensor cores of Ampere and "
        "later; for older ones it compiles multiply-adds that spill their registers"
    )


def of_amd(architecture: str) -> str | None:
    """Why an AMD GPU is not served, or None. Its name may end in features, as in gfx942:sramecc+:xnack-."""
    architecture = architecture.split(":")[0]
    if architecture in MATRIX_CORES:
        return None
    return (
        f"of AMD's GPUs it serves {', '.join(MATRIX_CORES)}, and this is {architecture}: on RDNA every table of tiles that "
        "was compiled spills hundreds of registers, and others were not compiled"
    )
