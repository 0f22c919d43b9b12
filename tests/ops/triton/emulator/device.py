"""The stand-in for a GPU: Triton's own compiler and launcher, with `libcuda.c` in place of CUDA and the emulator behind it.

For a process of its own: Triton decides at import whether it interprets, and looks for CUDA once.
"""

import ctypes
import os
import subprocess
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import triton
from triton.backends.nvidia import compiler, driver

from ops.triton.absent import AbsentDevice
from ops.triton.emulator.launch import Launch
from ops.triton.emulator.ptx import DTYPES, UNSIGNED, Program

TARGETS = ("sm_80", "sm_89", "sm_90")
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 4, ctypes.POINTER(ctypes.c_void_p))


def build(folder):
    """Compile the stand-in for libcuda into a folder."""
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    source, library = Path(__file__).with_name("libcuda.c"), folder / "libcuda.so.1"
    half = folder / f"libcuda.{os.getpid()}"  # another process may load the library now
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-isystem", headers, "-o", half, source]
    subprocess.run(command, check=True)
    half.replace(library)
    return library


class Device(AbsentDevice):
    """A GPU that is not there; its launches run in the emulator.

    Args:
        target: "sm_80", "sm_89" or "sm_90".
        folder: where the stand-in and what Triton compiles are kept.
    """

    def __init__(self, target, folder):
        super().__init__(target)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRITON_CACHE_DIR"] = str(folder / "cache")
        os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
        self.cuda = ctypes.CDLL(build(folder), mode=ctypes.RTLD_GLOBAL)  # the launcher finds it by its name: it is loaded
        self.on_launch = CALLBACK(self._on_launch)
        self.cuda.set_device(self.on_launch, self.shared_memory)
        # The PTX itself is what is loaded.
        compiler.CUDABackend.make_cubin = lambda backend, ptx, *_: ptx.encode()
        self.programs, self.passed = {}, []
        self.clear()
        triton.runtime.driver.set_active(self)
        self.utils = driver.CudaUtils()
        self._load, self.utils.load_binary = self.utils.load_binary, self.load_binary

    def clear(self):
        """Forget what was launched."""
        self.launches, self.problems, self.fault = [], Counter(), None

    # What Triton asks of a driver.

    def launcher_cls(self, source, metadata):
        launcher = driver.CudaLauncher(source, metadata)

        def launch(*arguments):
            self.passed = list(_tensors(arguments))
            launcher(*arguments)

        return launch

    def load_binary(self, name, binary, shared, device):
        loaded = self._load(name, binary, shared, device)
        self.programs[loaded[1]] = Program(binary.decode())
        return loaded

    def _on_launch(self, function, grid_x, grid_y, threads, shared_bytes, params):
        """Called by the stand-in. An exception cannot pass through C: it becomes an error of CUDA."""
        try:
            program = self.programs[function]
            assert program.threads == threads
            arguments = {name: _argument(kind, params[place]) for place, (name, kind) in enumerate(program.parameters)}
            storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self.passed}
            launch = Launch(program, arguments, (grid_x, grid_y), shared_bytes, list(storages.values()))
            self.launches.append(launch)
            for (kind, place), count in launch.run().items():
                self.problems[kind, program.name, place] += count
        except BaseException as error:
            traceback.print_exc()
            self.fault = error
            return 1
        return 0


def _tensors(arguments):
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple | list):
            yield from _tensors(argument)


def _argument(kind, pointer):
    unsigned = UNSIGNED[np.dtype(DTYPES[kind]).itemsize]
    return np.frombuffer(ctypes.string_at(pointer, unsigned().itemsize), unsigned)
