"""What is tested: every implementation of the table, in each dtype that it serves, in each of its ways to work.

An implementation needs no more than its line in `IMPLEMENTATIONS`. It has one way, unless `WAYS` has more: the CPU kernels
one for each instruction set of this machine, blockwise tiles of other sizes, the GPU kernels two loops.
"""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from falloff.ops import cpu
from falloff.ops.blockwise import tile
from falloff.ops.call import Call
from falloff.ops.implementations import IMPLEMENTATIONS

GPU = torch.cuda.is_available()


def _nothing(patch):
    """The way an implementation works by itself."""


def _instruction_set(name):
    def choose(patch):
        patch.setenv("FALLOFF_CPU_ISA", name)
        assert cpu.instruction_set() == name

    return choose


def _tiles(rows, keys, scores, features=None):
    """Tiles so small that checks of shapes in every one would take as long as the rest: "as shipped" has them."""

    def choose(patch):
        if find_spec("jaxtyping"):
            patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        patch.setattr(tile, "_ROWS", rows)
        patch.setattr(tile, "_KEYS", keys)
        patch.setattr(tile, "_SCORES", scores)
        if features is not None:
            patch.setattr(tile, "_FEATURES", features)

    return choose


def _loop(shortest):
    def choose(patch):
        from falloff.ops.triton.host import bias

        patch.setattr(bias, "_SHORT", shortest)

    return choose


WAYS = {
    "cpu": {name: _instruction_set(name) for name in ([] if cpu.unavailable() else cpu._module.instruction_sets())},
    "blockwise": {"as shipped": _nothing, "small tiles": _tiles(4, 7, 60), "tiny tiles": _tiles(3, 5, 1)},
    "triton": {"short loop": _loop(1024), "long loop": _loop(0)},
}
"""The first is the one that runs by itself."""

DRAWN_WAYS = WAYS | {
    "blockwise": {
        f"tiles {rows} x {keys}, {features} features": _tiles(rows, keys, scores, features)
        for rows, keys, scores in ((3, 5, 1), (8, 8, 300))
        for features in (1, 60, 1 << 20)
    }
}
"""For calls of up to some 30 rows and keys."""


@dataclass(frozen=True)
class Variant:
    """One implementation in one dtype and one way to work."""

    impl: str
    dtype: torch.dtype
    way: str = ""
    choose: Callable = _nothing

    def __str__(self):
        return ", ".join([self.impl, str(self.dtype).removeprefix("torch."), *([self.way] if self.way else [])])

    @property
    def device(self):
        """Where its tensors lie."""
        return "cuda" if self.impl == "triton" and GPU else "cpu"

    @property
    def interpreted(self):
        """Whether it takes seconds for a call, and runs a share of the calls."""
        return self.impl == "triton" and not GPU

    @property
    def tiny(self):
        """Whether its tiles are of a few rows and keys."""
        return self.impl == "blockwise" and "tiles" in self.way

    @contextmanager
    def chosen(self):
        """Within, its implementation works so, and new tensors lie where it wants them."""
        with pytest.MonkeyPatch.context() as patch, torch.device(self.device) if self.device != "cpu" else nullcontext():
            self.choose(patch)
            yield


def dtypes_of(impl):
    """The dtypes that an implementation serves, the most exact first."""
    device = Variant(impl, torch.float32).device
    found = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        query = torch.zeros(1, 1, 1, 1, dtype=dtype, device=device)
        if IMPLEMENTATIONS[impl].refusal(query, query, Call(None, False, 1.0, 0, None, None, None, 0.0, None)) is None:
            found.append(dtype)
    return found


def variants(*dtypes, ways=WAYS, all_ways=True, reference=False):
    """Every implementation in those of `dtypes` that it serves; without any, in the most exact that it serves.

    An implementation that cannot run on this machine is skipped with its reason.
    """
    found = [Variant("reference", dtype) for dtype in dtypes] if reference else []
    for impl, implementation in IMPLEMENTATIONS.items():
        reason = implementation.unavailable()
        served = [] if reason else dtypes_of(impl)
        if reason:
            found.append(pytest.param(Variant(impl, torch.float32), marks=pytest.mark.skip(reason=reason)))
        for dtype in [dtype for dtype in dtypes if dtype in served] if dtypes else served[:1]:
            own = list(ways.get(impl, {"": _nothing}).items())
            found += [Variant(impl, dtype, way, choose) for way, choose in (own if all_ways else own[:1])]
    return found


def on_each(case, found, takes):
    """A case, a tuple, with each variant that takes it, as parameters."""
    for one in found:
        variant, marks = getattr(one, "values", (one,))[0], getattr(one, "marks", ())
        if takes(variant):
            yield pytest.param(*case, variant, marks=marks, id=f"{', '.join(map(str, case))} on {variant}")


def share_of(cases, found, interpreted=1, steps=None):
    """Parameters: every case, a tuple, with every variant, one after the other so that they can share what a case costs.

    The interpreter runs each `interpreted`th of them, in its first way to work; an implementation of `steps` each so many.
    """

    def takes(place, variant):
        step = interpreted if variant.interpreted else (steps or {}).get(variant.impl, 1)
        return place % step == 0 and not (variant.interpreted and variant.way != next(iter(WAYS["triton"])))

    return [pair for place, case in enumerate(cases) for pair in on_each(case, found, partial(takes, place))]


def every(found):
    """A decorator: the test runs on each of these variants, which is chosen while it runs."""
    return pytest.mark.parametrize("variant", found, ids=str)
