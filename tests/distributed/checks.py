"""What ranks are held to beside the table of calls: errors, meshes, training, memory. Each runs on all ranks of a group."""

import re
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distributed.cases import METHODS
from distributed.ranks import refused, together
from falloff import FIRE, ALiBi, ForgettingBias, ShawBias, Strip, T5Bias, TransformerXLBias, Warp, attention
from falloff import distributed as context_parallel
from falloff.distributed import collectives
from falloff.forms import Factored
from ops.cases import tensors

ALL = {}


def check(*worlds):
    """A decorator: the function runs on groups of these sizes."""

    def kept(function):
        ALL[function.__name__.replace("_", " ")] = (function, worlds)
        return function

    return kept


def _inputs(length=23, heads=4, groups=2, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return tensors(2, heads, groups, length, length, 6, dtype)


def _shards(inputs, order="contiguous", group=None):
    own = (context_parallel.shard(tensor.detach(), 2, group, order) for tensor in inputs)
    return [tensor.clone().requires_grad_() for tensor in own]


def _close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def _wrong(rank):
    """Calls that must raise on all ranks, with the message that each of them gets."""
    query, key, value = _shards(_inputs())
    first, second = rank == 0, rank == 1
    call = partial(context_parallel.attention, query, key, value)
    short = context_parallel.attention

    def strip(size):
        return Strip(torch.zeros(4, size, dtype=torch.float64))

    def factored(start):
        states = torch.zeros(*query.shape[:3], 5, dtype=torch.float64)
        return Factored(states, torch.zeros(1, 3, 5, dtype=torch.float64), start)

    def warp(first):
        a = torch.full((query.shape[2],), first, dtype=torch.float32)
        return Warp(torch.arange(23.0), a, torch.ones(0), *torch.zeros(2, 4, 1))

    singles = [tensor.detach().float() for tensor in (query, key, value)]
    three = query.repeat(1, 1, 1, 1)[:, :3]
    yield partial(call, causal=first), r"causal: got True on rank 0 and False on rank 1 of the group, expected the same"
    yield partial(call, window=0 if second else 3), r"window: got 0, expected None or an int of at least 1"
    yield partial(call, window=rank + 1), r"window: got 1 on rank 0 and 2 on rank 1"
    yield partial(call, scale=0.5 if first else None), r"scale: got 0.5 on rank 0 and None on rank 1"
    yield partial(call, impl="cpu" if first else "auto"), r"impl: got cpu on rank 0"
    yield partial(call, method="rings"), r"method: got 'rings', expected 'auto' or one of"
    yield partial(call, method=METHODS[rank % 3]), r"method: got ulysses on rank 0 and all-gather on rank 1"
    yield partial(call, order="striped"), r"order: got 'striped', expected one of 'contiguous', 'zigzag'"
    yield partial(call, bias=ALiBi(4) if first else None), r"bias: got ALiBi of 4 heads on rank 0 and None on rank 1"
    yield partial(call, bias=T5Bias(4 if first else 2)), r"bias: got T5Bias of 4 heads, .* and T5Bias of 2"
    yield partial(call, bias=ALiBi(3)), r"bias: got 3 heads, expected the 4 heads of query"
    yield partial(call, bias=ALiBi), r"bias: got ALiBi, a class"
    yield partial(call, bias=ShawBias(4, 6)), r"bias: got a ShawBias without states"
    yield partial(call, bias=strip(rank + 2)), r"bias: got strip of values torch.float64 \(4, 2\); \[0\] on rank 0"
    yield partial(call, bias=factored(rank)), r"bias: got factored of .* on rank 0 and"
    falls = partial(short, *singles, warp(-1.0 if second else 1.0), impl="cpu", causal=True)
    for method in METHODS:
        yield partial(falls, method=method), r"impl: got 'cpu', which cannot serve this call: it takes a warp only if"
    yield partial(call, dropout_p=0.1, method="ring"), r"dropout_p: got 0.1, expected 0 in a ring"
    yield partial(short, query, key.float(), value), r"key: got dtype torch.float32, expected query's dtype torch.float64"
    yield partial(short, query.float() if second else 3, key, value), r"query: got int, expected a tensor"
    yield partial(short, three if first else query, key, value), r"key: got 2 heads"
    yield partial(short, query.detach() if first else query, key, value), r"query: got .*D = 6\) on rank 0 and .*gradient on"
    mask = torch.ones(2, key.shape[2], dtype=torch.bool)
    yield partial(call, key_mask=mask if first else None), r"key_mask: got a mask on rank 0 and None on rank 1"
    yield partial(call, key_mask=mask[:, 1:]), r"key_mask: got torch.bool"
    yield partial(call, sink=torch.zeros(4) if second else None), r"sink: got None on rank 0"
    yield partial(call, group=3), r"group: got int, expected None, a process group"
    cut = [tensor[:, :, 3 if first else 0 :] for tensor in (query, key, value)]
    yield partial(short, *cut, order="zigzag"), r"query: got stretches of .* positions on the ranks, expected"
    yield partial(context_parallel.unshard, query.float() if first else query, 2), r"tensor: got .* on rank 0 and"
    yield partial(context_parallel.unshard, query, 4), r"dim: got 4, expected a dimension of a tensor of shape"


@check(2, 3)
def every_rank_raises_the_same_error(world):
    for call, expected in _wrong(dist.get_rank()):
        found = refused(call)
        for message in found:
            assert re.search(expected, message), f"{message!r} is not {expected!r}"
        assert len({message.partition(" (raised on")[0] for message in found}) == 1, found


@check(3)
def ulysses_refuses_more_ranks_than_heads_and_auto_takes_all_gather(world):
    inputs = _shards(_inputs(heads=2, groups=1))
    found = refused(partial(context_parallel.attention, *inputs, method="ulysses"))
    assert set(found) == {
        "method: got 'ulysses' on 3 ranks, expected 'all-gather' or 'ring' for more ranks than the 2 heads"
    }
    whole = attention(*_inputs(heads=2, groups=1), ALiBi(2))
    _close(context_parallel.attention(*inputs, ALiBi(2)), context_parallel.shard(whole, 2))


@check(2, 4)
def mesh_has_one_dimension_for_the_sequence(world):
    """Of 2 x 2 ranks, two pairs have each a batch of their own."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "cp"))
    message = r"group: got a mesh of 2 dimensions, expected one dimension of it, such as mesh\['cp'\]"
    for method in METHODS:
        whole = _inputs(seed=mesh["dp"].get_local_rank())
        own = _shards(whole, "zigzag", mesh["cp"])
        bias = T5Bias(4, 6, 9, std=1.0).double()
        with torch.no_grad():
            want = attention(*whole, bias, causal=True, impl="blockwise")
            got = context_parallel.attention(*own, bias, group=mesh["cp"], method=method, order="zigzag", causal=True)
        _close(got, context_parallel.shard(want, 2, mesh["cp"], "zigzag"))
        assert all(re.match(message, one) for one in refused(partial(context_parallel.attention, *own, group=mesh)))


@check(2)
def only_members_of_a_group_may_call(world):
    alone = dist.new_group([0])
    own = _inputs()
    if dist.get_rank() == 0:
        _close(context_parallel.attention(*own, ALiBi(4), group=alone), attention(*own, ALiBi(4)))
    else:
        try:
            context_parallel.attention(*own, ALiBi(4), group=dist.GroupMember.NON_GROUP_MEMBER)
        except ValueError as error:
            assert str(error).startswith("group: got")  # noqa: PT017
        else:
            raise AssertionError("no error")


@check(2, 3)
def the_same_bits_come_again(world):
    for method in METHODS:
        found = []
        for _ in range(2):
            own = _shards(_inputs(dtype=torch.float32), "zigzag")
            bias = FIRE(4, width=6, init_L=4.5, init_c=0.5)
            out = context_parallel.attention(*own, bias, method=method, order="zigzag", causal=True)
            torch.manual_seed(5)
            leaves = [*own, *bias.parameters()]
            found.append([out, *torch.autograd.grad(out, leaves, torch.randn_like(out), allow_unused=True)])
        assert all(one is other or torch.equal(one, other) for one, other in zip(*found, strict=True)), method


@check(3)
def hidden_keys_may_be_nan(world):
    torch.manual_seed(0)
    query, key, value = _inputs()
    seen = torch.rand(2, 23) > 0.5
    want = attention(query, key, value, ALiBi(4), key_mask=seen)
    hidden = ~seen[:, None, :, None]
    whole = [query, key.masked_fill(hidden, torch.nan), value.masked_fill(hidden, torch.nan)]
    for method in METHODS:
        own, mask = _shards(whole), context_parallel.shard(seen, 1)
        out = context_parallel.attention(*own, ALiBi(4), method=method, key_mask=mask)
        _close(out, context_parallel.shard(want, 2))
        for grad in torch.autograd.grad(out.sum(), own):
            assert grad.isfinite().all()


@check(2)
def batch_may_be_empty(world):
    query, key, value = (tensor.detach()[:0].requires_grad_() for tensor in _shards(_inputs()))
    ids = torch.zeros(0, query.shape[2], dtype=torch.int64)
    for method in METHODS:
        dropout_p = 0.0 if method == "ring" else 0.3
        out = context_parallel.attention(
            query, key, value, ALiBi(4), method=method, document_ids=ids, dropout_p=dropout_p, impl="blockwise"
        )
        assert out.shape == query.shape
        assert torch.autograd.grad(out.sum(), key)[0].shape == key.shape


@check(2)
def autocast_chooses_the_dtype(world):
    for method in METHODS:
        own = _shards(_inputs(dtype=torch.float32))
        with torch.autocast("cpu", torch.bfloat16):
            out = context_parallel.attention(*own, ALiBi(4), method=method)
        assert out.dtype == torch.bfloat16
        assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(out.float().sum(), own))


@check(2)
def second_derivatives_are_refused(world):
    for method in METHODS:
        own = _shards(_inputs())
        out = context_parallel.attention(*own, ALiBi(4), method=method, impl="reference")
        (grad,) = torch.autograd.grad(out.sum(), own[2], create_graph=True)
        try:
            grad.sum().backward()
        except RuntimeError:
            continue
        raise AssertionError(method)


class _Sizes(TorchDispatchMode):
    """The largest tensor that an operator makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return made


@check(4)
def in_a_ring_no_rank_holds_all_keys(world):
    """Forward and backward. With one query head of a key head, and few rows in a tile, no other tensor is as large."""
    length = 64 * world
    whole = [torch.randn(1, 2, length, 32) for _ in range(3)]
    largest = {}
    for method in ("ring", "all-gather"):
        own = _shards(whole)
        with _Sizes() as sizes:
            out = context_parallel.attention(*own, T5Bias(2, 6, 9), method=method, causal=True, impl="blockwise")
            out.sum().backward()
        largest[method] = sizes.largest
    keys = whole[1].numel()
    assert largest["all-gather"] >= keys
    assert largest["ring"] < keys, largest


@check(2, 4)
def bytes_are_those_of_the_formula(world):
    """Of the tensors with heads: masks and the words of the checks are not counted."""
    heads, groups, length, size, value_size = 8, 4, 12 * world, 6, 5
    sent = []

    def counting(name):
        function = getattr(dist, name)

        def counted(received, given, *arguments, **named):
            if isinstance(received, list):
                sent.append(given.numel() * given.element_size() * (world - 1))
            else:
                sizes = arguments[1]
                others = sum(one for rank, one in enumerate(sizes) if rank != dist.get_rank())
                sent.append(others * given.element_size())
            return function(received, given, *arguments, **named)

        return counted

    class Counted:
        """torch.distributed as collectives.py sees it."""

        all_gather, all_to_all_single = staticmethod(counting("all_gather")), staticmethod(counting("all_to_all_single"))

        def __getattr__(self, name):
            return getattr(dist, name)

    before, collectives.dist = collectives.dist, Counted()
    try:
        for key_heads in (groups, 1):
            for method in METHODS:
                query, key, value = tensors(2, heads, key_heads, length, length, size, torch.float32)
                own = _shards([query, key, value[..., :value_size]])
                sent.clear()
                out = context_parallel.attention(*own, method=method, impl="blockwise")
                forward = sum(sent)
                sent.clear()
                out.sum().backward()
                common = {"ranks": world, "batch": 2, "heads": heads, "key_heads": key_heads, "length": length}
                common |= {"head_size": size, "value_size": value_size, "itemsize": 4}
                assert forward == context_parallel.bytes_sent(method, **common), (method, key_heads)
                assert sum(sent) == context_parallel.bytes_sent(method, **common, backward=True), (method, key_heads)
    finally:
        collectives.dist = before


@check(2, 3, 4)
def shards_are_put_together_again(world):
    for length in (23, 8, 3):
        for order in ("contiguous", "zigzag"):
            whole = torch.randn(2, length, 3, dtype=torch.float64)
            dist.broadcast(whole, 0)
            own = context_parallel.shard(whole, 1, order=order).clone().requires_grad_()
            assert torch.equal(own, whole[:, context_parallel.positions(length, order=order)])
            again = context_parallel.unshard(own, -2, order=order)
            assert torch.equal(again, whole)
            # Of a loss of rank r that weighs everything by r + 1, each number's share is the sum of these.
            (grad,) = torch.autograd.grad((again * whole).sum() * (dist.get_rank() + 1), own)
            _close(grad, own.detach() * sum(range(1, world + 1)))


@check(2, 3)
def states_of_content_schemes_are_local_and_sums_go_over_ranks(world):
    """As the page on long sequences says: of Shaw, Transformer-XL and the forgetting transformer."""
    length, heads = 23, 4
    for order in ("contiguous", "zigzag"):
        for method in METHODS:
            query, key, value = _inputs(length)
            gates = torch.randn(2, heads, length, dtype=torch.float64, requires_grad=True)
            shaw = ShawBias(heads, 6, max_distance=4).double()
            xl = TransformerXLBias(heads, 6, bidirectional=True).double()
            forgetting = ForgettingBias(heads)
            own = _shards([query, key, value, gates], order)
            stretch = own[0].shape[2]
            table = {"num_keys": 2 * length - stretch, "query_start": length - stretch}
            all_gates = context_parallel.unshard(own[3], 2, order=order)
            pairs = {
                "shaw": (shaw(query), shaw(own[0]), shaw.parameters()),
                "xl": (xl(query), xl(own[0], **table), xl.parameters()),
                "forgetting": (forgetting(gates), context_parallel.shard_form(forgetting(all_gates), order=order), ()),
            }
            for name, (whole, local, parameters) in pairs.items():
                shared = [parameter for parameter in parameters if parameter is not getattr(xl, "pos_bias_u", None)]
                want = attention(query, key, value, whole, causal=True)
                got = context_parallel.attention(*own[:3], local, method=method, order=order, causal=True)
                _close(got, context_parallel.shard(want, 2, order=order))
                leaves = [query, gates] if name == "forgetting" else [query]
                mine = [own[0], own[3]] if name == "forgetting" else [own[0]]
                weights = torch.sin(torch.arange(want.numel(), dtype=torch.float64)).view(want.shape)
                wanted = torch.autograd.grad((want * weights).sum(), [*leaves, *shared])
                weights = context_parallel.shard(weights, 2, order=order)
                found = torch.autograd.grad((got * weights).sum(), [*mine, *shared])
                for one, other in zip(found[: len(mine)], wanted, strict=False):
                    _close(one, context_parallel.shard(other, 2, order=order))
                for one, other in zip(found[len(mine) :], wanted[len(mine) :], strict=True):
                    _close(together(one, None, 0), other)


class _Model(nn.Module):
    """A language model of one layer, for a whole sequence or a stretch of it."""

    def __init__(self, heads=4, size=6, vocabulary=11):
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, heads * size)
        self.projections = nn.Linear(heads * size, 3 * heads * size)
        self.bias = FIRE(heads, width=6, init_L=4.5, init_c=0.5)
        self.head = nn.Linear(heads * size, vocabulary)

    def forward(self, tokens, attend):
        states = self.projections(self.embedding(tokens)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, D)
        out = attend(*states.permute(2, 0, 3, 1, 4), self.bias, causal=True)
        return self.head(out.transpose(1, 2).flatten(2)).clone()  # FSDP warns of views


