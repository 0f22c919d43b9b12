"""Colours: one palette for terminal and figures, and a legible text colour on each."""

from collections.abc import Sequence

from falloff.views.buckets import Bucket
from falloff.views.grids import BiasGrid

# Five colours of viridis: even steps of lightness, which colour-blind readers can distinguish too.
SEQUENTIAL = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
# The same steps without its darkest, for curves on a dark ground.
_ON_DARK = ("#7fa8ff", "#35b5b0", "#5ec962", "#fde725")
# Keys in the future: a hue that viridis does not have.
_FUTURE = ("#8e0a3c", "#c2255c", "#e0568c", "#f08fb5", "#f9c9dc")


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def shade(ramp: Sequence[str], place: float) -> str:
    """The colour at a position 0 .. 1 of a ramp."""
    scaled = min(max(place, 0.0), 1.0) * (len(ramp) - 1)
    left = min(int(scaled), len(ramp) - 2)
    mixed = (
        round(a + (b - a) * (scaled - left)) for a, b in zip(_channels(ramp[left]), _channels(ramp[left + 1]), strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_colour(background: str) -> str:
    """Black or white, whichever has more contrast on this background (WCAG 2 relative luminance; at least 4.5 to 1).

    >>> text_colour("#440154"), text_colour("#fde725")
    ('#ffffff', '#000000')
    """
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(background))
    ]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"


def bucket_colours(buckets: Sequence[Bucket]) -> dict[int, str]:
    """The colour of each bucket, in order from near to far; past and future have different hues."""
    colours = {}
    for ramp, future in ((SEQUENTIAL, False), (_FUTURE, True)):
        shown = [bucket.bucket for bucket in buckets if bucket.in_future == future]
        for place, bucket in enumerate(shown):
            colours[bucket] = shade(ramp, place / max(len(shown) - 1, 1))
    return colours


class GridColours:
    """The colour of each cell of a grid.

    Buckets are coloured in order, from near to far; past and future have different hues. Values use the whole of one ramp,
    from the lowest to the highest: 0 is no value of its own, since softmax cancels a constant.

    >>> from falloff import T5Bias
    >>> from falloff.views.grids import bias_grid
    >>> GridColours(bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 6))(0)
    '#440154'
    """

    def __init__(self, grid: BiasGrid) -> None:
        self._bucket_colours = bucket_colours(grid.legend)
        values = [float(value) for value in grid.visible]
        self.low, self.high = min(values), max(values)
        self.ramp: tuple[str, ...] = SEQUENTIAL

    def __call__(self, cell: int | float) -> str:
        if cell in self._bucket_colours:
            return self._bucket_colours[int(cell)]
        return shade(self.ramp, (cell - self.low) / (self.high - self.low) if self.high > self.low else 1.0)


def head_colours(num_heads: int, *, dark: bool = False) -> list[str]:
    """A colour for the curve of each head, none too pale to see on white or, if `dark`, too dark to see on black.

    >>> head_colours(1), head_colours(2, dark=True)
    (['#440154'], ['#7fa8ff', '#fde725'])
    """
    ramp = _ON_DARK if dark else SEQUENTIAL[:-1]
    return [shade(ramp, head / max(num_heads - 1, 1)) for head in range(num_heads)]
