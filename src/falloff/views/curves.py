"""The curves of a bias: its values by offset, for every head."""

from typing import TYPE_CHECKING

from falloff.schemes.base import Scheme
from falloff.schemes.settings import title_of
from falloff.views.buckets import Bucketed
from falloff.views.by_offset import curves_by_offset
from falloff.views.figures import empty_figure
from falloff.views.palette import head_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 8  # curves in the legend; the others are shades in between


def plot_curves(scheme: Scheme, length: int = 256) -> "Figure":
    """Draw the bias of every head by offset, as one query sees it.

    The query has position length - 1, so offsets run from 0 to length - 1. If keys in the future have a bias of their own,
    as in bidirectional schemes and TISA, as many negative offsets are drawn too.

    Args:
        scheme: any scheme whose bias does not depend on content.
        length: how many offsets, 1 .. 2^20.

    Returns:
        A matplotlib figure, without pyplot: `figure.savefig(...)`, or let a notebook show it.

    Raises:
        ValueError: for a length out of range, or a bias that depends on content.
        ImportError: without matplotlib (extra `plot`).

    >>> from falloff import ALiBi
    >>> plot_curves(ALiBi(8), 64).axes[0].get_xlabel()
    'offset (query position - key position)'
    """
    found = curves_by_offset(scheme, length)
    offsets, values = found.offsets, found.values
    figure = empty_figure(8, 4.5)
    axes = figure.add_subplot()
    num_heads = values.shape[0]
    named = {round(place * (num_heads - 1) / max(min(num_heads, _MOST_NAMED) - 1, 1)) for place in range(_MOST_NAMED)}
    for head, colour in enumerate(head_colours(num_heads)):
        axes.plot(
            offsets.tolist(),
            values[head].tolist(),
            color=colour,
            linewidth=1.6,
            # Steps for buckets: a slanted line between two offsets would show values that no offset has.
            drawstyle="steps-mid" if isinstance(scheme, Bucketed) else "default",
            label=f"head {head}" if head in named else None,
        )
    axes.set_xlabel("offset (query position - key position)")
    axes.set_ylabel("bias added to the score")
    row = "" if scheme.toeplitz else f", seen from position {length - 1}"
    axes.set_title(title_of(scheme) + row, loc="left", fontsize=11)
    axes.margins(x=0.01)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
