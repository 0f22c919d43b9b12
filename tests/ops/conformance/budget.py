"""How far an implementation may be off: one budget for each tensor that a call gives.

Of output, log-sum-exp and every gradient, the root mean square error against the definition in float64 is at most

    2 * (the error of the definition in the call's own dtype) + unit * scale

- The definition in the call's own dtype is plain torch: what an implementation must keep up with.
- `scale`, of each tensor by itself, is the largest entry that it would have if nothing cancelled: of the output that of
  weights @ abs(value), and so on backwards; twice that for a parameter of a scheme, behind the scheme's own arithmetic.
  Where plain torch is right by luck, or exactly, this is what rounding costs.
- `unit` is 2 units in the last place of the sums' dtype, plus a quarter of the rounding of the log-sum-exp, which any
  attention pays that goes from forward to backward by way of it, as PyTorch's fused kernels do: it counts where a bias
  makes all scores of a row large. The log-sum-exp may be off by its own rounding, 4 times that; a leaf that is a single
  number by 8 times, for plain torch may be right by luck there.
  For bfloat16 and float16, plus one unit in the last place of what is stored; an eighth of one for a leaf of the bias, a
  sum of numbers that are rounded and not rounded so itself; none for the log-sum-exp.

In float64 the definition is no more exact than what is tested: there the largest error counts, and in place of an error of
plain torch the unit is sixteen times as large.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch

from falloff import Scheme, attention
from falloff.forms import form_from_tensors
from falloff.ops.call import sum_dtype

DROPOUT_SEED = 7


@dataclass
class Case:
    """A call of attention: what is passed, and the leaves of its bias."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: object = None
    leaves: tuple | list = ()
    settings: dict | None = None

    def __post_init__(self):
        """One leaf in two places has the sum of two gradients; in `exact` it would be two leaves."""
        if len({id(tensor) for tensor in (*self.inputs, *self.leaves)}) < 3 + len(self.leaves):
            raise ValueError("a tensor in two places: its gradients would be compared as their sum")

    @property
    def inputs(self):
        return [self.query, self.key, self.value]

    @property
    def names(self):
        """Of the tensors that `results_of` gives."""
        return ["output", "log-sum-exp", "query", "key", "value", *(f"bias leaf {i}" for i in range(len(self.leaves)))]

    def run(self, impl):
        """Output and log-sum-exp."""
        torch.manual_seed(DROPOUT_SEED)
        return attention(*self.inputs, self.bias, impl=impl, return_lse=True, **(self.settings or {}))

    def exact(self):
        """The same call in float64, sharing no memory."""
        inputs = [tensor.detach().double().requires_grad_() for tensor in self.inputs]
        return Case(*inputs, *raised(self.bias, self.leaves), self.settings)


def raised(bias, leaves):
    """The same bias in float64, and its leaves."""
    if bias is None:
        return None, []
    if isinstance(bias, Scheme):
        twin = copy.deepcopy(bias).double()
        return twin, list(twin.parameters())
    twins = {id(t): t.detach().double().requires_grad_(t.requires_grad) for t in bias.tensors}
    tensors = [twins[id(tensor)] for tensor in bias.tensors]
    return form_from_tensors(bias.kind, tensors, bias.numbers), [twins[id(leaf)] for leaf in leaves]


def sent_back(case, out, lse):
    """The gradients of output and log-sum-exp, in float64: every entry another number, which the call's dtype holds."""
    weights = torch.sin(torch.arange(out.numel(), dtype=torch.float64, device=out.device)).view(out.shape)
    of_lse = torch.where(lse == -torch.inf, 0.0, -lse.detach().double().sin())
    return weights.to(case.query.dtype).double(), of_lse.to(sum_dtype(case.query)).double()


