"""What all fused attention modules are: objects whose class has changed, with the same parameters under the same names."""

from collections.abc import Callable
from types import MethodType
from typing import Any, ClassVar

from torch import nn

from falloff.hf.attention import NAME, register


class Fused:
    """Mixed into an attention class of Transformers.

    A module is fused by changing its class to a subclass of its own, and unfused by changing it back: parameters, buffers,
    hooks and names stay as they are.
    """

    unfused: ClassVar[type[nn.Module]]
    fusion: ClassVar[type["Fused"]]

    def must_be_ours(self) -> None:
        """Raise where another implementation was chosen since: a compact bias would be read as a dense one."""
        found = self.config._attn_implementation  # type: ignore[attr-defined]
        if found != NAME:
            raise ValueError(
                f"attn_implementation: got {found!r} for a fused model, expected falloff.hf.unfuse(model) first"
            )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type, type], dict[str, Any]]:
        """The class is made while a program runs: pickled by what it is made of."""
        return _empty, (self.fusion, self.unfused), self.__dict__


_CLASSES: dict[tuple[Any, Any], Any] = {}


def fused_class(fusion: Any, original: Any) -> Any:
    """The subclass of an attention class that is fused: the same one each time."""
    if (fusion, original) not in _CLASSES:
        names = {"unfused": original, "fusion": fusion}
        _CLASSES[fusion, original] = type(f"Fused{original.__name__}", (fusion, original), names)
    return _CLASSES[fusion, original]


def check_forward(module: nn.Module, cls: type) -> None:
    """Raise ValueError where a class with a forward of its own would not be heard: the module has one in its place.

    What calls the forward that it took the place of, as accelerate's hooks do, is no such case: see `become`.
    """
    if "forward" in vars(module) and cls.forward is not type(module).forward and not _holders(module):  # type: ignore[attr-defined]
        raise ValueError(
            f"model: got a {type(module).__name__} whose forward was replaced by {vars(module)['forward']!r}, expected the "
            "module's own: change the model by falloff.hf first"
        )


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class of a module. What holds its old forward, as accelerate's hooks do, holds the new one then."""
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
    register()  # another process may have fused nothing yet
    made = fused_class(fusion, original)
    return made.__new__(made)
