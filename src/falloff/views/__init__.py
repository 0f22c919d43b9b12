"""Looking at a bias: grids, curves, figures, buckets and computed properties.

`terminal` needs rich (extra `cli`), `curves` and `figures` need matplotlib (extra `plot`); each imports it when it is used.
"""

from falloff.views.buckets import Bucket, OffsetRange, bucket_table
from falloff.views.checks import WrongCell, check_grid
from falloff.views.curves import plot_curves
from falloff.views.figures import grid_figure
from falloff.views.grid_files import read_grid
from falloff.views.grid_text import parse_grid
from falloff.views.grids import BiasGrid, bias_grid
from falloff.views.html import grid_html, scheme_html
from falloff.views.properties import Properties, scheme_properties

__all__ = [
    "BiasGrid",
    "Bucket",
    "OffsetRange",
    "Properties",
    "WrongCell",
    "bias_grid",
    "bucket_table",
    "check_grid",
    "grid_figure",
    "grid_html",
    "parse_grid",
    "plot_curves",
    "read_grid",
    "scheme_html",
    "scheme_properties",
]
