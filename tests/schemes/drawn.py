"""What the tests of definitions share: the sizes of calls, and schemes off their initial values."""

import torch

# Square, a cache, more queries than keys, one query, starts before and beyond the default: past every trained length.
SIZES = [(9, 9, None), (3, 14, None), (11, 4, None), (1, 17, None), (4, 5, 30), (4, 6, 0), (3, 3, -2), (1, 1, None)]


def moved(make, by):
    """A new scheme in float64, each parameter moved by `by(parameter)`, so that a sign or a transposition shows."""
    scheme = make().double()
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter.add_(by(parameter))
    return scheme
