"""The cache of schemes: it never returns a stale form, its size is bounded, and few operators are left in a call."""

import copy
import pickle
from tempfile import NamedTemporaryFile
from threading import Thread

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrize, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from falloff import BAM, FIRE, TISA, ALiBi, KerpleLog, KerplePower, PerOffsetBias, Sandwich, T5Bias, attention, cache
from falloff.schemes import cached

MAKERS = {
    "t5": lambda: T5Bias(4),
    "per-offset": lambda: PerOffsetBias(4, 20),
    "alibi": lambda: ALiBi(4),
    "alibi, learned": lambda: ALiBi(4, learned=True),
    "kerple-log": lambda: KerpleLog(4),
    "kerple-power": lambda: KerplePower(4),
    "sandwich": lambda: Sandwich(4),
    "tisa": lambda: TISA(4),
    "bam": lambda: BAM(4),
    "fire": lambda: FIRE(4),
    "fire beyond L": lambda: FIRE(4, init_L=8),
}
LEARNED = [name for name in MAKERS if name not in ("alibi", "sandwich")]
each_scheme = pytest.mark.parametrize("name", MAKERS)
each_learned = pytest.mark.parametrize("name", LEARNED)


def bias(scheme, num_queries=3, num_keys=40):
    return scheme(num_queries, num_keys).dense(num_queries, num_keys)


def check_fresh(scheme, caches=None):
    """Two calls of a scheme return what its definition gives now; `caches`: whether both return the same tensors."""
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(bias(scheme), scheme.dense(3, 40), rtol=1e-5, atol=1e-6)
        if caches is not None:
            assert (scheme(3, 40).tensors[0] is scheme(3, 40).tensors[0]) == caches


def new_values(tensor):
    return torch.rand_like(tensor) + 0.05


def new_state(scheme):
    return {name: new_values(tensor) for name, tensor in scheme.state_dict().items()}


def step(optimizer, **settings):
    def change(scheme):
        for parameter in scheme.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer(scheme.parameters(), lr=0.1, **settings).step()

    return change


def for_each(write):
    def change(scheme):
        with torch.no_grad():
            for parameter in scheme.parameters():
                write(parameter)

    return change


def replace_data(parameter):
    parameter.data = new_values(parameter)


def replace_parameters(scheme):
    for name, parameter in list(scheme.named_parameters()):
        module, _, last = name.rpartition(".")
        setattr(scheme.get_submodule(module), last, nn.Parameter(new_values(parameter)))


def move_to_bfloat16(scheme):
    for_each(replace_data)(scheme)
    scheme.to(torch.bfloat16)


def write_from_outside(scheme):
    """Write to the memory of parameters as another process does, which shares it."""
    files = [NamedTemporaryFile() for _ in scheme.parameters()]  # noqa: SIM115
    for file, parameter in zip(files, scheme.parameters(), strict=True):
        file.write(parameter.detach().numpy().tobytes())
        file.flush()
        parameter.data = torch.from_file(file.name, shared=True, size=parameter.numel()).view_as(parameter)
    check_fresh(scheme, caches=True)
    for file, parameter in zip(files, scheme.parameters(), strict=True):
        file.seek(0)
        file.write(new_values(parameter).detach().numpy().tobytes())
        file.close()


