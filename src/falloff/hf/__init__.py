"""falloff in models of Transformers: `fuse` models that have a bias; `swap` a scheme into models with other positions.

Needs the extra hf: pip install 'falloff[hf]'.
"""

from falloff.hf.fusing import FuseReport, fuse, unfuse
from falloff.hf.swapping import load, swap

__all__ = ["FuseReport", "fuse", "load", "swap", "unfuse"]
