"""Every public entry of the library names the argument, what was got and what is expected. One table.

The command line has tables of its own: tests/cli and tests/lab.
"""

import math

import pytest
import torch

import falloff
from falloff import (
    FIRE,
    TISA,
    ALiBi,
    Band,
    KerpleLog,
    KerplePower,
    PerOffsetBias,
    ProfileMixture,
    Sandwich,
    Scheme,
    Strip,
    T5Bias,
    Warp,
    attention,
)

pytestmark = pytest.mark.usefixtures("unchecked")

Q, K = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8)


class WrongShape(Scheme):
    def at(self, offsets):
        return torch.zeros(3, 2, len(offsets))


class Dense(Scheme):
    """A scheme of a user's own that returns what it likes."""

    def __init__(self, built):
        super().__init__()
        self.built = built

    def form(self, *_, **__):
        return self.built

    dense = form


class NoTensor(Scheme):
    def at(self, offsets):
        return [0.0] * len(offsets)


def call(query=Q, key=K, value=None, bias=None, **settings):
    return lambda: attention(query, key, key if value is None else value, bias, **settings)


CASES = [
    # tensors
    (call(query=[[1.0]]), r"query: got list, expected a tensor of shape \(B, heads, length, D\)"),
    (call(query=torch.zeros(5, 8)), r"query: got shape \(5, 8\), expected four dimensions"),
    (call(query=Q.int()), r"query: got dtype torch.int32, expected float32, bfloat16, float16 or float64"),
    (call(query=torch.zeros(2, 4, 5, 300), key=torch.zeros(2, 4, 7, 300)), r"query: got head size 300, .* D of 1 .. 256"),
    (call(query=torch.zeros(2, 4, 5, 0), key=torch.zeros(2, 4, 7, 0)), r"query: got head size 0"),
    (call(key=torch.zeros(3, 2, 7, 8)), r"key: got shape \(3, 2, 7, 8\), expected \(B, G, M, D\) with B = 2 and D = 8"),
    (call(key=torch.zeros(2, 2, 7, 9)), r"key: got shape \(2, 2, 7, 9\), .* D = 8"),
    (call(key=torch.zeros(2, 3, 7, 8)), r"key: got 3 heads, expected a number of heads that divides the 4 heads of query"),
    (call(key=torch.zeros(2, 0, 7, 8)), r"key: got 0 heads"),
    (call(key=K.double()), r"key: got dtype torch.float64, expected query's dtype torch.float32"),
    (call(key=K.to("meta")), r"key: got device meta, expected query's device cpu"),
    (call(key=None), r"key: got NoneType, expected a tensor"),
    (call(value=torch.zeros(2, 2, 6, 8)), r"value: got shape \(2, 2, 6, 8\), expected .* the shape of key, \(2, 2, 7, 8\)"),
    (call(value=torch.zeros(2, 2, 7, 257)), r"value: got head size 257, expected a size of 1 .. 256"),
    (call(value=3), r"value: got int, expected a tensor"),
    (call(query=torch.zeros(2, 0, 5, 8), key=torch.zeros(2, 0, 7, 8)), r"query: got 0 heads, expected at least one"),
    (call(query=Q.to("meta"), key=K.to("meta")), r"query: got device meta"),
    # settings
    (call(causal=1), r"causal: got 1, expected True or False"),
    (call(scale="big"), r"scale: got 'big', expected a finite number or None"),
    (call(scale=math.nan), r"scale: got nan, expected a finite number or None"),
    (call(bias_scale=math.inf), r"bias_scale: got inf, expected a finite number"),
    (call(bias_scale=None), r"bias_scale: got None, expected a finite number"),
    (call(query_start=1.5), r"query_start: got 1.5, expected None or an int, the position of the first query"),
    (call(query_start=True), r"query_start: got True"),
    (call(query_start=10**30), r"query_start: got 10+, expected None or an int"),
    (call(window=10**30), r"window: got 10+, expected None or an int"),
    (call(window=0), r"window: got 0, expected None or an int of at least 1"),
    (call(window=2.0), r"window: got 2.0, expected None or an int"),
    (call(dropout_p=1.2), r"dropout_p: got 1.2, expected a probability from 0 to 1"),
    (call(sink=0.5), r"sink: got float, expected None or a floating point tensor of shape \(4,\) or \(2, 4, 5\) on cpu"),
    (call(sink=torch.zeros(3)), r"sink: got torch.float32 \(3,\) on cpu, expected"),
    (call(sink=torch.zeros(4, dtype=torch.int64)), r"sink: got torch.int64 \(4,\) on cpu, expected"),
    (call(dropout_p=-0.1), r"dropout_p: got -0.1"),
    (call(dropout_p=math.nan), r"dropout_p: got nan"),
    (call(return_lse="yes"), r"return_lse: got 'yes', expected True or False"),
    (call(impl="flash"), r"impl: got 'flash', expected one of 'auto', 'reference', 'cpu', 'triton', 'blockwise'"),
    (call(impl=None), r"impl: got None, expected one of"),
    # masks
    (call(key_mask=[True]), r"key_mask: got list, expected None or a bool tensor of shape \(2, 7\) on cpu"),
    (call(key_mask=torch.ones(2, 7)), r"key_mask: got torch.float32 \(2, 7\) on cpu, expected None or a bool tensor"),
    (call(key_mask=torch.zeros(2, 7)), r"key_mask: got torch.float32 .*: mask.bool\(\), or mask == 0"),
    (call(key_mask=torch.arange(7)[None]), r"key_mask: got torch.int64 with 2, expected 0 and 1 alone, .* mask.bool\(\)"),
    (call(key_mask=torch.ones(2, 1, 1, 7).bool()), r"key_mask: got torch.bool \(2, 1, 1, 7\) on cpu, .* \(2, 7\)"),
    (call(key_mask=torch.ones(7).bool()), r"key_mask: got torch.bool \(7,\) on cpu, .* \(2, 7\)"),
    (call(key_mask=torch.ones(2, 5).bool()), r"key_mask: got torch.bool \(2, 5\) on cpu, .* \(2, 7\)"),
    (
        call(document_ids=torch.zeros(2, 5).long()),
        r"document_ids: got 5 queries and 7 keys, expected as many",
    ),
    (call(key=torch.zeros(2, 2, 5, 8), document_ids=torch.zeros(2, 4).long()), r"document_ids: got torch.int64 \(2, 4\)"),
    (call(key=torch.zeros(2, 2, 5, 8), document_ids=torch.zeros(2, 5)), r"document_ids: got torch.float32"),
    (call(key=torch.zeros(2, 2, 5, 8), document_ids=torch.zeros(2, 5).cfloat()), r"document_ids: got torch.complex64"),
    (call(document_ids="a"), r"document_ids: got str, expected None or an integer tensor of shape \(2, 5\)"),
    (
        call(key=torch.zeros(2, 2, 5, 8), document_ids=torch.zeros(2, 5).long(), query_start=3),
        r"query_start: got 3, expected None or 0 where document_ids are given",
    ),
    # bias
    (
        call(bias=torch.zeros(4, 5, 7)),
        r"bias: got a tensor of shape \(4, 5, 7\), .*: nothing takes \(H, N, M\). A bias by offset is a Strip",
    ),
    (  # (B, N, H, D)
        lambda: attention(*[torch.zeros(2, 16, 8, 32)] * 3, ALiBi(8)),
        r"bias: got 8 heads, expected the 16 heads of query .*tensor.transpose\(1, 2\) turns \(B, N, H, D\) so",
    ),
    (
        lambda: attention(torch.zeros(2, 5, 8, 32), *[torch.zeros(2, 16, 8, 32)] * 2),
        r"key: got 16 heads, expected a number of heads that divides the 5 heads of query .*\(B, N, H, D\)",
    ),
    (call(bias="t5"), r"bias: got str, expected a scheme"),
    (call(bias=T5Bias), r"bias: got T5Bias, a class, expected a scheme such as"),
    (call(bias=ALiBi(8)), r"bias: got 8 heads, expected the 4 heads of query"),
    (call(bias=ALiBi(8), impl="reference"), r"bias: got 8 heads, expected the 4 heads of query"),
    (call(bias=T5Bias(4).to("meta")), r"bias: got device meta, expected query's device cpu"),
    (call(bias=ProfileMixture(4)), r"bias: got a ProfileMixture without states, expected profile_mixture\(state\)"),
    (
        call(bias=Band(torch.zeros(1, 4, 5, 3))),
        r"bias: got \(1, 4, 5, 3\), expected a band for batch size 2",
    ),
    (call(bias=Band(torch.zeros(2, 4, 7, 3))), r"bias: got \(2, 4, 7, 3\), expected a band .* 5 query rows"),
    (call(bias=FIRE(4, init_L=1).form(3, 3)), r"bias: got \(3,\), expected a warp whose a has shape \(5,\) or \(2, 5\)"),
    (call(bias=WrongShape()), r"WrongShape.at: got \(3, 2, 11\) for 11 offsets, expected .* \(num_heads, 11\)"),
    (call(bias=NoTensor()), r"NoTensor.at: got list for 11 offsets"),
    # what a scheme's own form() returns: at eed457e the kernels read beyond the end of it
    (call(bias=Dense(Band(torch.zeros(2, 4, 4, 3)))), r"bias: got \(2, 4, 4, 3\), expected a band .* 5 query rows"),
    (call(bias=Dense(FIRE(4, init_L=1).form(3, 3))), r"bias: got \(3,\), expected a warp whose a has shape \(5,\)"),
    (call(bias=Dense(Strip(torch.zeros(3, 4)))), r"bias: got 3 heads, expected the 4 heads of query"),
    (
        call(bias=Dense(Strip(torch.zeros(4, 4).to("meta")))),
        r"bias: got device meta from Dense.form",
    ),
    (call(bias=Dense(None)), r"bias: got NoneType from Dense.form, expected a form, such as a Strip"),
    (call(bias=Dense(torch.zeros(4, 5, 7))), r"bias: got Tensor from Dense.form, expected a form, such as a Strip"),
    (call(bias=Dense(None), impl="reference"), r"bias: got NoneType from Dense.dense, expected a tensor"),
    (call(bias=Dense(torch.zeros(4, 5, 8)), impl="reference"), r"bias: got \(4, 5, 8\) from Dense.dense, .*\(H, 5, 7\)"),
    (call(bias=Dense(torch.zeros(3, 4, 5, 7)), impl="reference"), r"bias: got \(3, 4, 5, 7\) from Dense.dense"),
    # forms
    (lambda: Strip(torch.zeros(3)), r"values: got \(3,\), expected shape \(H, K\) with K >= 1"),
    (lambda: Strip(torch.zeros(3, 0)), r"values: got \(3, 0\)"),
    (lambda: Strip(torch.zeros(3, 2).int()), r"values: got dtype torch.int32, expected a floating point dtype"),
    (lambda: Strip([[1.0]]), r"values: got list, expected a tensor"),
    (lambda: Strip(torch.zeros(3, 2), start=0.5), r"start: got 0.5, expected an int"),
    (lambda: Strip(torch.zeros(3, 2), start=2**63), r"start: got 9223372036854775808, expected an int"),
    (lambda: Strip(torch.zeros(3, 2)).dense(-1, 3), r"num_queries: got -1, expected an int of at least 0"),
    (
        lambda: Warp(torch.zeros(3), torch.zeros(2), *(torch.zeros(s, device="meta") for s in [(1,), (1, 2), (1, 2)])),
        r"knots: got device meta, expected g's device cpu",
    ),
    (lambda: Band(torch.zeros(2, 3, 4)), r"values: got \(2, 3, 4\), expected shape \(B, H, N, E\) with E >= 1"),
    (lambda: Band(torch.zeros(1, 1, 3, 2)).dense(4, 4), r"bias: got \(1, 1, 3, 2\), expected a band .* 4 query rows"),
    (
        lambda: Warp(*map(torch.zeros, [(0,), (2,), (1,), (1, 2), (1, 2)])),
        r"g: got \(0,\), expected shape \(K,\) with",
    ),
    (lambda: Warp(*map(torch.zeros, [(3,), (), (1,), (1, 2), (1, 2)])), r"a: got \(\), expected shape \(N,\) or \(B, N\)"),
    (lambda: Warp(*map(torch.zeros, [(3,), (2,), (2,), (1, 2), (1, 2)])), r"slope: got \(1, 2\), expected shape \(H, 3\)"),
    (lambda: Warp(*map(torch.zeros, [(3,), (2,), (1,), (1, 2), (2, 2)])), r"intercept: got \(2, 2\), .* shape of slope"),
    # schemes
    (lambda: T5Bias(0), r"num_heads: got 0, expected an int of at least 1"),
    (lambda: T5Bias("8"), r"num_heads: got '8', expected an int of at least 1"),
    (lambda: T5Bias(True), r"num_heads: got True"),
    (lambda: T5Bias(4, num_buckets=1), r"num_buckets: got 1, expected an int of at least 2"),
    (lambda: T5Bias(4, num_buckets=7, bidirectional=True), r"num_buckets: got 7, expected an even number"),
    (lambda: T5Bias(4, num_buckets=2, bidirectional=True), r"num_buckets: got 2, expected an int of at least 4"),
    (lambda: T5Bias(4, max_distance=16), r"max_distance: got 16, expected an int of at least 17"),
    (lambda: T5Bias(4, bidirectional="no"), r"bidirectional: got 'no', expected True or False"),
    (lambda: T5Bias(4, std="a"), r"std: got 'a', expected a finite number of at least 0"),
    (lambda: PerOffsetBias(4, std=math.nan), r"std: got nan, expected a finite number of at least 0"),
    (lambda: T5Bias(4).bucket(torch.tensor([1.5])), r"offsets: got torch.float32, expected a tensor of integers"),
    (lambda: PerOffsetBias(4).bucket([1]), r"offsets: got list, expected a tensor of integers"),
    (lambda: T5Bias.from_book(4, n_b=4, dist_max=9), r"n_b: got 4, expected an odd number"),
    (lambda: T5Bias.from_book(4, n_b=3, dist_max=2), r"dist_max: got 2, expected an int of at least 3"),
    (lambda: falloff.t5_bucket(torch.zeros(3)), r"offsets: got torch.float32, expected a tensor of integers"),
    (lambda: falloff.t5_bucket(5), r"offsets: got int, expected a tensor of integers"),
    (lambda: PerOffsetBias(4, max_distance=0), r"max_distance: got 0, expected an int of at least 1"),
    (lambda: ALiBi(2.0), r"num_heads: got 2.0"),
    (lambda: ALiBi(2, learned=1), r"learned: got 1, expected True or False"),
    (lambda: falloff.alibi_slopes(-1), r"num_heads: got -1"),
    (lambda: KerpleLog(0), r"num_heads: got 0"),
    (lambda: KerplePower(None), r"num_heads: got None"),
    (lambda: Sandwich(4, dim=7), r"dim: got 7, expected an even number"),
    (lambda: Sandwich(4, first=2), r"first: got 2, expected 0 or 1"),
    (lambda: FIRE(4, width=0), r"width: got 0, expected an int of at least 1"),
    (lambda: FIRE(4, init_L=-1), r"init_L: got -1, expected a finite number above 0"),
    (lambda: FIRE(4, init_c=math.nan), r"init_c: got nan, expected a finite number above 0"),
    (lambda: FIRE(4, init_L=math.inf), r"init_L: got inf, expected a finite number above 0"),
    (
        lambda: FIRE(4).dense(4, 4, text_start=torch.zeros(3).long()),
        r"text_start: got shape \(3,\), expected an int or",
    ),
    (lambda: FIRE(4, init_L=1).form(4, 4, text_start=0.5), r"text_start: got 0.5, expected an int or a tensor of shape"),
    (lambda: TISA(4, kernels=0), r"kernels: got 0, expected an int of at least 1"),
    (lambda: ProfileMixture(4, extent=0), r"extent: got 0, expected an int of at least 1"),
    (lambda: ProfileMixture(4)(torch.zeros(1, 4, 3, 5)), r"state: got shape \(1, 4, 3, 5\), expected \(B, 4, N, 16\)"),
    (lambda: ProfileMixture(4)(torch.zeros(1, 4, 3, 16).int()), r"state: got torch.int32, expected a floating point"),
    (lambda: ProfileMixture(4).form(3, 3), r"bias: got a ProfileMixture without states"),
    (
        lambda: ProfileMixture(4).dense(5, 5, state=torch.zeros(1, 4, 3, 16)),
        r"bias: got \(1, 4, 3, 16\), expected states for batch size 1 and 5 query rows",
    ),
    (lambda: ProfileMixture(4).form(3, -2, state=torch.zeros(1, 4, 3, 16)), r"num_keys: got -2"),
    (lambda: ALiBi(4).form(-1, 3), r"num_queries: got -1, expected an int of at least 0"),
    (lambda: FIRE(4).dense(3, 2.5), r"num_keys: got 2.5, expected an int of at least 0"),
    (lambda: ALiBi(4).dense(3, 3, query_start="0"), r"query_start: got '0', expected None or an int"),
]


@pytest.mark.parametrize(("mistake", "message"), CASES, ids=[message[:40] for _, message in CASES])
def test_message_names_argument_value_and_expectation(mistake, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        mistake()


def test_a_scheme_without_at_says_what_to_write():
    class Forgotten(Scheme):
        pass

    with pytest.raises(NotImplementedError, match=r"Forgotten must define at\(offsets\)"):
        attention(Q, K, K, Forgotten())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"attn_mask": None}, r"unexpected keyword argument 'attn_mask'; falloff's word is key_mask for padding, causal"),
        ({"is_causal": True}, r"'is_causal'; falloff's word is causal$"),
        ({"dropout": 0.1}, r"'dropout'; falloff's word is dropout_p$"),
        ({"enable_gqa": True}, r"'enable_gqa'; falloff's word is nothing: key and value may have fewer heads than query"),
        ({"what": 1, "softmax_scale": 1.0}, r"'softmax_scale'; falloff's word is scale"),
        ({"what": 1}, r"attention\(\) got an unexpected keyword argument 'what'$"),
    ],
)
def test_words_of_other_attention_functions_are_answered_with_falloffs(words, message):
    with pytest.raises(TypeError, match=message):
        attention(Q, K, K, **words)
