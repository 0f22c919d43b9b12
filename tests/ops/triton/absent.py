"""GPUs that are not there: what Triton asks of a driver, answered for each of them."""

from triton.backends.compiler import GPUTarget

SHARED_MEMORY = {
    "sm_80": 166912,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_120": 101376,
    "gfx942": 65536,
    "gfx950": 163840,
}


class AbsentDevice:
    """A driver for Triton. A subclass has `utils` and `launcher_cls`: what loads and what launches a kernel."""

    def __init__(self, name):
        nvidia = name.startswith("sm_")
        self.target = GPUTarget("cuda", int(name.removeprefix("sm_")), 32) if nvidia else GPUTarget("hip", name, 64)
        self.shared_memory = SHARED_MEMORY[name]

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device):
        return 0