@check(2, 4)
def ddp_reduces_the_gradients_of_a_model_and_its_bias(world):
    _trains(world, DistributedDataParallel, lambda grad: grad)


@check(2)
def fsdp_reduces_the_gradients_of_a_model_and_its_bias(world):
    from torch.distributed.fsdp import fully_shard

    def wrap(model):
        return fully_shard(model, mesh=init_device_mesh("cpu", (world,)))

    _trains(world, wrap, lambda grad: grad.full_tensor())


def _trains(world, wrap, whole_gradient):
    """Pairs of ranks share a sequence, each pair its own, and all ranks reduce. That averages, so the loss is multiplied."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "cp"))
    torch.manual_seed(0)
    tokens = torch.randint(11, (world // 2, 24))
    targets = torch.randint(11, (world // 2, 24))
    for method in METHODS:
        torch.manual_seed(1)
        single, model = _Model().double(), _Model().double()
        model.load_state_dict(single.state_dict())
        cross_entropy(single(tokens, attention).flatten(0, 1), targets.flatten()).backward()
        model = wrap(model)
        text = mesh["dp"].get_local_rank()
        own = [tensor[text : text + 1] for tensor in (tokens, targets)]
        own = [context_parallel.shard(tensor, 1, mesh["cp"], "zigzag") for tensor in own]
        logits = model(own[0], partial(context_parallel.attention, group=mesh["cp"], method=method, order="zigzag"))
        loss = cross_entropy(logits.flatten(0, 1), own[1].flatten(), reduction="sum") * world / targets.numel()
        loss.backward()
        wanted = dict(single.named_parameters())
        for name, parameter in model.named_parameters():
            want = wanted[name.removeprefix("module.")].grad
            assert (want is None) == (parameter.grad is None), name
            if want is not None:
                _close(whole_gradient(parameter.grad), want)
