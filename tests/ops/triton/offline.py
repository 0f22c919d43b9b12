"""Compile what a call launches for a GPU that is not there, and say what the compiler says of each kernel.

Run as a program with PYTHONPATH=src:tests, in a process of its own (Triton decides at import whether it interprets):

    offline.py TARGET CASES...         one JSON object a kernel, of what the cases ('form, D, dtype, masks') launch
    offline.py --table TARGET [D...]   a table of the forms and kernels of attention, in bfloat16
    --json                             in front: its rows as JSON
    --against FILE                     in front: "before -> after", where a figure is not that of the file (of --json)
    --keep FOLDER                      in front: keep the machine code, to read

Kernels once compiled are kept in build/offline.
"""

import argparse
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
import triton
from triton.backends.nvidia.compiler import CUDABackend

from falloff.forms import Band, Potential, Strip, Warp
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from ops.triton import machine_code
from ops.triton.absent import SHARED_MEMORY, AbsentDevice


class NoDevice(AbsentDevice):
    """A driver for Triton whose launches do nothing: kernels are specialised, compiled and handed over as for a device."""

    def __init__(self, name):
        super().__init__(name)
        self.utils = self
        self.launcher_cls = lambda src, metadata: lambda *args: None

    def get_device_properties(self, device):
        return {"max_shared_mem": self.shared_memory, "warpSize": self.target.warp_size}

    def load_binary(self, name, binary, shared, device):
        return 0, 0, 0, 0, 1024


CACHE = Path(__file__).parents[3] / "build" / f"offline-{triton.__version__}"


def log_ptxas():
    """Let Triton keep what ptxas says of a kernel, beside the kernel."""
    triton.knobs.cache.dir = str(CACHE)
    triton.knobs.nvidia.dump_ptxas_log = True
    make_cubin = CUDABackend.make_cubin

    def logged(self, src, metadata, *rest):
        with redirect_stdout(StringIO()) as log:
            cubin = make_cubin(self, src, metadata, *rest)
        return cubin, metadata.update(ptxas=log.getvalue())

    CUDABackend.make_cubin = lambda *arguments: logged(*arguments)[0]


def report(src, metadata, metadata_group, **_):
    """What the compiler says of a kernel, from the files that Triton keeps of it."""
    files = {name.rpartition(".")[2]: Path(path) for name, path in metadata_group.items()}
    if "cubin" in files:
        found = machine_code.of_nvidia(files["cubin"].read_bytes(), files["ptx"].read_text(), metadata["ptxas"])
    else:
        found = machine_code.of_amd(files["amdgcn"].read_text())
    return {"kernel": metadata["name"], "shared": metadata["shared"]} | found


FORMS = {
    "none": lambda B, H, N, M: None,
    "t5": lambda B, H, N, M: Strip(torch.randn(H, 114)),
    "t5 bidirectional": lambda B, H, N, M: Strip(torch.randn(H, 183), -91),
    "alibi": lambda B, H, N, M: Strip(torch.randn(H, N + M - 1), 1 - M),
    "band": lambda B, H, N, M: Band(torch.randn(B, H, N, 1024).bfloat16()),
    "short band": lambda B, H, N, M: Band(torch.randn(B, H, N, 64)),
    "potential": lambda B, H, N, M: Potential(torch.randn(B, H, N), torch.randn(B, H, M)),
    "fire": lambda B, H, N, M: Warp(torch.rand(M), torch.rand(N), torch.rand(32), torch.rand(H, 33), torch.rand(H, 33)),
}


def run(case):
    """Launch the kernels of a case: 'form, D, dtype, masks'. A GQA group has 2 query heads, or as many as "64 rows" says."""
    name, head_size, dtype, *masks = (part.strip() for part in case.split(","))
    rows = next((int(word.removesuffix(" rows")) for word in masks if word.endswith(" rows")), 2)
    B, H, G, N = 2, 2 * rows, 2, 2053 if "longer" in masks else 2048
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


def compiled(target, cases):
    """The reports of the kernels that the cases launch, one after another; a kernel of an earlier case is not repeated."""
    log_ptxas()
    triton.runtime.driver.set_active(NoDevice(target))
    for case in cases:
        reports = []
        triton.knobs.compilation.listener = lambda reports=reports, **compiled: reports.append(report(**compiled))
        run(case)
        for found in reports:
            code = found.pop("code")
            if KEEP is not None:
                (KEEP / f"{target}-{case}-{found['kernel']}.txt".replace(" ", "").replace(",", "-")).write_text(code)
            yield {"case": case} | found


KERNELS = ("forward_kernel", "dq_kernel", "dkdv_kernel", "diagonal_kernel")
TABLE_FORMS = ("none", "t5", "t5 bidirectional", "alibi", "band", "potential", "fire")


FIGURES = ("registers", "stack", "spilled", "instructions", "barriers", "waits", "unfenced", "warnings")


def row(found):
    """A row of the table. Figures of a loop stand for its zones in the order of the machine code."""
    form, head_size, *_ = found["case"].split(",")
    loops = {name: [loop[name] for loop in found["loops"]] for name in ("instructions", "barriers", "waits")}
    figures = {name: found[name] for name in ("registers", "stack", "spilled", "unfenced", "warnings")}
    return {"form": form, "D": int(head_size), "kernel": found["kernel"].removesuffix("_kernel")} | figures | loops


def cell(name, now, before):
    """A figure, behind what it was before if the row before has another."""
    now, before = (
        ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (now[name], before.get(name, now[name]))
    )
    return now if now == before else f"{before} -> {now}"


def table(target, head_sizes, against, as_json):
    """Print a Markdown table, or its rows as JSON."""
    before = {(row["form"], row["D"], row["kernel"]): row for row in against}
    masks = {"t5 bidirectional": ""}
    cases = [
        f"{form},{head_size},bfloat16{masks.get(form, ',causal')}"
        for head_size in head_sizes or (64, 128, 256)
        for form in TABLE_FORMS
    ]
    rows = (row(found) for found in compiled(target, cases) if found["kernel"] in KERNELS)
    if as_json:
        print("[" + ",\n ".join(map(json.dumps, rows)) + "]")
        return
    print(
        "| form | D | kernel | registers | stack | spilled | instructions a tile | barriers | waits | unfenced | warnings |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for now in rows:
        key = (now["form"], now["D"], now["kernel"])
        print(
            "|", " | ".join([*map(str, key), *(cell(name, now, before.get(key, {})) for name in FIGURES)]), "|", flush=True
        )


KEEP = None  # a folder for the machine code, to read

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("target", choices=SHARED_MEMORY)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    for case in options.cases:
        form, *rest = case.split(",")
        if not (case.isdecimal() if options.table else form in FORMS and len(rest) >= 2):
            parser.error(
                f"cases: got {case!r}, expected {'head sizes' if options.table else 'cases as t5,64,bfloat16,causal'}"
            )
    if not options.table and (options.json or options.against):
        parser.error("--json, --against: they go with --table")
    if options.keep:
        KEEP = options.keep
        KEEP.mkdir(parents=True, exist_ok=True)
    if options.table:
        against = json.loads(options.against.read_text()) if options.against else []
        table(options.target, options.cases, against, options.json)
    else:
        for found in compiled(options.target, options.cases):
            print(json.dumps(found), flush=True)
