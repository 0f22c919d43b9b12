"""torch.compile and torch.export. Run by test_torch_contract.py in a process without shape checks, which break a graph."""

import pytest
import torch
import torch._dynamo.testing

from falloff import FIRE, SCHEMES, ALiBi, Factored, Potential, ProfileMixture, Strip, Sum, T5Bias, attention
from ops.cases import bias_of, tensors

WITHOUT_CONTENT = [name for name, scheme in SCHEMES.items() if not scheme.needs_content]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["none", *WITHOUT_CONTENT, "fire beyond L", "band"])
def test_compile_to_one_graph(name, dynamic):
    """Forward and backward in one graph; with dynamic lengths no further graph for further lengths."""
    torch._dynamo.reset()
    scheme = ProfileMixture(4, 3, 5) if name == "band" else None
    if name != "band":
        scheme, _ = bias_of(name, 4, 2, 1, torch.float32) if "fire" in name or name == "none" else (SCHEMES[name](4), None)
    parameters = [] if scheme is None else list(scheme.parameters())

    def run(query, key, value, state):
        bias = scheme(state).to_band() if name == "band" else scheme
        return attention(query, key, value, bias, causal=True)

    # aot_eager traces forward and backward as inductor does, without minutes of code generation.
    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (11, 18, 25) if dynamic else (11,):
        inputs = [*tensors(2, 4, 2, length, length, 8, torch.float32), torch.randn(2, 4, length, 3)]
        with torch.compiler.set_stance("default" if length == 11 else "fail_on_recompile"):
            both = [function(*inputs) for function in (run, compiled)]
        grads = [torch.autograd.grad(out.sin().sum(), [*inputs[:3], *parameters], allow_unused=True) for out in both]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_a_sum_of_forms_and_a_sink(dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    of_query, of_key, strip = (torch.randn(*shape, requires_grad=True) for shape in ((1, 9, 3), (4, 9, 3), (4, 5)))

    def run(query, key, value, states, key_states, potential, sink):
        bias = Factored(states, of_query, -3) + Factored(key_states, of_key, -4, "clamp", "key")
        bias = Sum([bias, Potential(potential, -potential), Strip(strip, -2)])
        return attention(query, key, value, bias, causal=True, sink=sink)

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (11, 18, 25) if dynamic else (11,):
        shapes = ((2, 4, length, 3), (2, 4, length, 3), (2, 4, length), (4,))
        inputs = [*tensors(2, 4, 2, length, length, 8, torch.float32), *(torch.randn(*shape) for shape in shapes)]
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.compiler.set_stance("default" if length == 11 else "fail_on_recompile"):
            both = [function(*inputs) for function in (run, compiled)]
        grads = [torch.autograd.grad(out.sin().sum(), [*inputs, of_query, of_key, strip]) for out in both]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.needs_content])
def test_compile_schemes_with_content_and_their_sums(name, dynamic):
    """In one graph, alone and added to a scheme; with dynamic lengths no further graph for further lengths."""
    torch._dynamo.reset()
    scheme = SCHEMES[name](4, **({} if name in ("forgetting", "cable", "profile-mixture") else {"head_dim": 8}))
    alibi = ALiBi(4)

    def run(query, key, value, states):
        form = scheme(*(states[name] for name in scheme.content))
        return [attention(query, key, value, bias, causal=True) for bias in (form, alibi + form)]

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (11, 18, 25) if dynamic else (11,):
        query, key, value = tensors(2, 4, 4, length, length, 8, torch.float32)
        states = {
            "query": query,
            "key": key,
            "hidden": torch.randn(2, length, 32),
            "gates": torch.randn(2, 4, length),
            "state": torch.randn(2, 4, length, 16),
        }
        with torch.compiler.set_stance("default" if length == 11 else "fail_on_recompile"):
            both = [function(query, key, value, states) for function in (run, compiled)]
        leaves = [query, key, value, *scheme.parameters()]
        grads = [torch.autograd.grad(sum(out.sin().sum() for out in outs), leaves, allow_unused=True) for outs in both]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WITHOUT_CONTENT)
