"""What the tests of definitions share: the sizes of calls, and schemes off their initial values."""

import re
from functools import partial

import torch

from falloff.schemes.settings import make as make_scheme
from falloff.schemes.settings import setting_parameters

# Square, a cache, more queries than keys, one query, starts before and beyond the default: past every trained length.
SIZES = [(9, 9, None), (3, 14, None), (11, 4, None), (1, 17, None), (4, 5, 30), (4, 6, 0), (3, 3, -2), (1, 1, None)]


def moved(make, by):
    """A new scheme in float64, each parameter moved by `by(parameter)`, so that a sign or a transposition shows."""
    scheme = make().double()
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter.add_(by(parameter))
    return scheme


def cases(definitions, schemes, others, heads, head_dim=None):
    """The cases of a test of definitions: the definition and how to make the scheme, by name.

    Args:
        definitions: the module with the definitions, each called as the scheme, with _ for -.
        schemes: these have a case each, with their default settings.
        others: how to make more cases, or these otherwise: a name begins with that of the scheme.
        heads, head_dim: of the former.
    """
    sizes = {} if head_dim is None else {"head_dim": head_dim}
    plain = {
        cls.name: partial(
            make_scheme, cls, heads, {name: size for name, size in sizes.items() if name in setting_parameters(cls)}
        )
        for cls in schemes
    }
    return {
        name: (getattr(definitions, re.split("[ ,]", name)[0].replace("-", "_")), make)
        for name, make in (plain | others).items()
    }
