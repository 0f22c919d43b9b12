"""The sizes of tiles: a table chosen by hand.

Triton's autotuner is not used, for three reasons: the tiles decide the order of sums, so the bits of a result would depend
on its timings; it waits for the device, which breaks the capture of a CUDA graph; it compiles every candidate at the first
call. The table is chosen by the registers that the compiler reports (`tests/ops/triton/test_compile.py`), and is to be
revised by `falloff bench --suite tiles`, which times the candidates below.
"""

from typing import NamedTuple

import torch


class Tiles(NamedTuple):
    """Query rows and keys of a tile, warps of a program, stages of its load pipeline, and the most registers of a thread,
    which only NVIDIA's backend takes.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None

    def options(self) -> dict[str, int]:
        """The arguments that tell a kernel of its tiles, and Triton how to launch it."""
        return {
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,  # multiply-adds; Triton 3.10 does not fuse them by itself
        } | ({} if self.max_registers is None else {"maxnreg": self.max_registers})


Table = dict[str, dict[int, Tiles]]
"""By kernel, then by the largest padded head size for which an entry holds."""


def _from_128(table: Table) -> Table:
    """A table whose backward takes at head sizes up to 64 what it takes at 128."""
    entries = {kernel: table[kernel] for kernel in ("dq", "dkdv", "diagonal")}
    return table | {kernel: {most: sizes[most] for most in sizes if most > 64} for kernel, sizes in entries.items()}


HALF: Table = {
    "forward": {64: Tiles(128, 64, 8, 3), 128: Tiles(128, 64, 8, 3), 256: Tiles(64, 32, 8, 3)},
    "dq": {64: Tiles(128, 64, 8, 2), 128: Tiles(128, 64, 8, 2), 256: Tiles(64, 32, 8, 1)},
    "dkdv": {64: Tiles(32, 128, 8, 2), 128: Tiles(32, 128, 8, 2), 256: Tiles(32, 32, 8, 1)},
    "diagonal": {64: Tiles(64, 64, 8, 2), 128: Tiles(64, 64, 8, 2), 256: Tiles(64, 64, 8, 1)},
    "decode": {64: Tiles(16, 64, 4, 3), 128: Tiles(16, 64, 4, 3), 256: Tiles(16, 32, 4, 2)},
}
# Hopper, where nothing but a strip takes registers: at 128 an SM has two programs of 8 warps instead of one.
HALF_HOPPER: Table = HALF | {"forward": HALF["forward"] | {64: HALF["forward"][64]._replace(max_registers=128)}}
# A100: products of one warp, whose registers hold what Hopper's read from shared memory. With fewer rows than BLOCK_D,
# Triton splits output and dQ among warps by columns, and P and dS go through shared memory, behind barriers.
HALF_AMPERE: Table = HALF | {
    "forward": HALF["forward"] | {128: Tiles(128, 64, 8, 2)},
    "dq": HALF["dq"] | {128: Tiles(128, 32, 8, 2)},
    "dkdv": HALF["dkdv"] | {128: Tiles(32, 64, 8, 2)},
    "diagonal": HALF["diagonal"] | {128: Tiles(32, 32, 4, 2), 256: Tiles(32, 32, 8, 1)},
}
HALF_BLACKWELL: Table = HALF | {  # B200. For FIRE's dQ, Triton 3.7.1 fails to compile tiles of 64 rows
    "dkdv": HALF["dkdv"] | {64: Tiles(32, 64, 8, 2), 128: Tiles(32, 64, 8, 1)},
}
HALF_SMALL: Table = {  # NVIDIA's GPUs with less than LARGE bytes of shared memory, its consumer cards
    "forward": {64: Tiles(128, 64, 8, 2), 128: Tiles(128, 64, 8, 2), 256: Tiles(32, 32, 4, 2)},
    "dq": {64: Tiles(64, 64, 4, 2), 128: Tiles(128, 32, 8, 2), 256: Tiles(32, 32, 4, 1)},
    "dkdv": {64: Tiles(32, 64, 4, 2), 128: Tiles(32, 64, 4, 1), 256: Tiles(16, 32, 4, 1)},
    "diagonal": {64: Tiles(64, 64, 8, 2), 128: Tiles(32, 32, 4, 1), 256: Tiles(32, 32, 8, 1)},
    "decode": {64: Tiles(16, 64, 4, 2), 128: Tiles(16, 32, 4, 2), 256: Tiles(16, 32, 4, 1)},
}
LARGE = 160 * 1024
# Of a band or a warp, whose values take registers in the backward; on Hopper, of a band alone.
WIDE: Table = HALF | {"dkdv": HALF["dkdv"] | {128: Tiles(16, 128, 8, 2)}}
WIDE_AMPERE: Table = HALF_AMPERE | {
    "forward": HALF_AMPERE["forward"] | {128: Tiles(128, 32, 8, 2)},
    "dq": HALF_AMPERE["dq"] | {64: Tiles(64, 32, 8, 2), 128: Tiles(128, 32, 8, 1)},
    "dkdv": HALF_AMPERE["dkdv"] | {64: Tiles(16, 128, 8, 2)},
}
WIDE_BLACKWELL = _from_128(HALF_BLACKWELL | {"dq": HALF["dq"] | {128: Tiles(128, 32, 8, 2), 256: Tiles(64, 32, 8, 2)}})
WIDE_SMALL = _from_128(
    HALF_SMALL
    | {
        "forward": HALF_SMALL["forward"] | {128: Tiles(128, 32, 8, 2)},
        "dq": HALF_SMALL["dq"] | {128: Tiles(128, 32, 8, 1)},
    }
)
HALF_AMD: Table = HALF_SMALL | {
    "forward": HALF_SMALL["forward"] | {64: Tiles(64, 64, 4, 2), 128: Tiles(64, 64, 4, 2)},
    "dq": HALF_SMALL["dq"] | {128: Tiles(64, 32, 4, 1)},
    "diagonal": HALF_SMALL["diagonal"] | {256: Tiles(32, 32, 4, 1)},
}
WIDE_AMD = _from_128(HALF_AMD)
FLOAT32: Table = {
    "forward": {64: Tiles(64, 32, 8, 2), 128: Tiles(32, 32, 8, 2), 256: Tiles(16, 16, 4, 1)},
    "dq": {64: Tiles(32, 32, 4, 2), 128: Tiles(32, 32, 8, 1), 256: Tiles(16, 16, 4, 1)},
    "dkdv": {64: Tiles(32, 32, 4, 2), 128: Tiles(32, 32, 8, 1), 256: Tiles(16, 16, 4, 1)},
    "diagonal": {64: Tiles(32, 32, 4, 2), 128: Tiles(32, 32, 4, 1), 256: Tiles(16, 16, 4, 1)},
    "decode": {64: Tiles(16, 32, 4, 2), 128: Tiles(16, 32, 4, 1), 256: Tiles(16, 16, 4, 1)},
}

# More candidates for head sizes up to 128 in half precision.
CANDIDATES = {
    "forward": (Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 1), Tiles(128, 64, 4, 3), Tiles(128, 128, 8, 2), Tiles(64, 64, 4, 3)),
    "dq": (Tiles(64, 64, 4, 2), Tiles(128, 32, 8, 3), Tiles(128, 64, 8, 3)),
    "dkdv": (Tiles(64, 128, 8, 2), Tiles(64, 64, 4, 2), Tiles(64, 128, 8, 3)),
    "diagonal": (Tiles(64, 64, 4, 2), Tiles(64, 64, 8, 3), Tiles(128, 128, 8, 1)),
    "decode": (Tiles(16, 128, 4, 2), Tiles(16, 64, 2, 4)),
}


def tiles(
    kernel: str,
    block_d: int,
    dtype: torch.dtype,
    target: str,
    capability: int,
    shared_memory: int,
    kind: str,
    plain: bool,
) -> Tiles:
    """The tiles of a kernel.

    Args:
        block_d: the padded head size.
        target, capability: see `host/device.py`. AMD's GPUs with as much shared memory as NVIDIA's (MI350) do not have the
            registers for its large tiles.
        shared_memory: bytes that one program may use.
        kind: the kind of the form, or "none".
        plain: whether there is no mask but a causal one, no dropout and no potential.
    """
    table = FLOAT32 if dtype == torch.float32 else _halves(target, capability, shared_memory, kind, plain)
    return next(sizes for most, sizes in table[kernel].items() if block_d <= most)


def decode_tiles(sizes: Tiles, rows: int, matrix_cores: bool) -> Tiles:
    """The tiles of decoding with all `rows` of a GQA group, from those of the table, which are for few rows.

    Where float32 products are not of matrix cores, the warps grow with the rows: a thread with more of them spills.
    """
    if matrix_cores or rows <= sizes.block_m:
        return sizes._replace(block_m=max(sizes.block_m, rows))
    warps = min(sizes.num_warps * rows // sizes.block_m, 16)
    return sizes._replace(block_m=rows, block_n=min(sizes.block_n, 1024 // rows), num_warps=warps)


def _halves(target: str, capability: int, shared_memory: int, kind: str, plain: bool) -> Table:
    wide = kind in ("band", "warp")
    if target.startswith("gfx"):
        return WIDE_AMD if wide else HALF_AMD
    if shared_memory < LARGE:
        return WIDE_SMALL if wide else HALF_SMALL
    if 0 < capability < 90:
        return WIDE_AMPERE if wide else HALF_AMPERE
    if capability >= 100:
        return WIDE_BLACKWELL if wide else HALF_BLACKWELL
    if capability == 90 and kind in ("none", "strip") and plain:
        return HALF_HOPPER
    return WIDE if kind == "band" else HALF
