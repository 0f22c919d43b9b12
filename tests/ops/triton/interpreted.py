"""Triton's interpreter, mended: bfloat16, which it knows but half; and what takes two thirds of its time for nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from falloff.ops.triton import tiles

_convert_float, _create_dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot
_patch_lang = interpreter._patch_lang


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


def patch_once(function):
    """By itself, the interpreter looks through all of `triton.language` at every call of a device function.

    What a launch has patched, the functions that its kernel calls find patched.
    """
    if not tl.core.is_builtin(tl.load):
        return interpreter._LangPatchScope()  # nothing to restore
    return _patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))


def mend(setattr=setattr):
    """Mend the interpreter, by a `setattr` such as monkeypatch's, which undoes it."""
    setattr(interpreter, "_convert_float", convert)
    setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    setattr(interpreter, "_patch_lang", patch_once)
    # Whether sums of integers overflow is worked out for each of them, but looked at only in debug mode.
    builder = interpreter.interpreter_builder
    setattr(builder, "options", replace(builder.options, sanitize_overflow=builder.options.debug))


def settle(monkeypatch):
    """Mend the interpreter for one test, with larger tiles of float32: it takes its time for each."""
    size = tiles.Tiles(64, 64, 4, 1)
    table = {kernel: {256: size} for kernel in ("forward", "dq", "dkdv", "diagonal")}
    table["decode"] = {256: tiles.Tiles(16, 64, 4, 1)}
    monkeypatch.setattr(tiles, "FLOAT32", table)
    mend(monkeypatch.setattr)
