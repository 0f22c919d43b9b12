"""Whether tensors have values: not under a compiler or a transform, and fake tensors have none."""

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def is_eager() -> bool:
    """Whether a value may be read and kept for later calls.

    Not under torch.compile, torch.export or torch.jit.trace, not within torch.func's transforms, and not under a mode that
    makes tensors without values (FakeTensorMode) or records operators (make_fx). A mode that only observes, such as one that
    counts operators, changes nothing.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack() == 0:
        return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return not any(mode.is_infra_mode() for mode in _get_current_dispatch_mode_stack())
