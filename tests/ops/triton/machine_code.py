"""Read what a compiler made of a kernel: registers, stack, spills, warnings, and the loops over tiles."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton

from ops.triton.fences import unfenced

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

NVIDIA = {
    "label": re.compile(r"^(\.L\w+):"),
    "instruction": re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?;)"),
    "jump": re.compile(r"\bBRA\b.*?`\((\.L\w+)\)"),
    "product": re.compile(r"\b(?:HMMA|HGMMA|UTC\w*MMA|[DIQ]MMA)\b"),
    "barrier": re.compile(r"\bBAR\.\w+"),
}
AMD = {
    "label": re.compile(r"^(\.LBB\w+):"),
    "instruction": re.compile(r"^\t([a-z]\w+\b.*)"),
    "jump": re.compile(r"\bs_c?branch\w*\s+(\.LBB\w+)"),
    "product": re.compile(r"\bv_\w*(?:mfma|wmma)_"),
    "barrier": re.compile(r"\bs_barrier"),
}


def loops(code, words):
    """The innermost loops that multiply matrices, in the order of the code: each is one zone of `kernels/zones.py`.

    For each, its instructions (a tile's, for one warp), its barriers and its waits for products of a warpgroup. A loop
    within, over the segments of a warp, counts with its instructions, once.
    """
    lines, labels, jumps = [], {}, []
    for text in code.splitlines():
        if found := words["label"].match(text):
            labels[found[1]] = len(lines)
        elif found := words["instruction"].search(text):
            if jump := words["jump"].search(found[1]):
                jumps.append((len(lines), jump[1]))
            lines.append(found[1])
    ends = {}
    for at, label in jumps:
        if label in labels and labels[label] <= at:
            ends[labels[label]] = max(at, ends.get(labels[label], 0))
    bodies = {begin: lines[begin : end + 1] for begin, end in sorted(ends.items())}
    bodies = {begin: body for begin, body in bodies.items() if any(map(words["product"].search, body))}
    inner = [
        body
        for begin, body in bodies.items()
        if not any(begin < other and other + len(within) <= begin + len(body) for other, within in bodies.items())
    ]
    return [
        {
            "instructions": len(body),
            "barriers": sum(bool(words["barrier"].search(line)) for line in body),
            "waits": sum("WARPGROUP.DEPBAR" in line for line in body),
        }
        for body in inner
    ]


def of_nvidia(cubin, ptx, log):
    """Of a cubin, of its PTX, and of what ptxas said of it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code = subprocess.run([TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    stack, stores, reads = map(
        int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log).groups()
    )
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "stack": stack,
        "spilled": stores + reads,
        "warnings": sorted(set(re.findall(r"\bC75\d\d\b", log))),
        "unfenced": len(unfenced(ptx)),
        "warpgroup_products": len(re.findall(r"\bHGMMA\b", code)),
        "products": len(re.findall(r"\bHMMA\b", code)),
        "async_copies": len(re.findall(r"\bLDGSTS\b", code)),
        "loops": loops(code, NVIDIA),
        "code": code,
    }


def of_amd(code):
    """Of the assembler text of a kernel. Registers are of vectors; spills are counted in bytes a lane."""
    found = {
        name: int(re.search(rf"\.{name}:\s+(\d+)", code)[1])
        for name in ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
    }
    return {
        "registers": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        "spilled": 4 * found["vgpr_spill_count"],
        "warnings": [],
        "unfenced": 0,
        "loops": loops(code, AMD),
        "code": code,
    }
