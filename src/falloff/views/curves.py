"""The curves of a bias: its values by offset, for every head."""

from typing import TYPE_CHECKING

import torch

from falloff.offsets import check_count
from falloff.schemes.base import Scheme
from falloff.schemes.settings import title_of
from falloff.views.buckets import Bucketed
from falloff.views.content import refuse_without_content
from falloff.views.figures import empty_figure
from falloff.views.palette import head_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 8  # curves in the legend; the others are shades in between
_MOST_LENGTH = 2**20


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
    check_count("length", length, 1)
    if length > _MOST_LENGTH:
        raise ValueError(f"length: got {length}, expected at most {_MOST_LENGTH}")
    refuse_without_content(scheme)
    offsets = torch.arange(1 - length, length)
    with torch.no_grad():
        values = scheme.dense(1, 2 * length - 1, query_start=length - 1)[..., 0, :].flip(-1)
    past, future = values[:, length - 1 :], values[:, :length].flip(1)
    if bool((future == values[:, length - 1 : length]).all()) or torch.equal(past, future):
        offsets, values = offsets[length - 1 :], past

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
