"""What the heat maps of the page share: their colours and the bar that names them."""

from collections.abc import Sequence
from typing import Any

from falloff.views.palette import SEQUENTIAL


def heat_trace(cells: Sequence[Sequence[float | None]], hover: str, ramp: Sequence[str] = SEQUENTIAL) -> dict[str, Any]:
    """A heat map of Plotly. None is a blank cell."""
    return {
        "type": "heatmap",
        "z": cells,
        "colorscale": [[place / (len(ramp) - 1), colour] for place, colour in enumerate(ramp)],
        "hoverongaps": False,
        "hovertemplate": hover + "<extra></extra>",
        "colorbar": {"orientation": "h", "thickness": 10, "y": -0.02, "yanchor": "top", "outlinewidth": 0, "nticks": 5},
    }
