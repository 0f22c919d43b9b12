"""How a fast kernel is held against the definition in float64, and the inputs that are hard for one."""

import copy

import torch
from torch.nn.functional import scaled_dot_product_attention

from falloff import Band, Scheme, Strip, attention
from ops import cases


def bias_of(name, heads, batch, num_queries, dtype):
    """As in cases, but a band's leaf is the band, which can be given in two dtypes."""
    bias, leaves = cases.bias_of(name, heads, batch, num_queries, dtype)
    if isinstance(bias, Band):
        values = bias.values.detach().requires_grad_()
        return Band(values), [values]
    return bias, leaves


def rms(tensor):
    return tensor.double().square().mean().sqrt().item() if tensor.numel() else 0.0


def raised(bias, leaves):
    """The same bias in float64, sharing no memory, and its leaves."""
    if bias is None:
        return None, []
    if isinstance(bias, Scheme):
        twin = copy.deepcopy(bias).double()
        return twin, list(twin.parameters())
    twins = {id(t): t.detach().double().requires_grad_(t.requires_grad) for t in bias.tensors}
    fields = {name: twins[id(getattr(bias, name))] for name in bias.tensor_names}
    if isinstance(bias, Strip):
        fields["start"] = bias.start
    return type(bias)(**fields), [twins[id(leaf)] for leaf in leaves]


def agree(query, key, value, bias, leaves, impl, **settings):
    """Errors against float64 within twice those of plain torch in float32 on the same input, plus 1e-6 of the largest.

    Plus what any attention pays that goes from forward to backward by way of the log-sum-exp, as PyTorch's own fused
    kernels do: its rounding, which counts where a bias makes all scores of a row large.
    """

    def all_of(inputs, bias, leaves, impl):
        torch.manual_seed(7)  # the same dropout
        out, lse = attention(*inputs, bias, impl=impl, return_lse=True, **settings)
        out, lse, *grads = cases.results(out, lse, [*inputs, *leaves])
        # The gradients of all that a bias is made of count as one: a single number may be right by luck.
        return [out, lse, *grads[:3], torch.cat([grad.flatten() for grad in [*grads[3:], torch.zeros(1)]])]

    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    exact = all_of(exact_inputs, *raised(bias, leaves), "reference")
    theirs = all_of([query, key, value], bias, leaves, "reference")
    ours = all_of([query, key, value], bias, leaves, impl)
    largest_lse = exact[1][exact[1].isfinite()].abs().max().item() if exact[1].isfinite().any() else 0.0
    scale = max(1.0, *(want[want.isfinite()].abs().max().item() for want in exact[:1] + exact[2:] if want.isfinite().any()))
    floor = (1e-6 + largest_lse * 2**-23) * scale
    # Of a bias's parameters, one may stand for sums of score gradients times thousands (KERPLE's n ** 2).
    floors = (floor, floor, floor, floor, floor, 4 * floor)
    for want, plain, got, floor in zip(exact, theirs, ours, floors, strict=True):
        finite = want.isfinite()
        assert torch.equal(finite, got.isfinite())
        torch.testing.assert_close(got[~finite].double(), want[~finite].double(), equal_nan=True)
        want, plain, got = want[finite], plain[finite], got[finite]
        assert rms(got - want) <= 2 * rms(plain - want) + floor


def error_at_most_twice_that_of_pytorch(name, impl, dtype, seeds=8, heads=4):
    """Root mean square error against float64, beside torch's attention in the same dtype with the dense bias.

    The gradients of all that a bias is made of count as one: a single number, such as that of FIRE's L, may be right by
    luck. Beside twice torch's error, 1e-6 of the largest entry of all.
    """
    causal = torch.ones(130, 130, dtype=torch.bool).tril()
    draws = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        low = cases.tensors(2, heads, heads, 130, 130, 32, dtype)
        bias, leaves = cases.bias_of(name, heads, 2, 130, torch.float32)

        def torchs(q, k, v, bias=bias):
            dense = torch.zeros(heads, 130, 130) if bias is None else bias.dense(130, 130).to(q.device)
            mask = torch.where(causal, dense, -torch.inf).to(q.dtype)
            return scaled_dot_product_attention(q, k, v, mask.expand(2, -1, -1, -1))

        def ours(q, k, v, bias=bias):
            return attention(q, k, v, bias, causal=True, impl=impl)

        def all_results(function, inputs, leaves=leaves):
            out = function(*inputs)
            grads = torch.autograd.grad((out.double() ** 2).sum(), [*inputs, *leaves], retain_graph=True)
            return [out, *grads[:3], *([torch.cat([grad.flatten() for grad in grads[3:]])] if leaves else [])]

        exact = all_results(torchs, [tensor.detach().double().requires_grad_() for tensor in low])
        draws.append([exact, all_results(torchs, low), all_results(ours, low)])
    floor = 1e-6 * max(result.abs().max().item() for exact, _, _ in draws for result in exact)
    for exact, theirs, got in zip(*(zip(*side, strict=True) for side in zip(*draws, strict=True)), strict=True):
        truth = torch.stack(exact).double()
        their_error, our_error = ((torch.stack(side).double() - truth).square().mean().sqrt() for side in (theirs, got))
        assert our_error <= 2 * their_error + floor


