"""Compile what a call launches for a GPU that is not there, and say what the compiler says of each kernel.

Run as a program, in a process of its own (Triton decides at import whether it interprets): offline.py TARGET CASES...
It prints one JSON object a kernel: case, kernel, registers, bytes spilled, shared memory, matrix instructions.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from falloff.forms import Band, Strip, Warp
from falloff.ops import triton as implementation
from falloff.ops.call import Call

SHARED_MEMORY = {"sm_80": 166912, "sm_89": 101376, "sm_90": 232448, "gfx942": 65536}
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class NoDevice:
    """A driver for Triton whose launches do nothing: kernels are specialised, compiled and handed over as for a device."""

    def __init__(self, name):
        self.target, self.name, self.kernels = TARGETS[name], name, []
        self.utils = self
        self.launcher_cls = lambda src, metadata: lambda *args: None

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device):
        return 0

    def get_device_properties(self, device):
        return {"max_shared_mem": SHARED_MEMORY[self.name], "warpSize": self.target.warp_size}

    def load_binary(self, name, binary, shared, device):
        self.kernels.append((name, binary, shared))
        return 0, 0, 0, 0, 1024


def usage(binary):
    """Registers, spilled bytes and matrix instructions of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        resources = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
        code = subprocess.run([TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", resources.stdout + resources.stderr)
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "warpgroup_products": len(re.findall(r"\bHGMMA\b", code)),
        "products": len(re.findall(r"\bHMMA\b", code)),
        "async_copies": len(re.findall(r"\bLDGSTS\b", code)),
        "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/", code)),
        "code": code,
    }


FORMS = {
    "none": lambda B, H, N, M: None,
    "t5": lambda B, H, N, M: Strip(torch.randn(H, 114)),
    "t5 bidirectional": lambda B, H, N, M: Strip(torch.randn(H, 183), -91),
    "alibi": lambda B, H, N, M: Strip(torch.randn(H, N + M - 1), 1 - M),
    "band": lambda B, H, N, M: Band(torch.randn(B, H, N, 1024).bfloat16()),
    "short band": lambda B, H, N, M: Band(torch.randn(B, H, N, 64)),
    "fire": lambda B, H, N, M: Warp(torch.rand(M), torch.rand(N), torch.rand(32), torch.rand(H, 33), torch.rand(H, 33)),
}


def run(case):
    """Launch the kernels of a case: 'form, D, dtype, masks'."""
    name, head_size, dtype, *masks = (part.strip() for part in case.split(","))
    B, H, G, N = 2, 4, 2, 2053 if "longer" in masks else 2048
    num_queries = 1 if "decode" in masks else N
    query = torch.randn(B, H, num_queries, int(head_size), dtype=getattr(torch, dtype))
    key, value = (torch.randn(B, G, N, int(head_size), dtype=query.dtype) for _ in range(2))
    call = Call(
        form=FORMS[name](B, H, num_queries, N),
        causal="causal" in masks,
        scale=0.125,
        query_start=N - num_queries,
        window=1000 if "window" in masks else None,
        key_mask=torch.ones(B, N, dtype=torch.bool) if "key_mask" in masks else None,
        document_ids=torch.zeros(B, N, dtype=torch.int64) if "documents" in masks else None,
        dropout_p=0.1 if "dropout" in masks else 0.0,
        seed=torch.tensor(7) if "dropout" in masks else None,
    )
    lowered = torch.zeros(implementation.lowered_size(query, key, call), dtype=torch.int32)
    out, lse = implementation.forward(query, key, value, call, lowered)
    if num_queries > 1:
        implementation.backward(torch.randn_like(out), None, query, key, value, out, lse, lowered, call, (True,) * 4)


def main(target, *cases):
    """Print what was compiled."""
    driver = NoDevice(target)
    triton.runtime.driver.set_active(driver)
    for case in cases:
        driver.kernels.clear()
        run(case)
        for name, binary, shared in driver.kernels:
            report = {"case": case, "kernel": name, "shared": shared}
            if target.startswith("sm_"):
                report |= usage(binary)
                code = report.pop("code")
                if KEEP is not None:
                    (KEEP / f"{target}-{case}-{name}.sass".replace(" ", "").replace(",", "-")).write_text(code)
            print(json.dumps(report), flush=True)


KEEP = None  # a folder for the machine code, to read

if __name__ == "__main__":
    if "--keep" in sys.argv:
        KEEP = Path(sys.argv.pop(sys.argv.index("--keep") + 1))
        sys.argv.remove("--keep")
        KEEP.mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