CHANGES = {
    "sgd": step(torch.optim.SGD),
    "foreach": step(torch.optim.Adam, foreach=True),
    "fused": step(torch.optim.Adam, fused=True),
    "copy_": for_each(lambda parameter: parameter.copy_(new_values(parameter))),
    ".data": for_each(lambda parameter: parameter.data.copy_(new_values(parameter))),
    "a view": for_each(lambda parameter: parameter.detach().view(-1)[:1].add_(1)),
    "numpy": for_each(lambda parameter: parameter.detach().numpy().fill(0.3)),
    "new .data": for_each(replace_data),
    "another process": write_from_outside,
    "new parameters": replace_parameters,
    "bfloat16": move_to_bfloat16,
    "load": lambda scheme: scheme.load_state_dict(new_state(scheme)),
    "load, assign": lambda scheme: scheme.load_state_dict(new_state(scheme), assign=True),
    "vector": lambda scheme: vector_to_parameters(
        new_values(parameters_to_vector(scheme.parameters())), scheme.parameters()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@each_learned
def test_a_change_of_parameters_is_seen(name, change):
    scheme = MAKERS[name]()
    check_fresh(scheme, caches=True)
    with torch.no_grad():
        before = bias(scheme)
        with torch.enable_grad():
            CHANGES[change](scheme)
        check_fresh(scheme, caches=True)
        assert not torch.allclose(bias(scheme).to(before.dtype), before)


class TensorSubclass(torch.Tensor):
    """Like DTensor and quantized weights: what `torch.equal` returns for them is not known."""


class Tripled(nn.Module):
    def forward(self, x):
        return 3 * x


def test_a_replaced_parameter_or_layer_is_seen():
    with torch.no_grad():
        scheme = T5Bias(4)
        before = bias(scheme)
        parametrize.register_parametrization(scheme, "weight", Tripled())
        torch.testing.assert_close(bias(scheme), 3 * before)
        scheme = T5Bias(4)
        scheme.weight = nn.Parameter(scheme.weight.as_subclass(TensorSubclass))
        check_fresh(scheme, caches=False)
        for scheme in (FIRE(4), FIRE(4, init_L=8)):
            before = bias(scheme)
            handle = scheme.mlp[2].register_forward_hook(lambda module, arguments, out: 2 * out)
            torch.testing.assert_close(bias(scheme), 2 * before)
            handle.remove()
            torch.testing.assert_close(bias(scheme), before)
            scheme.mlp[2] = nn.Sequential(scheme.mlp[2], Tripled())  # as LoRA wraps a layer
            torch.testing.assert_close(bias(scheme), 3 * before)
            scheme.mlp[2][0].weight.mul_(2)
            scheme.mlp[2][0].bias.mul_(2)
            torch.testing.assert_close(bias(scheme), 6 * before)


def test_a_change_of_settings_buffers_and_dtype_is_seen():
    for scheme, name, value in (
        (ALiBi(4), "num_heads", 2),
        (Sandwich(4), "dim", 64),
        (FIRE(4), "init_L", torch.tensor([8.0])),
    ):
        check_fresh(scheme, caches=True)
        setattr(scheme, name, value)
        check_fresh(scheme, caches=True)
    scheme.init_L.fill_(2.0)
    check_fresh(scheme, caches=True)
    scheme = TISA(4).requires_grad_(False)
    single = scheme(3, 40, dtype=torch.float32)
    assert scheme.double()(3, 40, dtype=torch.float32) is not single  # equal parameters, but sums in double precision
    out_of_range = KerplePower(4).requires_grad_(False)
    out_of_range.bias_a.fill_(-1)
    for scheme in (out_of_range, TISA(4).requires_grad_(False), Sandwich(4), ALiBi(4)):
        for dtype in (torch.float32, torch.float64, torch.float32):
            scheme.to(dtype)
            got, expected = scheme(3, 40, dtype=dtype).dense(3, 40), scheme.dense(3, 40, dtype=dtype)
            torch.testing.assert_close(got, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda scheme: pickle.loads(pickle.dumps(scheme))])
@each_scheme
def test_copies_do_not_contain_the_cache(name, duplicate):
    scheme = MAKERS[name]()
    check_fresh(scheme, caches=True)
    other = duplicate(scheme)
    assert set(cached._CACHES) <= vars(scheme).keys()
    assert vars(other).keys().isdisjoint(cached._CACHES)
    assert scheme.state_dict().keys().isdisjoint(cached._CACHES)
    check_fresh(other, caches=True)


class Scaled(T5Bias):
    factor = 1.0

    def at(self, offsets):
        return super().at(offsets) * self.factor


def test_a_subclass_does_not_use_the_cache():
    scheme = Scaled(4)
    check_fresh(scheme, caches=False)
    Scaled.factor = 3  # no scheme can notice this change
    check_fresh(scheme, caches=False)


def test_a_method_that_is_set_on_a_scheme_is_called():
    scheme = T5Bias(4)
    check_fresh(scheme, caches=True)
    scheme.at = lambda offsets: torch.ones(4, len(offsets))
    check_fresh(scheme, caches=False)


@each_scheme
def test_a_form_that_a_caller_has_written_to_is_not_returned_again(name):
    scheme = MAKERS[name]().requires_grad_(False)
    check_fresh(scheme, caches=True)
    for tensor in scheme(3, 40).tensors:
        tensor.add_(1)
        check_fresh(scheme, caches=True)
    for tensor in scheme(3, 40).tensors:
        tensor.requires_grad_()
    assert not any(tensor.requires_grad for tensor in scheme(3, 40).tensors)
    assert scheme.form(3, 40).tensors[0] is not scheme.form(3, 40).tensors[0]


@each_scheme
def test_training_can_use_what_was_cached_in_inference_mode(name):
    scheme = MAKERS[name]()
    query, key = torch.randn(1, 4, 3, 8, requires_grad=True), torch.randn(1, 4, 40, 8)
    for learns in (True, False):
        scheme.requires_grad_(learns)
        with torch.inference_mode():
            bias(scheme)
        attention(query, key, key, scheme).sum().backward()  # saves the form for the backward
        assert all((parameter.grad is not None) for parameter in scheme.parameters())


@each_learned
def test_gradients_arrive_after_a_form_was_cached(name):
    scheme = MAKERS[name]()
    check_fresh(scheme, caches=True)
    got, expected = (
        torch.autograd.grad(made.sin().sum(), list(scheme.parameters())) for made in (bias(scheme), scheme.dense(3, 40))
    )
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch uses it itself
@each_learned
def test_transforms_take_the_parameters_that_they_are_given(name):
    scheme = MAKERS[name]()
    check_fresh(scheme, caches=True)
    others = [{name: new_values(parameter) for name, parameter in scheme.named_parameters()} for _ in range(2)]
    stacked = {name: torch.stack([parameters[name] for parameters in others]) for name in others[0]}

    def call(parameters, dense=False):
        made = torch.func.functional_call(scheme, parameters, (3, 40), {"dense": dense})
        return made if dense else made.dense(3, 40)

    with torch.no_grad():
        expected = torch.stack([call(parameters, dense=True) for parameters in others])
        for got in (torch.stack([call(parameters) for parameters in others]), torch.vmap(call)(stacked)):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        got, expected = (torch.func.jvp(lambda p, d=d: call(p, d), (others[0],), (others[1],)) for d in (False, True))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert expected[1].abs().max() > 0
        call(others[0])  # caches a form without tangents
        with torch.autograd.forward_ad.dual_level():
            dual = {n: torch.autograd.forward_ad.make_dual(others[0][n], others[1][n]) for n in others[0]}
            tangent = torch.autograd.forward_ad.unpack_dual(call(dual)).tangent
        torch.testing.assert_close(tangent, expected[1], rtol=1e-4, atol=1e-5)
    check_fresh(scheme, caches=True)


@pytest.mark.parametrize("name", ["t5", "tisa"])
def test_parameters_whose_memory_was_freed_are_not_compared(name):
    """FSDP frees it between uses. Computing with it raises torch's error; comparing would crash."""
    scheme = MAKERS[name]()
    check_fresh(scheme, caches=True)
    next(scheme.parameters()).untyped_storage().resize_(0)
    with torch.no_grad(), pytest.raises(RuntimeError, match="out of bounds for storage of size 0"):
        scheme(3, 40)


def test_threads_get_correct_forms():
    schemes = [T5Bias(4), FIRE(4), ALiBi(4)]
    failures = []

    def decode(scheme, first):
        try:
            for num_keys in range(first, first + 300):
                with torch.no_grad():
                    torch.testing.assert_close(bias(scheme, 1, num_keys), scheme.dense(1, num_keys), rtol=1e-5, atol=1e-6)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=decode, args=(scheme, first)) for scheme in schemes for first in (1, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_setting_that_is_changed_while_a_form_is_computed_is_seen():
    scheme = ALiBi(4)
    original = scheme._bias

    def interrupted(constants):
        values = original(constants)
        scheme.num_heads = 2
        return values

    vars(scheme)["_bias"] = interrupted
    scheme(3, 40)
    del vars(scheme)["_bias"]
    check_fresh(scheme, caches=True)


def test_the_size_of_the_cache_is_bounded():
    scheme = FIRE(4, init_L=64)
    with torch.no_grad():
        for num_keys in range(1, 2000, 37):
            bias(scheme, 20, num_keys)
            assert all(len(vars(scheme)[name].entries) <= cache.MOST_ENTRIES for name in cached._CACHES)
    scheme = PerOffsetBias(4, 2**20)
    with torch.no_grad():
        bias(scheme)
    assert "_form_cache" not in vars(scheme)  # the copies of its parameters would be too large
    scheme = ALiBi(64)
    for num_keys in (100_000, 50_000, 40_000):  # the first is too large for the cache
        scheme(1, num_keys)
        for name in cached._CACHES:
            assert sum(entry.size for entry in vars(scheme)[name].entries.values()) <= cache.MOST_NUMBERS


@each_scheme
def test_one_form_serves_many_steps_of_generation(name):
    scheme = MAKERS[name]()
    with torch.no_grad():
        assert len({id(scheme(1, num_keys).tensors[0]) for num_keys in range(129, 257)}) == 1


@pytest.mark.parametrize(
    "sizes", [(1, 7), (1, 128), (1, 129), (4, 9, 2), (3, 5, -20), (2, 6, 40), (16, 16), (17, 300), (0, 3)]
)
@pytest.mark.parametrize("text_start", [None, -3, torch.tensor([[0], [2]])])
@each_scheme
def test_cached_forms_are_those_of_the_definition(name, text_start, sizes):
    scheme = MAKERS[name]()
    if isinstance(text_start, torch.Tensor):
        text_start = text_start.expand(2, sizes[0])
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            form = scheme(*sizes, text_start=text_start, dtype=dtype)
            expected = scheme.dense(*sizes, text_start=text_start, dtype=dtype)
        assert all(tensor.dtype == dtype for tensor in form.tensors)
        torch.testing.assert_close(form.dense(*sizes).expand_as(expected), expected, rtol=1e-5, atol=1e-6)


class Operators(TorchDispatchMode):
    """Lists the operators that run, without those of falloff."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        if operator.namespace != "falloff":
            self.seen.append(operator.name())
        return operator(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (T5Bias, 6),
        (lambda heads: PerOffsetBias(heads, 100), 6),
        (ALiBi, 4),
        (Sandwich, 4),
        (KerpleLog, 11),  # 2 without gradients
        (KerplePower, 11),
        (FIRE, 25),
        (lambda heads: FIRE(heads, init_L=16), 32),
    ],
)
def test_a_call_runs_few_operators(make, most):
    """In training; without gradients after a change of parameters; and with a cached form. Constants are always cached."""
    scheme = make(8)
    query, key = torch.randn(1, 8, 1, 64), torch.randn(1, 8, 128, 64)
    attention(query, key, key, scheme, causal=True)
    with Operators() as learning:
        attention(query, key, key, scheme, causal=True)
    assert len(learning.seen) <= most, learning.seen
    with torch.no_grad():
        attention(query, key, key, scheme, causal=True)
        for_each(lambda parameter: parameter.mul_(1.1))(scheme)
        with Operators() as changed:
            attention(query, key, key, scheme, causal=True)
        with Operators() as same:
            attention(query, key, key, scheme, causal=True)
    compared = len(scheme._dependencies())
    assert len(changed.seen) <= most + 2 * compared, changed.seen  # each is compared and copied
    assert len(same.seen) <= compared + 1, same.seen  # a warp beyond L: a slice of its multipliers


@each_scheme
def test_a_position_that_is_no_int_is_refused_after_an_equal_one(name):
    scheme = MAKERS[name]()
    with torch.no_grad():
        scheme(1, 7, 1)
        with pytest.raises(ValueError, match="query_start: got True"):
            scheme(1, 7, True)


def test_sizes_that_cannot_be_compared_get_the_error_of_form(unchecked):
    scheme = ALiBi(2)
    scheme(5, 5)
    for start in (torch.zeros(2), [1]):
        with pytest.raises(ValueError, match="query_start: got"):
            scheme(5, 5, start)
