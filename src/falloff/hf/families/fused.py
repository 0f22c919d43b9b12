"""Fusing changes a module's class and nothing else: parameters keep their names."""

from collections.abc import Callable
from types import MethodType
from typing import Any, ClassVar

from torch import Tensor, nn

from falloff.hf.attention import NAME, register


class Fused:
    """Mixed into an attention class of Transformers.

    A module is fused by changing its class to a subclass of it, and unfused by changing it back. Parameters, buffers, hooks
    and names stay as they are.
    """

    unfused: ClassVar[type[nn.Module]]
    fusion: ClassVar[type["Fused"]]

    def check_implementation(self) -> None:
        """Raise if the config names another attention implementation: it would take falloff's compact bias for a dense one.

        Raises:
            ValueError: for a config whose implementation is not falloff's.
        """
        found = self.config._attn_implementation  # type: ignore[attr-defined]
        if found != NAME:
            raise ValueError(
                f"attn_implementation: got {found!r} for a fused model, expected falloff.hf.unfuse(model) first"
            )

    def forget(self) -> None:
        """Drop what is kept beside the module's own attributes: `unfuse` calls it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type, type], dict[str, Any]]:
        """Pickle by the two classes that the class is made of: it is made at run time and cannot be imported."""
        return _empty, (self.fusion, self.unfused), self.__dict__


def by_head(states: Tensor, heads: int) -> Tensor:
    """(..., N, H * D) as (..., H, N, D)."""
    return states.unflatten(-1, (heads, -1)).transpose(-3, -2)


_CLASSES: dict[tuple[Any, Any], Any] = {}


def fused_class(fusion: Any, original: Any) -> Any:
    """The subclass of `original` with the methods of `fusion`; the same class each time."""
    if (fusion, original) not in _CLASSES:
        names = {"unfused": original, "fusion": fusion}
        _CLASSES[fusion, original] = type(f"Fused{original.__name__}", (fusion, original), names)
    return _CLASSES[fusion, original]


def check_forward(module: nn.Module, cls: type) -> None:
    """Raise if the module has a `forward` of its own, which would hide that of the class `cls`.

    A replacement that calls the forward of the class, as accelerate's hooks do, is allowed: see `become`.

    Raises:
        ValueError: naming the forward that replaced the module's.
    """
    if "forward" in vars(module) and cls.forward is not type(module).forward and not _holders(module):  # type: ignore[attr-defined]
        raise ValueError(
            f"model: got a {type(module).__name__} whose forward was replaced by {vars(module)['forward']!r}, expected the "
            "module's own: change the model by falloff.hf first"
        )


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class of a module. Attributes that hold its old forward (accelerate's hooks) get the new one."""
    holders = _holders(module)
    module.__class__ = cls
    for name in holders:
        vars(module)[name] = MethodType(cls.forward, module)


def _holders(module: nn.Module) -> list[str]:
    """The attributes of a module that hold the forward of its class."""
    own = type(module).forward
    return [
        name
        for name, held in vars(module).items()
        if isinstance(held, MethodType) and held.__self__ is module and held.__func__ is own
    ]


def _empty(fusion: type, original: type) -> Any:
    register()  # a process that unpickles may not have registered the implementation
    made = fused_class(fusion, original)
    return made.__new__(made)
