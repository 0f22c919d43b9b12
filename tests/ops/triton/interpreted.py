"""bfloat16 in Triton's interpreter, which knows it but half: it truncates, and multiplies the bits of matrices."""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_convert_float, _create_dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot


def convert(data, source, target, rounding):
    """The interpreter holds bfloat16 as its bits, and truncates where a GPU rounds to nearest even."""
    if (source, target) == (tl.bfloat16, tl.float32):
        return data.astype(np.uint32) << 16
    if (source, target) == (tl.float32, tl.bfloat16):
        bits = np.ascontiguousarray(data).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return np.where(np.isnan(data), 0x7FFF, rounded).astype(np.uint16)
    return _convert_float(data, source, target, rounding)


def dot(builder, a, b, *rest):
    """Without this, it multiplies the bits."""
    a, b = (
        interpreter.TensorHandle(convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)
        if x.dtype.scalar == tl.bfloat16
        else x
        for x in (a, b)
    )
    return _create_dot(builder, a, b, *rest)


def teach_bfloat16(setattr=setattr):
    """Mend the interpreter, by a `setattr` such as monkeypatch's, which undoes it."""
    setattr(interpreter, "_convert_float", convert)
    setattr(interpreter.InterpreterBuilder, "create_dot", dot)
