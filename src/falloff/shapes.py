"""Shapes in type annotations: `Float[Tensor, "B H N D"]`, checked while the tests run.

jaxtyping is a development tool, not a dependency. It is used if the process has imported it before falloff, as
`tests/conftest.py` does. Otherwise an annotation is the bare tensor type.

Legend: B batch, H query heads, G key/value heads (H % G == 0), N queries, M keys, D head size, K values of a strip,
E extent of a band, S segments of a warp.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, Integer
else:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = Int = Integer = _Unchecked

__all__ = ["Bool", "Float", "Int", "Integer"]
