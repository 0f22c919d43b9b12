"""A pytest plugin: the tests of the GPU kernels under ttsem (`make test-ttsem`).

It executes what Triton's frontend lowers, and stops at accesses outside a tensor, races between programs and undefined
operations. Kernels load by `tl.load`, as in Triton's interpreter: ttsem does not know inline instructions.
"""

import pytest
import torch
from ttsem.sanitize import session as opened

from falloff.ops import triton as implementation
from falloff.ops.triton.host import device
from falloff.ops.triton.tiles import LARGE


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    with opened(cuda_is_cpu=False) as state:
        torch.cuda.is_available = lambda: False  # ttsem plays a GPU
        implementation._interpreted = lambda: True
        device._ask = lambda index: device.Device("interpreter", 0, LARGE)
        ended = yield
        print(f"\nttsem: {state.launches} launches, of which {state.races_unchecked} were too large to look for races")
    return ended
