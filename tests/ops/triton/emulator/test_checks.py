"""Each thing that the emulator looks for, in a kernel of a few lines that does it, and in one that does not."""

import numpy as np
import pytest
import torch

from ops.triton.emulator.launch import Launch
from ops.triton.emulator.ptx import EmulatorError, Program

KERNEL = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0
)
.reqntid 128
{{
	.loc	1 7 0
	ld.param.b64 	%rd1, [kernel_param_0];
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, 2;
	xor.b32 	%r3, %r2, 256;
	mov.u32 	%r4, %ctaid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	mad.wide.u32 	%rd4, %r4, 512, %rd3;
	setp.lt.u32 	%p1, %r1, 64;
{lines}
	ret;
}}
"""
# %rd3: a number for each thread; %rd4: one for each thread of each block; %r2: one in shared memory; %r3: another warp's.


def run(lines, blocks=1):
    """The kinds of problems, and what memory holds afterwards: as many numbers as there are threads."""
    memory = torch.arange(128 * blocks, dtype=torch.int32, device="cpu")  # also where a GPU runs the other tests
    parameters = {"kernel_param_0": np.array([memory.data_ptr()], np.uint64)}
    program = Program(KERNEL.format(lines="\n".join(f"\t{line};" for line in lines.split("; "))))
    return {kind for kind, _ in Launch(program, parameters, (blocks, 1), 1024, [memory.untyped_storage()]).run()}, memory


READ_ALL = "ld.global.b32 %r9, [%rd3]; ld.global.b32 %r9, [%rd3+512]; st.global.b32 [%rd4], %r1"
STORE = "st.shared.b32 [%r2], %r1"
COPY = "cp.async.ca.shared.global [%r2], [%rd4], 0x4; cp.async.commit_group"
WAIT = "cp.async.wait_group 0"
BARRIER = "bar.sync 0"
DESCRIPTOR = "mov.b64 %rd9, 4611686293305294848"  # at 0, swizzled by 128 bytes
FILL = "st.shared.v2.b32 [%r7], {%r1, %r1}"
PRODUCT = (
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
    "{%r20, %r21, %r22, %r23}, {%r30, %r31, %r32, %r33}, %rd9, 0, 1, 1, 0; wgmma.commit_group.sync.aligned"
)
OPERANDS = f"{DESCRIPTOR}; shl.b32 %r7, %r1, 3; " + "; ".join(f"mov.b32 %r{number}, 0" for number in range(30, 34))
FENCE = "fence.proxy.async.shared::cta"
LAST = "wgmma.wait_group.sync.aligned 0"

RIGHT = {
    "reads its own number": "ld.global.b32 %r9, [%rd4]; st.global.b32 [%rd4], %r9",
    "shared memory, behind a barrier": f"{STORE}; {BARRIER}; ld.shared.b32 %r9, [%r3]",
    "a copy, waited for": f"{COPY}; {WAIT}; {BARRIER}; ld.shared.b32 %r9, [%r3]",
    "a product": f"{OPERANDS}; {FILL}; {FENCE}; {BARRIER}; {PRODUCT}; {LAST}; add.f32 %r9, %r20, %r20",
}
WRONG = {
    "out of bounds: a global read": "ld.global.b32 %r9, [%rd4+4]",
    "out of bounds: a global write": "st.global.b32 [%rd4+-4], %r1",
    "a misaligned global read": "@%p1 ld.global.b32 %r9, [%rd4+2]",
    "race: a block writes what another block wrote": "st.global.b32 [%rd3], %r1",
    "race: a block writes what another block read": READ_ALL,
    "race: a block reads what another block wrote": READ_ALL,
    "shared memory is read before it is written": "ld.shared.b32 %r9, [%r2]",
    "race: a warp reads what another wrote, and no barrier is between": f"{STORE}; ld.shared.b32 %r9, [%r3]",
    "race: a warp writes what another wrote, and no barrier is between": f"{STORE}; st.shared.b32 [%r3], %r1",
    "race: a warp writes what another read, and no barrier is between": (
        f"{STORE}; {BARRIER}; ld.shared.b32 %r9, [%r3]; {STORE}"
    ),
    "the destination of a cp.async is read before its wait": f"{COPY}; ld.shared.b32 %r9, [%r2]",
    "the destination of a cp.async is written before its wait": f"{COPY}; {STORE}",
    "the destination of a cp.async is copied into again before its wait": f"{COPY}; {COPY}; {WAIT}",
    "a wgmma reads the destination of a cp.async before its wait": f"{OPERANDS}; {COPY}; {FENCE}; {BARRIER}; {PRODUCT}",
    "a wgmma reads shared memory that was not written": f"{OPERANDS}; {PRODUCT}; {LAST}",
    "a wgmma reads what no fence.proxy.async has made visible": f"{OPERANDS}; {FILL}; {BARRIER}; {PRODUCT}; {LAST}",
    "race: a wgmma reads what was written, and no barrier is between": f"{OPERANDS}; {FILL}; {FENCE}; {PRODUCT}; {LAST}",
    "shared memory is written while a wgmma in flight reads it": (
        f"{OPERANDS}; {FILL}; {FENCE}; {BARRIER}; {PRODUCT}; {FILL}; {LAST}"
    ),
    "a register is read while a wgmma writes it": (
        f"{OPERANDS}; {FILL}; {FENCE}; {BARRIER}; {PRODUCT}; add.f32 %r9, %r20, %r20; {LAST}"
    ),
}


@pytest.mark.parametrize("lines", RIGHT.values(), ids=RIGHT)
def test_right(lines):
    problems, memory = run(lines, blocks=2)
    assert problems == set()
    assert memory.tolist() == list(range(256))


@pytest.mark.parametrize("kind", WRONG)
def test_wrong(kind):
    problems, _ = run(WRONG[kind], blocks=2)
    assert kind in problems


STOPS = {
    "beyond shared memory": "ld.shared.b32 %r9, [%r2+1024]",
    "a barrier of some threads": f"@%p1 {BARRIER}",
    "an instruction that is not known": "made.up.b32 %r9, %r1",
    "a register that was not written": "add.s32 %r9, %r8, 1",
}


@pytest.mark.parametrize("lines", STOPS.values(), ids=STOPS)
def test_stops(lines):
    with pytest.raises(EmulatorError):
        run(lines)


def test_threads_go_apart_and_meet_again():
    """Those below 64 take one way, the others the other."""
    problems, memory = run(
        "mov.b32 %r9, 5; @%p1 bra $there; mul.lo.s32 %r9, %r1, 3; $there:\n\tadd.s32 %r9, %r9, 1; st.global.b32 [%rd4], %r9"
    )
    assert problems == set()
    assert memory.tolist() == [6] * 64 + [3 * thread + 1 for thread in range(64, 128)]


@pytest.mark.parametrize(("line", "want"), [("mul.f64 %rd7, %rd5, %rd6", 7.5), ("fma.rn.f64 %rd7, %rd5, %rd6, %rd6", 10.0)])
def test_products_in_float64(line, want):
    """They make up the exponentials and logarithms of the bounds by which keys are skipped."""
    lines = "mov.b64 %rd5, 0d4008000000000000; mov.b64 %rd6, 0d4004000000000000; {line}; cvt.rn.f32.f64 %r9, %rd7"
    problems, memory = run(lines.format(line=line) + "; st.global.b32 [%rd3], %r9")
    assert problems == set()
    assert memory.view(torch.float32).unique().tolist() == [want]