def test_compile_takes_no_form_that_a_scheme_keeps(name):
    torch._dynamo.reset()
    scheme = SCHEMES[name](4).requires_grad_(False)
    compiled = torch.compile(lambda: scheme(3, 40).dense(3, 40), fullgraph=True, backend="eager")
    for _ in range(2):
        scheme(3, 40)  # keeps it
        for parameter in scheme.parameters():
            parameter.data.add_(0.1)
        torch.testing.assert_close(compiled(), scheme.dense(3, 40), rtol=1e-5, atol=1e-6)
        assert compiled() is not compiled()


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 4, "bias_scale": 0.5, "scale": 0.3},
        {"key_mask": True, "dropout_p": 0.1},
        {"document_ids": True},
        {"query_start": 3},
        {"return_lse": True, "causal": False},
    ],
    ids=str,
)
def test_compile_with_every_argument(settings):
    torch._dynamo.reset()
    bias = FIRE(4, init_L=4)
    masks = {"key_mask": torch.arange(9) > torch.tensor([[2], [0]]), "document_ids": torch.arange(9).expand(2, -1) // 4}
    settings = {"causal": True, **settings, **{name: mask for name, mask in masks.items() if name in settings}}

    def run(query, key, value):
        return attention(query, key, value, bias, **settings)

    inputs = tensors(2, 4, 2, 9, 9, 8, torch.float32)
    leaves = [*inputs, *bias.parameters()]
    both = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        out = function(*inputs)
        loss = sum(
            torch.where(part == -torch.inf, 0.0, part).sin().sum() for part in (out if isinstance(out, tuple) else (out,))
        )
        both.append([loss, *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_compile_with_inductor():
    torch._dynamo.reset()
    bias = T5Bias(4)

    def run(query, key, value, key_mask):
        return attention(query, key, value, bias, causal=True, key_mask=key_mask, dropout_p=0.1)

    compiled = torch.compile(run, fullgraph=True)
    inputs = tensors(2, 4, 2, 11, 11, 8, torch.float32)
    key_mask = torch.ones(2, 11, dtype=torch.bool)
    out = compiled(*inputs, key_mask)
    grads = torch.autograd.grad(out.sum(), [*inputs, bias.weight])
    assert all(torch.isfinite(t).all() for t in (out, *grads))


def test_export():
    class Attend(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = FIRE(2, init_L=4)

        def forward(self, query, key, value):
            return attention(query, key, value, self.bias, causal=True)

    module = Attend()
    inputs = [tensor.detach() for tensor in tensors(1, 2, 2, 9, 9, 4, torch.float32)]
    length = torch.export.Dim("length", min=2)
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=({2: length},) * 3)
    longer = [tensor.detach() for tensor in tensors(1, 2, 2, 14, 14, 4, torch.float32)]
    torch.testing.assert_close(program.module()(*longer), module(*longer))


LENGTHS = (11, 18, 25, 7, 40, 33, 64, 65, 9, 50, 13, 29)
MASKS = {
    "causal": lambda length: {"causal": True},
    "window": lambda length: {"causal": True, "window": 5},
    "key_mask": lambda length: {"key_mask": torch.arange(length) > torch.tensor([[2], [0]])},
    "one key_mask of integers": lambda length: {"key_mask": (torch.arange(length) > 2).long()[None]},
    "document_ids": lambda length: {"document_ids": (torch.arange(length) // 4).expand(2, -1)},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["none", *WITHOUT_CONTENT, "t5 far", "band"])
def test_two_compilations_for_twelve_lengths(name, mask):
    """Once for the first length and once for all others, in training. At eed457e masks took one for each length."""
    torch._dynamo.reset()
    scheme = None
    if name == "band":
        scheme = ProfileMixture(4, 3, 5)
    elif name == "t5 far":  # a reach beyond what a strip always covers
        scheme = T5Bias(4, max_distance=100_000)
    elif name != "none":
        scheme = SCHEMES[name](4)

    def run(query, key, value, state, masks):
        bias = scheme(state).to_band() if name == "band" else scheme
        return attention(query, key, value, bias, **masks)

    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(run, fullgraph=True, backend=counter)
    for length in LENGTHS:
        inputs = [*tensors(2, 4, 2, length, length, 8, torch.float32), torch.randn(2, 4, length, 3)]
        both = [function(*inputs, MASKS[mask](length)) for function in (run, compiled)]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6)
        both[1].sum().backward()
    assert counter.frame_count <= 2


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # dynamo's own
def test_forward_mode_is_refused_by_a_compiler_too():
    """Compiled, the operator's tangents were zeros and None."""
    torch._dynamo.reset()
    query, key, value = (t.detach() for t in tensors(1, 2, 2, 5, 5, 4, torch.float32))

    def attend(query):
        return attention(query, key, value)

    compiled = torch.compile(lambda query: torch.func.jvp(attend, (query,), (query,)), backend="eager")
    with pytest.raises(ValueError, match="expected impl='reference' for forward-mode"):
        compiled(query)
