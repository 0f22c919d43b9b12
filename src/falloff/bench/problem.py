"""The tensors of a case, the same for every contestant."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from falloff.bench.cases import Case
from falloff.forms import Form
from falloff.schemes import FIRE, ALiBi, KerpleLog, ProfileMixture, Sandwich, Scheme, T5Bias

_EXTENT = 256  # of a band
_STATE_DIM = 16
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
        return self.scheme if self.scheme is None or self.state is None else self.scheme(self.state)

    def dense(self, case: Case, device: torch.device) -> Tensor:
        """The bias as a tensor (1 or B, H, N, M)."""
        if self.scheme is None:
            return torch.zeros(1, case.heads, case.length, case.keys, device=device)
        if self.scheme.needs_content:
            content: dict[str, Any] = {"state": self.state}
            return self.scheme.dense(case.length, case.keys, **content)
        return self.scheme.dense(case.length, case.keys, device=device)[None]

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that have a gradient, by name."""
        states = {} if self.state is None else {"state": self.state}
        return states if self.scheme is None else {**states, **dict(self.scheme.named_parameters())}

    def double(self) -> "CaseBias":
        """The same in float64."""
        state = None if self.state is None else self.state.detach().double().requires_grad_(self.state.requires_grad)
        return CaseBias(None if self.scheme is None else copy.deepcopy(self.scheme).double(), state)


@dataclass(frozen=True, eq=False)
class Problem:
    """Query, key, value, the gradient of the output, and the bias."""

    case: Case
    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor
    bias: CaseBias

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value

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


def problem_of(case: Case, seed: int = 0) -> Problem:
    """The problem of a case: random, and determined by the seed. Restores torch's generator."""
    dtype = getattr(torch, case.dtype)
    queries = (case.batch, case.heads, case.length, case.head_size)
    keys = (case.batch, case.all_key_heads, case.keys, case.head_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        query, key, value, grad_out = (torch.randn(shape).to(dtype) for shape in (queries, keys, keys, queries))
        made_by, settings = scheme_of(case)
        scheme = None if made_by is None else made_by(**settings)
        state = None
        if scheme is not None and scheme.needs_content:
            state = 10 * torch.randn(case.batch, case.heads, case.length, _STATE_DIM)
    for tensor in (query, key, value, state):
        if tensor is not None:
            tensor.requires_grad_(case.training)
    return Problem(case, query, key, value, grad_out, CaseBias(scheme, state))
