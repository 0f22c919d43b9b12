"""The random numbers of a case, which depend on its seed and number alone, and tensors in every memory layout."""

import numpy as np
import torch


class Draw:
    """A random generator: the same numbers for the same seed and case, whatever ran before."""

    def __init__(self, seed, case):
        self.random = np.random.default_rng([seed, case])
        torch.default_generator.manual_seed(int(self.random.integers(2**62)))  # for the initial parameters of schemes
        self.wide = torch.float32
        """The dtype of leaves that must not limit the precision of the call: float64 in a float64 call."""

    def chance(self, probability):
        return bool(self.random.random() < probability)

    def integer(self, low, high):
        return int(self.random.integers(low, high))

    def integers(self, low, high, *shape):
        shape = shape[0] if shape and isinstance(shape[0], tuple) else shape
        return self.random.integers(low, high, shape)

    def uniform(self, low, high, *shape):
        shape = shape[0] if shape and isinstance(shape[0], tuple) else shape
        return self.random.uniform(low, high, shape)

    def normal(self, *shape):
        return np.asarray(self.random.standard_normal(shape))

    def permuted(self, values):
        return self.random.permutation(values)

    def pick(self, options, weights=None):
        """One of the options, with these weights; of a dictionary, one of its values."""
        options = list(options.values()) if isinstance(options, dict) else options
        if weights is None:
            return options[self.integer(0, len(options))]
        ends = np.cumsum(weights)
        return options[int(np.searchsorted(ends, self.random.random() * ends[-1], side="right"))]

    def leaf(self, values, dtype, needed=True):
        """A leaf with these values, in a random memory layout."""
        return self.laid_out(torch.from_numpy(np.ascontiguousarray(values)).to(dtype)).requires_grad_(needed)

    def laid_out(self, tensor):
        """The same numbers with other strides and NaN in between, so that a kernel that reads beside the tensor is found."""
        kind = self.pick(["contiguous", "permuted", "sliced", "offset", "heads inside"], [5, 2, 2, 1, 2])
        if kind == "contiguous" or tensor.dim() == 0:
            return tensor
        filler = float("nan") if tensor.is_floating_point() else 1
        dims = tensor.dim()
        if kind == "heads inside" and dims == 4:
            order = [0, 2, 1, 3]
        elif kind == "permuted":
            order = self.random.permutation(dims).tolist()
        else:
            order = list(range(dims))
        step = [self.integer(1, 4) if kind == "sliced" else 1 for _ in range(dims)]
        before = [self.integer(0, 3) if kind == "offset" else 0 for _ in range(dims)]
        sizes = [before[d] + tensor.shape[d] * step[d] for d in range(dims)]
        memory = torch.full([sizes[d] for d in order], filler, dtype=tensor.dtype)
        view = memory.permute([order.index(d) for d in range(dims)])
        view = view[tuple(slice(before[d], before[d] + tensor.shape[d] * step[d], step[d]) for d in range(dims))]
        view.copy_(tensor)
        return view