def results_of(out, lse, leaves, sent):
    """Output, log-sum-exp and the gradients of leaves."""
    sent = [grad.to(tensor.dtype) for grad, tensor in zip(sent, (out, lse), strict=True)]
    grads = torch.autograd.grad((out, lse), leaves, sent, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [out.detach(), lse.detach(), *grads]


def _largest(tensor):
    tensor = tensor[tensor.isfinite()]
    return tensor.abs().max().item() if tensor.numel() else 0.0


def rms(tensor):
    return tensor.square().mean().sqrt().item() if tensor.numel() else 0.0


class Budget:
    """What a case gives by the definition, and how far off a variant may be."""

    def __init__(self, case):
        self.case = case
        self.half = torch.finfo(case.query.dtype).eps > 2**-20
        self.in_float64 = case.query.dtype == torch.float64
        exact = case if self.in_float64 else case.exact()
        out, lse = exact.run("reference")
        leaves = [*exact.inputs, *exact.leaves]
        self.sent = sent_back(case, out, lse)
        self.exact = results_of(out, lse, leaves, self.sent)
        self.scales = self._scales(exact, lse)
        lse = _largest(lse.detach())
        eps, stored = (torch.finfo(dtype).eps for dtype in (sum_dtype(case.query), case.query.dtype))
        unit = (32 + 4 * lse if self.in_float64 else 2 + lse / 4) * eps
        stored = stored if self.half else 0.0
        of_leaves = [unit * (8 if leaf.numel() == 1 else 1) + stored / 8 for leaf in case.leaves]
        # Of output, log-sum-exp, query, key, value and the leaves of the bias.
        self.units = [unit + stored, 4 * unit, *[unit + stored] * 3, *of_leaves]
        # Below what is normal, numbers may be flushed to 0.
        self.tiny = torch.finfo(sum_dtype(case.query)).smallest_normal

    @cached_property
    def plain(self):
        """The definition in the call's own dtype."""
        case = self.case
        return self.exact if self.in_float64 else self.results(*case.run("reference"))

    def results(self, out, lse):
        """What the budget is of, from the two that a variant gives."""
        return results_of(out, lse, [*self.case.inputs, *self.case.leaves], self.sent)

    def _scales(self, case, lse):
        """The largest entry of each result if nothing cancelled."""
        grad_out, grad_lse = self.sent
        values = case.value.detach().abs().requires_grad_()
        sizes, _ = Case(case.query.detach(), case.key.detach(), values, case.bias, settings=case.settings).run("reference")
        (of_values,) = torch.autograd.grad(sizes, values, grad_out.abs())
        # The gradient of a score is P * (dP - delta), delta = rowsum(P * dP) - dLSE: this is the most that a row adds up.
        row = 2 * (grad_out.abs() * sizes.detach()).sum(-1) + grad_lse.abs()
        row = torch.where(lse == -torch.inf, 0.0, row)
        # To a leaf that all heads share, they may add with both signs.
        signs = 1.0 - 2.0 * (torch.arange(lse.shape[1], device=lse.device) % 2)[:, None]
        leaves = [case.query, case.key, *case.leaves]
        both = [
            torch.autograd.grad(lse, leaves, grad, retain_graph=True, allow_unused=True, materialize_grads=True)
            for grad in (row, row * signs)
        ]
        query, key, *bias = (max(map(_largest, grads)) for grads in zip(*both, strict=True))
        chain = 2 if isinstance(case.bias, Scheme) else 1
        sizes = [_largest(sizes.detach()), 1.0, query, key, _largest(of_values), *(chain * size for size in bias)]
        return [
            size if place == 1 else max(size, _largest(result))
            for place, (size, result) in enumerate(zip(sizes, self.exact, strict=True))
        ]

    def hold(self, got):
        """Raise with the tensor's name and figures if `got`, all results or the first of them, goes beyond the budget."""
        assert len(got) in (2, len(self.exact))
        budgets = zip(self.case.names, self.exact, self.plain, self.units, self.scales, got, strict=False)
        for name, want, plain, unit, scale, tensor in budgets:
            assert tensor.dtype == plain.dtype, f"{name}: {tensor.dtype}, and {plain.dtype} of plain torch"
            finite = want.isfinite()
            assert torch.equal(finite, tensor.isfinite()), (
                f"{name}: finite where the definition is not, or the other way round"
            )
            torch.testing.assert_close(tensor[~finite].double(), want[~finite], equal_nan=True)
            error = tensor[finite].double() - want[finite]
            theirs = rms(plain[finite].double() - want[finite])
            most = 2 * theirs + unit * scale + self.tiny
            off = _largest(error) if self.in_float64 else rms(error)
            assert off <= most, (
                f"{name}: off by {off:.3g}, and may be by {most:.3g} = 2 * {theirs:.3g} of plain torch "
                f"+ {unit:.3g} * {scale:.3g}"
            )


def agree(case, variant):
    """Hold what a variant gives for a case against the definition."""
    with variant.chosen():
        budget = Budget(case)
        budget.hold(budget.results(*case.run(variant.impl)))
