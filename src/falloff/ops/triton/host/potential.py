"""A potential on the host: it is added to any bias, or stands alone."""

import torch
from torch import Tensor

from falloff.forms import Form, Potential
from falloff.ops.triton.kernels.arguments import PotentialTensors


def parts_of(form: Form | None) -> tuple[Form | None, Potential | None]:
    """The form without its potential, and that. A sum of one of each, or of one of them, has no other parts."""
    parts = form.parts if form is not None else ()
    potential = next((part for part in parts if isinstance(part, Potential)), None)
    return next((part for part in parts if part is not potential), None), potential


def potential_tensors(potential: Potential | None) -> PotentialTensors | None:
    """What attention kernels read."""
    if potential is None:
        return None
    return PotentialTensors(*(tensor.float().contiguous() for tensor in potential.tensors))


def potential_gradients(d_key: Tensor, lse: Tensor, grad_lse: Tensor | None) -> list[Tensor]:
    """The gradients of row and key. A row of dS sums up to its dLSE, or to 0 where the row sees no key."""
    d_row = torch.zeros_like(lse) if grad_lse is None else torch.where(lse == -torch.inf, 0.0, grad_lse)
    return [d_row, d_key]