MASKS = {
    "none": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "causal window": {"causal": True, "window": 40},
    "query_start": {"causal": True, "query_start": 5},
    "far query_start": {"query_start": 400},
    "negative query_start": {"causal": True, "query_start": -3},
    "dropout": {"dropout_p": 0.3, "causal": True},
    "scales": {"scale": 0.7, "bias_scale": -1.3},
    "negative scale": {"scale": -0.3, "causal": True},
}


def hidden_keys_reach_nothing(impl, dtype, num_queries, head_size=18, **settings):
    """Results are the same bits whatever a key that key_mask hides holds, and its gradients are zero."""
    torch.manual_seed(2)
    query, key, value = cases.tensors(2, 4, 2, num_queries, 300, head_size, dtype)
    key_mask = torch.rand(2, 300) > 0.4
    key_mask[1, :70] = False  # a tile of which nothing is seen
    strip = torch.linspace(0, -30, 300).repeat(4, 1).requires_grad_()
    hidden = ~key_mask[:, None, :, None]

    def results_with(anything):
        leaves = [query, *(t.detach().masked_fill(hidden, anything).requires_grad_() for t in (key, value)), strip]
        out, lse = attention(*leaves[:3], Strip(strip), key_mask=key_mask, return_lse=True, impl=impl, **settings)
        if num_queries <= 4 and impl == "triton":  # decoding; its backward is that of any call
            return [out, lse]
        return cases.results(out, lse, leaves)

    expected = results_with(0.0)
    assert all(tensor.isfinite().all() for tensor in expected)
    for anything in (torch.nan, torch.inf, -torch.inf):
        got = results_with(anything)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        for grad in got[3:5]:
            assert (grad.masked_select(hidden) == 0).all()
    if len(expected) == 2:
        return
    with torch.no_grad():  # a row that is NaN reaches no hidden key either, and no other entry or key head
        query[0, 0, 0] = torch.nan
    out, _, _, *grads = results_with(torch.nan)[:5]
    assert out[0, 0, 0].isnan().all()
    assert out[1].isfinite().all()
    assert out[0, 2:].isfinite().all()
    for grad in grads:
        assert (grad.masked_select(hidden) == 0).all()
        assert grad[1].isfinite().all()
        assert grad[0, 1].isfinite().all()


def underflow_changes_nothing(impl, small, num_queries, num_keys):
    """Norms of queries and keys, or their product with the scale, underflow in float32, where scores do not.

    Two far keys have all the weight: their scores are 1500, and the bias at most that of `num_keys` offsets. Gradients are
    those of inputs before they are made small.
    """
    torch.manual_seed(5)
    query, key, value = torch.zeros(1, 2, num_queries, 16), torch.zeros(1, 2, num_keys, 16), torch.randn(1, 2, num_keys, 16)
    query[..., 0] = key[..., [3, 4], 0] = 1.0
    key[..., 1:] = torch.randn(1, 2, num_keys, 15)
    inputs = [query, key, value, falling(2, num_keys, 1.0).values]
    all_of = []
    for dtype, name in ((torch.float64, "reference"), (torch.float32, impl)):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        scale = 1500 / (small[0] * small[1])
        out, lse = attention(
            leaves[0] * small[0], leaves[1] * small[1], leaves[2], Strip(leaves[3]), scale=scale, return_lse=True, impl=name
        )
        all_of.append(cases.results(out, lse, leaves))
    for want, got in zip(*all_of, strict=True):
        assert (got - want).abs().max() <= 1e-3 * max(1.0, want.abs().max())


UNDERFLOWS = [(1e-23, 1.0), (1.0, 1e-23), (1e-17, 1e-17), (1e-30, 1e-5)]  # sizes of queries and keys


def falling(heads, length, slope):
    """A strip that falls by `slope` for each offset, as steep as wanted."""
    return Strip(-slope * torch.arange(float(length)).repeat(heads, 1).requires_grad_())


ADVERSARIES = {
    "late maximum": lambda k, v: k[..., 3, :].mul_(60),  # a far key whose score beats any bias
    "late maximum in one head": lambda k, v: k[:, 1, 40, :].mul_(200),
    "large norms": lambda k, v: k.mul_(8),
    "tiny norms": lambda k, v: k.mul_(1e-30),
    "large far values": lambda k, v: v[..., :100, :].mul_(1e4),
    "denormals": lambda k, v: k.mul_(1e-40),
}


FALLS = {
    "steep": lambda n: -n,
    "gentle": lambda n: -0.05 * n,
    "slow": lambda n: -0.02 * n,
    "rising again": lambda n: (n - 450).abs() * 0.4,
    "cliff": lambda n: torch.where(n < 300, 0.0, -18.0),
    "lower cliff": lambda n: torch.where(n < 300, 0.0, -25.0),
}
