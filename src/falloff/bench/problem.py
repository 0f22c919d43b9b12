"""The tensors of a case, the same for every contestant."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from falloff.bench.cases import CONTENT, Case
from falloff.forms import Factored, Form, Potential
from falloff.schemes import FIRE, ALiBi, KerpleLog, ProfileMixture, Sandwich, Scheme, T5Bias

_EXTENT = 256  # of a band
_STATE_DIM, _INKLING = 16, 1024  # Inkling's profiles and their extent
_CLASSES: dict[str, type[Scheme] | None] = {
    "none": None,
    "t5": T5Bias,
    "alibi": ALiBi,
    "kerple-log": KerpleLog,
    "sandwich": Sandwich,
    "fire": FIRE,
    "band": ProfileMixture,
}


@dataclass(frozen=True, eq=False)
class CaseBias:
    """A scheme or None, and the states (B, H, N, R) if its bias depends on content."""

    scheme: Scheme | None
    state: Tensor | None

    def for_call(self) -> Scheme | Form | None:
        """The bias for `falloff.attention`. Called within each timed call, since a user pays for it too."""
        if self.scheme is None or self.state is None:
            return self.scheme
        form = self.scheme(self.state)
        return form.to_band() if isinstance(form, Factored) else form

    def dense(self, case: Case, device: torch.device) -> Tensor:
        """The bias as a tensor (1 or B, H, N, M)."""
        if self.scheme is None:
            return torch.zeros(1, case.heads, case.length, case.keys, device=device)
        if self.scheme.needs_content:
            content: dict[str, Any] = {"state": self.state}
            return self.scheme.dense(case.length, case.keys, **content)
        return self.scheme.dense(case.length, case.keys, device=device)[None]

    def inputs(self) -> list[Tensor]:
        """Its tensors that are no parameters."""
        return [] if self.state is None else [self.state]

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have a gradient, by name."""
        states = {} if self.state is None else {"state": self.state}
        return states if self.scheme is None else {**states, **dict(self.scheme.named_parameters())}

    def of_rows(self, rows: slice) -> "CaseBias":
        """The bias of some of the query rows."""
        return self if self.state is None else replace(self, state=self.state[:, :, rows])

    def double(self) -> "CaseBias":
        """The same in float64."""
        state = None if self.state is None else self.state.detach().double().requires_grad_(self.state.requires_grad)
        return CaseBias(None if self.scheme is None else copy.deepcopy(self.scheme).double(), state)


@dataclass(frozen=True, eq=False)
class ContentBias:
    """A bias that depends on content: its tensors, and how a call makes its form of them."""

    tensors: dict[str, Tensor]
    make: Callable[[dict[str, Tensor]], Form]

    def for_call(self) -> Form:
        """The form for `falloff.attention`, made within each timed call."""
        return self.make(self.tensors)

    def dense(self, case: Case, device: torch.device) -> Tensor:
        """The bias as a tensor (B, H, N, M)."""
        return self.for_call().dense(case.length, case.keys)

    def inputs(self) -> list[Tensor]:
        """Its tensors."""
        return list(self.tensors.values())

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have a gradient, by name."""
        return self.tensors

    def of_rows(self, rows: slice) -> "ContentBias":
        """The bias of some of the query rows, with tensors of no gradient."""
        form = self.for_call()
        name = "states" if isinstance(form, Factored) else "row"
        part = replace(form, **{name: getattr(form, name)[:, :, rows]})
        return ContentBias({}, lambda _: part)

    def double(self) -> "ContentBias":
        """The same in float64."""
        doubles = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in self.tensors.items()}
        return ContentBias(doubles, self.make)


@dataclass(frozen=True, eq=False)
class Problem:
    """Query, key, value, the gradient of the output, and the bias."""

    case: Case
    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor
    bias: CaseBias | ContentBias

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of the bias, or None."""
        return self.bias.scheme if isinstance(self.bias, CaseBias) else None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have a gradient, by name; none if the case does not train."""
        if not self.case.training:
            return {}
        return {"query": self.query, "key": self.key, "value": self.value, **self.bias.leaves()}

    def double(self) -> "Problem":
        """The same in float64."""
        query, key, value = (t.detach().double().requires_grad_(t.requires_grad) for t in self.inputs)
        return replace(self, query=query, key=key, value=value, grad_out=self.grad_out.double(), bias=self.bias.double())

    def hidden(self) -> Tensor | None:
        """(N, M): -inf for keys that the causal mask hides, else 0. None without a causal mask."""
        if not self.case.causal:
            return None
        shape = (self.case.length, self.case.keys)
        return torch.full(shape, -torch.inf).triu(1 + self.case.keys - self.case.length)


def scheme_of(case: Case) -> tuple[type[Scheme] | None, dict[str, Any]]:
    """The class of a case's scheme and its arguments; None without bias."""
    settings: dict[str, dict[str, Any]] = {
        # std 1, as in a trained T5 bias: with T5's small initial values an error would not show.
        "t5": {"bidirectional": not case.causal and case.cache is None, "std": 1.0},
        "fire": {"init_L": case.keys / 4},  # rows beyond this threshold are not Toeplitz
        "band": {"state_dim": _STATE_DIM, "extent": _EXTENT},
    }
    return _CLASSES[case.bias], {"num_heads": case.heads, **settings.get(case.bias, {})}


def _content_bias(case: Case) -> ContentBias:
    """Random tensors from which a call makes its form."""
    rows, keys = (case.batch, case.heads, case.length), (case.batch, case.heads, case.keys)
    if case.bias == "profiles":
        tensors = {"states": 10 * torch.randn(*rows, _STATE_DIM), "profiles": 0.02 * torch.randn(_STATE_DIM, _INKLING)}
        return ContentBias(tensors, lambda own: Factored(own["states"], own["profiles"].T[None]))
    if case.bias == "transformer-xl":
        size, scale, lowest = case.head_size, case.head_size**-0.5, 1 - case.keys
        tensors = {"states": torch.randn(*rows, size), "table": torch.randn(case.heads, case.length + case.keys - 1, size)}
        return ContentBias(tensors, lambda own: Factored(own["states"] * scale, own["table"], lowest, "clamp"))
    # A key's logarithm of its gate is 0.05 below 0 on average, as in a trained model.
    tensors = {"log_gates": 0.05 * torch.rand(keys).log_()}

    def forgetting(own: dict[str, Tensor]) -> Potential:
        total = own["log_gates"].cumsum(-1)
        return Potential(total[..., case.keys - case.length :], -total)

    return ContentBias(tensors, forgetting)


def problem_of(case: Case, seed: int = 0) -> Problem:
    """The problem of a case: random, and determined by the seed. Restores torch's generator."""
    dtype = getattr(torch, case.dtype)
    queries = (case.batch, case.heads, case.length, case.head_size)
    keys = (case.batch, case.all_key_heads, case.keys, case.head_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        query, key, value, grad_out = (torch.randn(shape).to(dtype) for shape in (queries, keys, keys, queries))
        bias = _content_bias(case) if case.bias in CONTENT else _scheme_bias(case)
    for tensor in (query, key, value, *bias.inputs()):
        tensor.requires_grad_(case.training)
    return Problem(case, query, key, value, grad_out, bias)


def _scheme_bias(case: Case) -> CaseBias:
    made_by, settings = scheme_of(case)
    scheme = None if made_by is None else made_by(**settings)
    if scheme is None or not scheme.needs_content:
        return CaseBias(scheme, None)
    return CaseBias(scheme, 10 * torch.randn(case.batch, case.heads, case.length, _STATE_DIM))
