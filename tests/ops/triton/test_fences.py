"""Products that read what no fence made visible are found in the text of a kernel, and others are not."""

import pytest

from ops.triton.emulator.ptx import Program
from ops.triton.fences import unfenced
from ops.triton.ranges import ANY, ranges

KERNEL = """
.visible .entry kernel()
.reqntid 128
{{
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, 3;
	add.s32 	%r3, %r2, 1024;
	mov.b64 	%rd9, 4611686293305294848;
{lines}
	ret;
}}
"""
# %r2, %r3: 8 bytes for each thread, below 1024 and below 2048; %rd9: the descriptor of a matrix of 1024 bytes at 0.
COPY = "cp.async.ca.shared.global [%r2+0], [%rd1+0], 0x8; cp.async.commit_group;"
OTHER_COPY = "cp.async.ca.shared.global [%r3+0], [%rd1+0], 0x8; cp.async.commit_group;"
FENCE = "fence.proxy.async.shared::cta;"
PRODUCT = (
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r20,%r21,%r22,%r23}, {%r30,%r31,%r32,%r33}, %rd9, 0, 1, 1, 0;"
)
WAIT, WAIT_FOR_ONE = ("cp.async.wait_group 0;", "cp.async.wait_group 1;")
STORE = "st.shared.v2.b32 [%r2+0], {%r1, %r1};"
TO_THERE, THERE = ("@%p1 bra $there;", "$there:")

CASES = {
    "fenced": ([COPY, WAIT, FENCE, PRODUCT], 0),
    "no fence": ([COPY, WAIT, PRODUCT], 1),
    "a fence before the wait": ([COPY, FENCE, WAIT, PRODUCT], 1),
    "a copy that has not ended": ([COPY, WAIT, FENCE, COPY, WAIT_FOR_ONE, PRODUCT], 0),
    "the later wait ends another copy": ([COPY, OTHER_COPY, WAIT_FOR_ONE, FENCE, WAIT, PRODUCT], 0),
    "the later wait ends its own copy": ([OTHER_COPY, COPY, WAIT_FOR_ONE, FENCE, WAIT, PRODUCT], 1),
    "a copy to an address that is not known": (["ld.global.b32 %r2, [%rd1];", COPY, WAIT, PRODUCT], 1),
    "a fence on one of two paths": ([COPY, WAIT, TO_THERE, FENCE, THERE, PRODUCT], 1),
    "around a loop": ([THERE, PRODUCT, COPY, WAIT, TO_THERE], 1),
    "around a loop, fenced": ([THERE, FENCE, PRODUCT, COPY, WAIT, TO_THERE], 0),
    "a store": ([STORE, PRODUCT], 1),
    "a store, fenced": ([STORE, FENCE, PRODUCT], 0),
}


def text(lines):
    return KERNEL.format(lines="\n".join(lines))


@pytest.mark.parametrize(("lines", "count"), CASES.values(), ids=CASES)
def test_unfenced(lines, count):
    assert len(unfenced(text(lines))) == count


def test_another_gpu_has_no_such_products():
    assert unfenced("what the emulator cannot read") == []


def stored(*lines):
    """The range of the register at which the store behind these lines writes."""
    program = Program(text([*lines, "st.shared.b32 [%r9+0], %r1;"]))
    (known,) = ranges(program, ("st",)).values()
    return known["%r9"]


STAGES = (  # 0, 1, 2, 0, ...: the stage of a pipeline, of 8 KB each
    "mov.b32 %r5, -1;",
    THERE,
    "add.s32 %r6, %r5, 1;",
    "setp.gt.s32 %p2, %r6, 2;",
    "selp.b32 %r5, 0, %r6, %p2;",
    "shl.b32 %r7, %r5, 13;",
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["and.b32 %r9, %r1, 24;"], (0, 24)),
        (["xor.b32 %r9, %r2, 16;"], (0, 1023)),
        (["bfe.u32 %r9, %r2, 4, 14;"], (0, 63)),
        (["bfe.s32 %r8, %r1, 1, 1;", "and.b32 %r9, %r8, 4128;"], (0, 4128)),
        (["mad.lo.s32 %r9, %r1, 4, -8;"], (-8, 500)),
        (["mov.b32 %r9, 5;", "@%p1 mov.b32 %r9, 7;"], (5, 7)),
        (["mul.lo.s32 %r9, %r2, 8388608;"], ANY),  # beyond 32 bits
        (["add.f32 %r9, %r1, %r1;"], ANY),
        ([*STAGES, "add.s32 %r9, %r7, 512;", TO_THERE], (512, 512 + 2 * 8192)),
        (["mov.b32 %r9, 0;", THERE, "add.s32 %r9, %r9, 1;", TO_THERE], ANY),
    ],
)
def test_ranges(lines, expected):
    assert stored(*lines) == expected
